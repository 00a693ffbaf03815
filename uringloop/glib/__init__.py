"""uringloop inside a GLib main loop: GTK, GStreamer, D-Bus and asyncio in one thread.

    loop = uringloop.glib.new_event_loop()
    GLib.MainLoop().run()      # or Gtk.Application.run(), or loop.run_forever(): any of them drives both

Needs PyGObject (pip install PyGObject, or Debian's python3-gi) from the first call on; the core does not.
docs/glib.md lists what works under which main loop.
"""

from .loop import GLibLoop
from .native import Source
from .ways_in import attach, new_event_loop, run

__all__ = ["GLibLoop", "Source", "attach", "new_event_loop", "run"]


def __dir__() -> list[str]:
    """Without the modules of this folder."""
    return sorted({*(name for name in globals() if name.startswith("_")), *__all__})


def _seen_by_analysis() -> None:
    """Never called: the imports of .native, which is compiled; for tools that freeze programs.  See ._frozen."""
    import traceback  # noqa: F401

    from gi.repository import GLib  # noqa: F401

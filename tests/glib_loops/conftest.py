"""Loops inside GLib's default main context; skipped where there is no PyGObject."""

import pytest

try:
    from gi.repository import GLib
except ImportError:
    GLib = None


@pytest.fixture(autouse=True, scope="session")
def _glib_is_warm():
    """The fds of the default context, and those with which PyGObject gets signals, stay open after their first use."""
    if GLib is None:
        pytest.skip("PyGObject is not installed for this Python: pip install PyGObject, or python3-gi")
    main_loop = GLib.MainLoop()
    GLib.idle_add(main_loop.quit)
    main_loop.run()


@pytest.fixture
def new_glib_loop(monitor, _glib_is_warm):
    """A function that makes loops on this test's monitor; they are closed afterwards."""
    import uringloop.glib

    loops = []

    def new(main_context=None, **kwargs):
        loops.append(uringloop.glib.new_event_loop(main_context, fdmon=monitor, **kwargs))
        return loops[-1]

    yield new
    for loop in loops:
        loop.close()


@pytest.fixture
def glib_loop(new_glib_loop):
    return new_glib_loop()


@pytest.fixture
def main_loop():
    """A GLib.MainLoop that is quit after ten seconds, which fails the test."""
    made = GLib.MainLoop()
    late = []

    def give_up():
        late.append(1)
        made.quit()
        return True

    source = GLib.timeout_add(10_000, give_up)
    yield made
    GLib.source_remove(source)
    assert not late, "the main loop was not quit in time"

"""What blocks a loop is named inside GLib, too."""

import pytest
from support.helpers import run_script

pytest.importorskip("gi", reason="PyGObject is not installed for this Python")


@pytest.mark.parametrize("driven_by", ["the loop", "GLib"])
def test_a_stall_is_named(monitor, driven_by):
    run_script(
        f"""
        import uringloop, uringloop.glib
        from gi.repository import GLib

        def blocks():
            time.sleep(0.5)

        loop = uringloop.glib.new_event_loop(fdmon=MONITOR)
        main_loop = GLib.MainLoop()
        end = loop.stop if {driven_by!r} == "the loop" else main_loop.quit
        with uringloop.watch_stalls(loop, limit_s=0.05, on_stall=lambda stall: None) as watch:
            loop.call_soon(blocks)
            loop.call_later(0.001, end)
            loop.run_forever() if {driven_by!r} == "the loop" else main_loop.run()
        (stall,) = watch.stalls
        assert stall.name == "blocks"
        assert [one.function for one in stall.frames] == ["blocks"]
        assert stall.is_over
        loop.close()
        """,
        monitor,
    )

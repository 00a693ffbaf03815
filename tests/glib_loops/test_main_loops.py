"""GLib.MainLoop or loop.run_forever() runs the loop, and one inside the other."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading

import pytest

pytest.importorskip("gi", reason="PyGObject is not installed for this Python")
from gi.repository import GLib

import uringloop
import uringloop.glib

from .common import echo_once


def test_a_glib_main_loop_runs_the_loop(glib_loop, main_loop):
    async def main():
        assert asyncio.get_running_loop() is glib_loop
        answer = await echo_once(b"x" * 100_000)
        main_loop.quit()
        return len(answer)

    task = glib_loop.create_task(main())
    main_loop.run()
    assert task.result() == 100_000
    assert asyncio._get_running_loop() is None
    assert not glib_loop.is_running()
    glib_loop.run_until_complete(glib_loop.shutdown_default_executor())


def test_run_until_complete_runs_glibs_sources(glib_loop):
    ticks = []
    source = GLib.timeout_add(1, lambda: ticks.append(asyncio.get_running_loop()) or True)
    try:
        answer = glib_loop.run_until_complete(echo_once(b"abc"))
        while len(ticks) < 3:
            glib_loop.run_until_complete(asyncio.sleep(0.002))
    finally:
        GLib.source_remove(source)
    assert answer == b"abc"
    assert set(ticks) == {glib_loop}
    glib_loop.run_until_complete(glib_loop.shutdown_default_executor())


def test_run_makes_a_loop_of_its_own(monitor):
    async def main():
        await asyncio.sleep(0)
        return asyncio.get_running_loop().fdmon

    assert uringloop.glib.run(main(), fdmon=monitor) == monitor


def test_callbacks_of_glib_use_asyncio_and_the_reverse(glib_loop, main_loop):
    order = []

    def from_glib():
        order.append("idle")
        glib_loop.call_soon(from_asyncio)
        return False

    def from_asyncio():
        order.append("call_soon")
        GLib.timeout_add(1, last)

    def last():
        order.append("timeout")
        main_loop.quit()
        return False

    GLib.idle_add(from_glib)
    main_loop.run()
    assert order == ["idle", "call_soon", "timeout"]


def test_another_thread_wakes_glib(glib_loop, main_loop):
    thread = threading.Thread(target=glib_loop.call_soon_threadsafe, args=(main_loop.quit,))
    GLib.idle_add(thread.start)
    main_loop.run()
    thread.join()


def test_a_modal_main_loop_in_a_task_keeps_asyncio_running(glib_loop, main_loop):
    seen = []

    async def other():
        await asyncio.sleep(0.01)
        seen.append(asyncio.current_task() is other_task)
        main_loop.quit()

    async def dialog():
        nonlocal other_task
        other_task = asyncio.create_task(other())
        before = asyncio.current_task()
        main_loop.run()
        assert asyncio.current_task() is before
        await other_task
        return "closed"

    other_task = None
    assert glib_loop.run_until_complete(dialog()) == "closed"
    assert seen == [True]


def test_run_until_complete_in_a_callback_of_glib(glib_loop, main_loop):
    results = []

    def from_glib():
        results.append(glib_loop.run_until_complete(asyncio.sleep(0.001, "done")))
        main_loop.quit()
        return False

    GLib.idle_add(from_glib)
    main_loop.run()
    assert results == ["done"]


def test_stop_from_a_callback_of_glib_ends_run_forever(glib_loop):
    GLib.idle_add(glib_loop.stop)
    glib_loop.run_forever()
    assert not glib_loop.is_running()


def test_stop_while_glib_is_outer_does_not_make_it_spin(glib_loop, main_loop):
    glib_loop.call_soon(glib_loop.stop)
    GLib.timeout_add(50, main_loop.quit)
    n_before = glib_loop.statistics()["turns"]
    main_loop.run()
    assert glib_loop.statistics()["turns"] - n_before < 20


def test_an_idle_main_loop_makes_no_turns(glib_loop, main_loop):
    keep = glib_loop.call_later(3600, lambda: None)
    GLib.timeout_add(20, main_loop.quit)
    main_loop.run()
    n_turns, n_syscalls = (glib_loop.statistics()[name] for name in ("turns", "syscalls"))
    GLib.timeout_add(100, main_loop.quit)
    main_loop.run()
    keep.cancel()
    assert glib_loop.statistics()["turns"] == n_turns
    assert glib_loop.statistics()["syscalls"] == n_syscalls


def test_data_written_before_quit_is_sent(glib_loop, main_loop):
    """Although the main loop runs no further iteration."""
    near, far = socket.socketpair()
    far.settimeout(10)

    async def main():
        _, writer = await asyncio.open_connection(sock=near)
        writer.write(b"bye")
        writer.close()
        await asyncio.sleep(0)
        glib_loop.call_soon(main_loop.quit)

    task = glib_loop.create_task(main())
    main_loop.run()
    assert task.done()
    assert far.recv(10) == b"bye"
    assert far.recv(10) == b""
    far.close()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_ends_run_forever_and_the_loop_stays_usable(glib_loop, error):
    def raises():
        raise error(3)

    glib_loop.call_soon(raises)
    with pytest.raises(error):
        glib_loop.run_forever()
    assert glib_loop.run_until_complete(asyncio.sleep(0, 5)) == 5


def test_a_keyboard_interrupt_ends_a_main_loop(glib_loop, main_loop):
    def raises():
        raise KeyboardInterrupt

    glib_loop.call_soon(raises)
    with pytest.raises(KeyboardInterrupt):
        main_loop.run()


def test_system_exit_under_a_main_loop_ends_the_process(monitor):
    script = f"""
        import sys, uringloop.glib
        from gi.repository import GLib
        loop = uringloop.glib.new_event_loop(fdmon={monitor!r})
        loop.call_soon(sys.exit, 5)
        GLib.MainLoop().run()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], timeout=20)
    assert done.returncode == 5


def test_signal_handlers_of_asyncio_work_under_a_main_loop(glib_loop, main_loop):
    glib_loop.add_signal_handler(signal.SIGUSR1, main_loop.quit)
    GLib.timeout_add(1, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    main_loop.run()
    assert glib_loop.remove_signal_handler(signal.SIGUSR1)


@pytest.mark.parametrize("when", ["before", "while"])
def test_signal_handlers_of_an_attached_ordinary_loop(monitor, main_loop, when):
    loop = uringloop.new_event_loop(fdmon=monitor)
    received = []

    def on_signal():
        received.append(asyncio.get_running_loop())
        main_loop.quit()

    if when == "before":
        loop.add_signal_handler(signal.SIGUSR1, on_signal)
        signal.raise_signal(signal.SIGUSR1)  # its byte is in asyncio's socket pair
    source = uringloop.glib.attach(loop)
    if when == "before":
        main_loop.run()
    else:
        loop.add_signal_handler(signal.SIGUSR1, on_signal)
    for _ in range(2):
        GLib.timeout_add(1, os.kill, os.getpid(), signal.SIGUSR1)
        main_loop.run()
    source.detach()
    received_under_glib = len(received)
    signal.raise_signal(signal.SIGUSR1)
    for _ in range(10):  # the handler is called once, and not again for the byte
        loop.run_until_complete(asyncio.sleep(0))
    assert received == [loop] * (received_under_glib + 1)
    assert received_under_glib == (3 if when == "before" else 2)
    assert loop.remove_signal_handler(signal.SIGUSR1)
    loop.close()

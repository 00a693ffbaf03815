"""Gio.Application.run(), which needs no display, as the outer loop; Gtk.Application is a subclass."""

import asyncio
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

pytest.importorskip("gi", reason="PyGObject is not installed for this Python")
from gi.repository import Gio


@pytest.fixture(autouse=True, scope="module")
def _gio_is_warm():
    """The first application makes a worker thread with an fd that stays open."""
    first = Gio.Application(flags=Gio.ApplicationFlags.NON_UNIQUE)
    first.connect("activate", lambda _: None)
    first.run(None)


@pytest.fixture
def application():
    made = Gio.Application(flags=Gio.ApplicationFlags.NON_UNIQUE)  # without a bus
    made.hold()  # no window does it
    return made


async def echo(reader, writer):
    while line := await reader.readline():
        writer.write(line)
    writer.close()


def test_tasks_timers_and_streams_run_and_quit_ends(application, glib_loop):
    seen = []

    async def main():
        assert asyncio.get_running_loop() is glib_loop
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            for _ in range(3):
                writer.write(b"line\n")
                seen.append(await reader.readline())
                await asyncio.sleep(0.001)
            writer.close()
            await writer.wait_closed()
        child = await asyncio.create_subprocess_exec("true")
        seen.append(await child.wait())
        seen.append(await asyncio.to_thread(threading.get_ident) != threading.get_ident())
        application.quit()

    def activate(_):
        tasks.append(glib_loop.create_task(main()))

    tasks = []
    application.connect("activate", activate)
    assert application.run(None) == 0
    assert tasks[0].done()
    tasks[0].result()
    assert seen == [b"line\n"] * 3 + [0, True]
    assert not glib_loop.is_running()
    glib_loop.run_until_complete(glib_loop.shutdown_default_executor())
    glib_loop.close()


def test_tasks_that_are_pending_at_quit_continue_in_run_until_complete(application, glib_loop):
    async def work():
        await asyncio.sleep(0.005)
        return "done"

    def activate(_):
        tasks.append(glib_loop.create_task(work()))
        glib_loop.call_soon(application.quit)

    tasks = []
    application.connect("activate", activate)
    application.run(None)
    assert not tasks[0].done()
    assert glib_loop.run_until_complete(tasks[0]) == "done"


def test_a_signal_handler_of_asyncio_quits(application, glib_loop):
    main_thread = threading.main_thread().ident
    glib_loop.add_signal_handler(signal.SIGUSR1, application.quit)
    timer = threading.Timer(0.02, signal.pthread_kill, (main_thread, signal.SIGUSR1))
    application.connect("activate", lambda _: timer.start())
    application.run(None)
    timer.join()
    glib_loop.remove_signal_handler(signal.SIGUSR1)


ENDS = {
    "ctrl-c": ("signal.raise_signal(signal.SIGINT)", 1, "KeyboardInterrupt"),
    "KeyboardInterrupt": ("raise KeyboardInterrupt", 1, "KeyboardInterrupt"),
    "SystemExit": ("sys.exit(5)", 5, ""),
    "ZeroDivisionError": ("1 / 0", 0, "ZeroDivisionError"),
}
RUNNERS = {
    "Gio.Application": (
        "application = Gio.Application(flags=Gio.ApplicationFlags.NON_UNIQUE); application.hold(); "
        "application.connect('activate', lambda _: None); quit, run = application.quit, application.run"
    ),
    "GLib.MainLoop": "main_loop = GLib.MainLoop(); quit, run = main_loop.quit, main_loop.run",
    "run_forever": "quit, run = loop.stop, loop.run_forever",
    "iteration": (
        "quit = done = lambda: steps.append(1)\nsteps = []\n"
        "def run():\n    while not steps:\n        GLib.MainContext.default().iteration(True)"
    ),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("runner", RUNNERS)
def test_exceptions_in_callbacks_of_each_kind_of_run(monitor, runner, end):
    """KeyboardInterrupt ends every kind of run, SystemExit the process; others are logged, and the run continues."""
    statement, code, text = ENDS[end]
    script = textwrap.dedent("""
        import signal, sys
        import uringloop.glib
        from gi.repository import Gio, GLib
        loop = uringloop.glib.new_event_loop(fdmon={monitor!r})
        {setup}
        def callback():
            {statement}
        loop.call_soon(callback)
        loop.call_later(0.02, lambda: quit())
        loop.call_later(15, sys.exit, 77)
        try:
            run()
        except KeyboardInterrupt:
            loop.close()
            print("KeyboardInterrupt", file=sys.stderr)
            sys.exit(1)
        loop.close()
    """)
    setup = RUNNERS[runner]
    script = script.format(monitor=monitor, setup=setup, statement=statement)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], timeout=30, capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    assert text in done.stderr
    assert "Fatal" not in done.stderr

"""Operations on a loop inside GLib at the wrong moment, from the wrong thread, or too often."""

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

pytest.importorskip("gi", reason="PyGObject is not installed for this Python")
from gi.repository import GLib
from support.helpers import until

import uringloop
import uringloop.glib


@pytest.fixture
def ordinary_loop(monitor):
    loop = uringloop.new_event_loop(fdmon=monitor)
    yield loop
    loop.close()


@pytest.fixture
def hooked(monkeypatch):
    """The exceptions that reached sys.excepthook."""
    errors = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: errors.append(error))
    return errors


def run_main_loop(milliseconds, main_context=None):
    main_loop = GLib.MainLoop(main_context)
    source = GLib.timeout_source_new(milliseconds)
    source.set_callback(lambda *_: main_loop.quit())
    source.attach(main_context or GLib.MainContext.default())
    main_loop.run()
    source.destroy()


# Attaching, detaching and closing


def test_a_source_that_is_dropped_releases_its_loop(ordinary_loop):
    source = uringloop.glib.attach(ordinary_loop)
    run_main_loop(1)
    del source
    gc.collect()
    assert ordinary_loop.run_until_complete(asyncio.sleep(0, 3)) == 3
    uringloop.glib.attach(ordinary_loop).detach()


def test_a_loop_may_be_detached_in_a_dispatch_and_attached_elsewhere(ordinary_loop):
    elsewhere = GLib.MainContext()
    sources, ran = [uringloop.glib.attach(ordinary_loop)], []

    def move():
        sources[0].detach()
        sources.append(uringloop.glib.attach(ordinary_loop, elsewhere))
        ordinary_loop.call_soon(ran.append, "same dispatch")

    ordinary_loop.call_soon(move)
    run_main_loop(5)
    ordinary_loop.call_soon(ran.append, "elsewhere")
    run_main_loop(5)
    assert ran in (
        ["same dispatch"],
        [],
    )  # on a busy machine the half millisecond of the dispatch may already be over
    run_main_loop(5, elsewhere)
    assert ran == ["same dispatch", "elsewhere"]
    assert not sources[0].is_attached
    assert sources[1].is_attached
    sources[1].detach()


def test_a_loop_that_is_detached_in_a_dispatch_runs_by_itself(ordinary_loop):
    source = uringloop.glib.attach(ordinary_loop)
    ordinary_loop.call_soon(source.detach)
    run_main_loop(5)
    assert not source.is_attached
    assert ordinary_loop.run_until_complete(asyncio.sleep(0.001, 7)) == 7


def test_a_task_may_attach_its_running_loop_for_a_modal_main_loop(ordinary_loop, main_loop):
    """The task on the stack is set aside: otherwise no other task could run."""

    async def main():
        other = asyncio.ensure_future(asyncio.sleep(0.01, 9))
        other.add_done_callback(lambda _: main_loop.quit())
        source = uringloop.glib.attach(ordinary_loop)
        main_loop.run()
        source.detach()
        return await other

    assert ordinary_loop.run_until_complete(main()) == 9


def test_a_source_that_glib_destroyed_is_detected(new_glib_loop):
    context = GLib.MainContext()
    loop = new_glib_loop(context)
    context.find_source_by_id(1).destroy()
    assert not loop._source.is_attached
    with pytest.raises(RuntimeError, match="destroyed"):
        loop.run_forever()


def test_a_source_that_is_destroyed_in_a_callback_ends_the_run(new_glib_loop):
    context = GLib.MainContext()
    loop = new_glib_loop(context)
    loop.call_soon(lambda: context.find_source_by_id(1).destroy())
    with pytest.raises(RuntimeError, match="destroyed"):
        loop.run_forever()


def test_a_callback_of_glib_may_close_the_loop(new_glib_loop):
    loop = new_glib_loop()
    loop.call_later(60, print)
    GLib.idle_add(loop.close)
    run_main_loop(20)
    assert loop.is_closed()


def test_closing_in_a_callback_of_asyncio_is_refused(glib_loop, main_loop):
    def close():
        with pytest.raises(RuntimeError, match="running"):
            glib_loop.close()
        main_loop.quit()

    glib_loop.call_soon(close)
    main_loop.run()
    assert glib_loop.run_until_complete(asyncio.sleep(0, 1)) == 1


def test_a_context_that_closes_itself_is_released_silently(monitor, hooked):
    context = uringloop.AioContext(monitor)
    source = uringloop.glib.attach(context)
    context.new_bottom_half(context.close).schedule()
    run_main_loop(5)
    assert not source.is_attached
    assert not hooked
    with pytest.raises(RuntimeError, match="closed"):
        uringloop.glib.attach(context)


def test_close_and_detach_are_refused_while_another_thread_runs_the_main_loop(new_glib_loop):
    context = GLib.MainContext()
    loop = new_glib_loop(context)
    main_loop = GLib.MainLoop(context)
    runs = threading.Event()
    loop.call_soon(runs.set)
    thread = threading.Thread(target=main_loop.run)
    thread.start()
    runs.wait(10)
    for method in (loop.close, loop._source.detach):
        with pytest.raises(RuntimeError, match="another thread"):
            method()
    assert not loop.is_closed()
    loop.call_soon_threadsafe(main_loop.quit)
    thread.join()
    loop.close()


RUN_BEFORE_THE_END = {
    "never": "",
    "before": "loop.run_until_complete(asyncio.sleep(0))",
    "still": """
        runs = threading.Event()
        loop.call_soon(runs.set)
        threading.Thread(target=GLib.MainLoop().run, daemon=True).start()
        assert runs.wait(10)
    """,
}


@pytest.mark.parametrize("when", RUN_BEFORE_THE_END)
def test_the_interpreter_ends_while_a_loop_is_attached(monitor, when):
    script = f"""
        import asyncio, threading
        import uringloop.glib
        from gi.repository import GLib
        loop = uringloop.glib.new_event_loop(fdmon={monitor!r})
        loop.call_later(60, print)
    """
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            textwrap.dedent(script) + textwrap.dedent(RUN_BEFORE_THE_END[when]),
        ],
        timeout=20,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_loops_work_in_both_processes_after_a_fork_in_a_callback(glib_loop, main_loop, monitor):
    codes = []

    def fork():
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                loop = uringloop.glib.new_event_loop(GLib.MainContext(), fdmon=monitor)
                code = loop.run_until_complete(asyncio.sleep(0.001, 42))
                loop.close()
            finally:
                os._exit(code)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        if len(codes) == 2:
            main_loop.quit()

    GLib.idle_add(fork)
    glib_loop.call_soon(fork)
    main_loop.run()
    assert codes == [42, 42]
    assert glib_loop.run_until_complete(asyncio.sleep(0.001, 5)) == 5


# Spinning, or sleeping forever


def test_stop_of_an_ordinary_loop_does_not_make_glib_spin(ordinary_loop):
    source = uringloop.glib.attach(ordinary_loop)
    ordinary_loop.call_soon(ordinary_loop.stop)
    n_before = ordinary_loop.statistics()["turns"]
    run_main_loop(50)
    assert ordinary_loop.statistics()["turns"] - n_before < 20
    source.detach()


def test_a_nested_run_that_was_stopped_does_not_make_glib_spin(glib_loop):
    async def stop():
        glib_loop.stop()
        await asyncio.sleep(0)

    glib_loop.call_soon(lambda: glib_loop.run_nested(stop()))
    run_main_loop(5)
    n_before = glib_loop.statistics()["turns"]
    run_main_loop(50)
    assert glib_loop.statistics()["turns"] - n_before < 20


def test_iterations_can_be_run_by_hand(glib_loop):
    context = GLib.MainContext.default()
    task = glib_loop.create_task(asyncio.sleep(0.005, 4))
    while not task.done():
        context.iteration(False)
    for _ in range(20):
        if not context.iteration(False):
            break
    else:
        raise AssertionError("always something to do")
    assert task.result() == 4


def test_twenty_nested_main_loops(glib_loop):
    depths = []

    def deeper():
        depths.append(len(depths) + 1)
        if len(depths) < 20:
            inner = GLib.MainLoop()
            glib_loop.call_soon(deeper)
            glib_loop.call_later(0.002 * (25 - len(depths)), inner.quit)
            inner.run()

    glib_loop.call_soon(deeper)
    run_main_loop(100)
    assert depths == list(range(1, 21))
    assert glib_loop.run_until_complete(asyncio.sleep(0, 1)) == 1


def test_eight_threads_schedule_at_once(glib_loop, main_loop):
    n_each, seen = 5_000, []

    def hit():
        seen.append(1)
        if len(seen) == 8 * n_each:
            main_loop.quit()

    def schedule():
        for _ in range(n_each):
            glib_loop.call_soon_threadsafe(hit)

    threads = [threading.Thread(target=schedule) for _ in range(8)]
    for thread in threads:
        thread.start()
    main_loop.run()
    for thread in threads:
        thread.join()
    assert len(seen) == 8 * n_each


def test_two_loops_may_share_a_main_context(new_glib_loop):
    first, second = new_glib_loop(), new_glib_loop()
    running = []

    async def record(loop):
        for _ in range(3):
            await asyncio.sleep(0.001)
            running.append(asyncio.get_running_loop() is loop)

    task = second.create_task(record(second))
    first.run_until_complete(record(first))
    second.run_until_complete(task)
    assert running == [True] * 6


def test_loops_in_two_threads_with_separate_main_contexts(monitor):
    answers = []

    def work():
        context = GLib.MainContext()
        context.push_thread_default()
        loop = uringloop.glib.new_event_loop(context, fdmon=monitor)
        main_loop = GLib.MainLoop(context)
        task = loop.create_task(asyncio.to_thread(lambda: 3))
        task.add_done_callback(lambda _: main_loop.quit())
        main_loop.run()
        answers.append(task.result())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        context.pop_thread_default()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [3, 3]


def test_more_ready_fds_than_the_completion_queue_holds(glib_loop, main_loop):
    """Each is reported once: a handler on the ready list is not watched until it was called."""
    fds = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(1800)]
    seen = []

    def on_readable(fd):
        os.eventfd_read(fd)
        seen.append(fd)
        if len(seen) == len(fds):
            main_loop.quit()

    for fd in fds:
        glib_loop.add_reader(fd, on_readable, fd)
    run_main_loop(5)
    for fd in fds:
        os.eventfd_write(fd, 1)
    main_loop.run()
    assert sorted(seen) == fds
    for fd in fds:
        glib_loop.remove_reader(fd)
        os.close(fd)


def test_reused_fd_numbers(glib_loop):
    """With the poll monitor GLib watches each fd itself."""
    for _ in range(5):
        reader, writer = os.pipe()
        seen = []

        def on_readable(reader=reader, seen=seen):
            seen.append(os.read(reader, 1))

        glib_loop.add_reader(reader, on_readable)
        run_main_loop(2)
        os.write(writer, b"x")
        run_main_loop(2)
        assert seen == [b"x"]
        glib_loop.remove_reader(reader)
        os.close(reader)
        os.close(writer)


@pytest.mark.slow
def test_a_thousand_connections(glib_loop, main_loop, monitor):
    count = 300 if monitor == "poll" else 1000  # there each change costs a pass over all fds
    ended = []

    async def echo(reader, writer):
        while data := await reader.read(100):
            writer.write(data)
        writer.close()
        await writer.wait_closed()
        ended.append(1)

    async def main():
        server = await asyncio.start_server(echo, "127.0.0.1", 0, backlog=1000)
        address = server.sockets[0].getsockname()
        pairs = [await asyncio.open_connection(*address) for _ in range(count)]
        for _ in range(2):
            for _, writer in pairs:
                writer.write(b"abc")
            for reader, _ in pairs:
                assert await reader.readexactly(3) == b"abc"
        for _, writer in pairs:
            writer.close()
        for _, writer in pairs:
            await writer.wait_closed()
        await until(lambda: len(ended) == len(pairs))
        server.close()
        await server.wait_closed()

    task = glib_loop.create_task(main())
    task.add_done_callback(lambda _: main_loop.quit())
    main_loop.run()
    task.result()


# Signals


def test_an_exception_in_a_signal_handler_is_printed_and_the_loop_stays(glib_loop, hooked):
    def handler(*_):
        raise ValueError("from a handler")

    old = signal.signal(signal.SIGUSR1, handler)
    main_thread = threading.main_thread().ident
    ran = []
    try:
        threading.Timer(0.02, signal.pthread_kill, (main_thread, signal.SIGUSR1)).start()
        glib_loop.call_later(0.05, ran.append, 1)
        run_main_loop(100)
    finally:
        signal.signal(signal.SIGUSR1, old)
    assert [str(error) for error in hooked] == ["from a handler"]
    assert ran == [1]
    assert glib_loop._source.is_attached


def test_a_sigint_handler_that_raises_keyboard_interrupt_does_not_make_glib_spin(glib_loop, hooked):
    """It ends no main loop: PyGObject handles SIGINT only if nothing else does."""
    calls = []

    def handler(*_):
        calls.append(1)
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGINT, handler)
    main_thread = threading.main_thread().ident
    try:
        threading.Timer(0.02, signal.pthread_kill, (main_thread, signal.SIGINT)).start()
        with contextlib.suppress(KeyboardInterrupt, SystemError):  # PyGObject may be interrupted itself
            run_main_loop(100)
    finally:
        signal.signal(signal.SIGINT, old)
    assert 1 <= len(calls) <= 3
    assert glib_loop._source.is_attached


def test_a_signal_wakes_a_sleeping_run_forever(glib_loop):
    old = signal.signal(signal.SIGUSR1, lambda *_: glib_loop.stop())
    main_thread = threading.main_thread().ident
    try:
        timer = threading.Timer(0.02, signal.pthread_kill, (main_thread, signal.SIGUSR1))
        timer.start()
        glib_loop.run_forever()
        timer.join()
    finally:
        signal.signal(signal.SIGUSR1, old)


# Raw requests


def test_raw_requests_work_under_a_main_loop(glib_loop, main_loop, monitor):
    if monitor != "io_uring":
        return  # no other monitor has any
    from uringloop.liburing import ffi, lib

    reader, writer = os.pipe()
    eventfd = os.eventfd(0)
    buffer, count = bytearray(4), bytearray(8)

    def later(function, *args):
        timer = threading.Timer(0.01, function, args)
        timer.start()
        return timer

    async def main():
        assert await glib_loop.add_sqe(lib.io_uring_prep_nop) == 0
        read = lib.io_uring_prep_read
        timer = later(os.write, writer, b"abcd")
        data = ffi.from_buffer(buffer)
        assert await glib_loop.add_sqe(read, reader, data, 4, 0, keepalive=buffer) == 4
        timer.join()
        data = ffi.from_buffer(count)
        for _ in range(3):  # a ring's registered eventfd would report it only once
            timer = later(os.eventfd_write, eventfd, 1)
            assert await glib_loop.add_sqe(read, eventfd, data, 8, 0, keepalive=count) == 8
            timer.join()

    task = glib_loop.create_task(main())
    task.add_done_callback(lambda _: main_loop.quit())
    main_loop.run()
    task.result()
    for fd in (reader, writer, eventfd):
        os.close(fd)

"""What runs the loop: GLib.MainLoop, loop.run_forever(), one inside the other."""

import asyncio
import os
import select
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


async def echo_once(payload):
    """A server, a client, a child, a thread: something of everything."""

    async def serve(reader, writer):
        writer.write(await reader.readexactly(len(payload)))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(payload)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    child = await asyncio.create_subprocess_exec("echo", "hello", stdout=subprocess.PIPE)
    output, _ = await child.communicate()
    assert output == b"hello\n"
    return await asyncio.to_thread(lambda: answer)


def test_glib_is_outer(glib_loop, main_loop):
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


def test_asyncio_is_outer_and_glib_goes_round(glib_loop):
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


def test_what_was_written_before_quit_has_gone_out(glib_loop, main_loop):
    """Although the loop has no further iteration."""
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
def test_an_interrupt_ends_run_forever_and_the_loop_goes_on(glib_loop, error):
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
def test_signal_handlers_of_an_ordinary_loop_that_is_attached(monitor, main_loop, when):
    loop = uringloop.new_event_loop(fdmon=monitor)
    received = []

    def come():
        received.append(asyncio.get_running_loop())
        main_loop.quit()

    if when == "before":
        loop.add_signal_handler(signal.SIGUSR1, come)
        signal.raise_signal(signal.SIGUSR1)  # its byte lies in asyncio's pipe
    source = uringloop.glib.attach(loop)
    if when == "before":
        main_loop.run()
    else:
        loop.add_signal_handler(signal.SIGUSR1, come)
    for _ in range(2):
        GLib.timeout_add(1, os.kill, os.getpid(), signal.SIGUSR1)
        main_loop.run()
    source.detach()
    received_under_glib = len(received)
    signal.raise_signal(signal.SIGUSR1)
    for _ in range(10):  # by the handler, and not by the byte as well
        loop.run_until_complete(asyncio.sleep(0))
    assert received == [loop] * (received_under_glib + 1)
    assert received_under_glib == (3 if when == "before" else 2)
    assert loop.remove_signal_handler(signal.SIGUSR1)
    loop.close()


# Priority and fairness


@pytest.mark.parametrize("name", ["PRIORITY_DEFAULT_IDLE", "PRIORITY_LOW", "PRIORITY_DEFAULT"])
def test_a_busy_asyncio_starves_no_lower_priority(glib_loop, main_loop, name):
    def again():
        if main_loop.is_running():
            glib_loop.call_soon(again)

    GLib.idle_add(main_loop.quit, priority=getattr(GLib, name))
    glib_loop.call_soon(again)
    main_loop.run()


@pytest.mark.parametrize("name", ["PRIORITY_DEFAULT_IDLE", "PRIORITY_DEFAULT"])
def test_fds_that_are_always_ready_starve_no_lower_priority(glib_loop, main_loop, name):
    """For GLib a source with a ready fd is ready, whatever its check says."""
    pairs = [socket.socketpair() for _ in range(3)]
    for near, far in pairs:
        far.send(b"x")
        glib_loop.add_reader(near, len, b"")  # never reads it
    for _ in range(3):
        GLib.idle_add(main_loop.quit, priority=getattr(GLib, name))
        main_loop.run()
    for near, far in pairs:
        assert glib_loop.remove_reader(near)
        near.close()
        far.close()


@pytest.mark.parametrize("name", ["PRIORITY_DEFAULT_IDLE", "PRIORITY_DEFAULT"])
def test_an_fd_that_hangs_up_for_ever_starves_no_lower_priority(glib_loop, main_loop, name):
    """poll() reports POLLHUP even if no event was requested."""
    reading, writing = os.pipe()
    os.close(writing)
    glib_loop.add_reader(reading, len, b"")  # never takes note of the end
    for _ in range(3):
        GLib.idle_add(main_loop.quit, priority=getattr(GLib, name))
        main_loop.run()
    assert glib_loop.remove_reader(reading)
    os.close(reading)


def test_an_echo_that_never_rests_starves_no_lower_priority(glib_loop, main_loop):
    """GTK draws at a lower priority than asyncio has."""

    class Echo(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport
            transports.append(transport)

        def data_received(self, data):
            self.transport.write(data)

    async def begin():
        for _ in range(20):
            for one in socket.socketpair():
                transport, _ = await glib_loop.create_connection(Echo, sock=one)
            transport.write(b"x" * 1024)

    transports = []
    glib_loop.run_until_complete(begin())
    for _ in range(3):
        GLib.idle_add(main_loop.quit)
        main_loop.run()
    for transport in transports:
        transport.abort()
    glib_loop.run_until_complete(asyncio.sleep(0))


def test_a_busy_glib_of_the_same_priority_does_not_starve_asyncio(glib_loop, main_loop):
    source = GLib.idle_add(lambda: True, priority=GLib.PRIORITY_DEFAULT)
    glib_loop.call_later(0.01, main_loop.quit)
    main_loop.run()
    GLib.source_remove(source)


def test_priority_is_glibs(new_glib_loop, main_loop):
    loop = new_glib_loop(priority=GLib.PRIORITY_LOW)
    order = []
    loop.call_soon(order.append, "asyncio")
    loop.call_soon(main_loop.quit)
    GLib.idle_add(order.append, "idle")
    main_loop.run()
    assert order == ["idle", "asyncio"]


# Contexts, and what is refused


def test_a_context_of_ones_own(new_glib_loop):
    context = GLib.MainContext()
    loop = new_glib_loop(context)
    assert loop.run_until_complete(echo_once(b"x")) == b"x"
    loop.run_until_complete(loop.shutdown_default_executor())


def test_a_context_that_another_thread_owns_is_refused(monitor):
    context = GLib.MainContext()
    owned, over = threading.Event(), threading.Event()

    def own():
        context.acquire()
        owned.set()
        over.wait(10)
        context.release()

    thread = threading.Thread(target=own)
    thread.start()
    owned.wait(10)
    try:
        with pytest.raises(RuntimeError, match="another thread"):
            uringloop.glib.new_event_loop(context, fdmon=monitor)
    finally:
        over.set()
        thread.join()


def test_attaching_twice_is_refused(glib_loop):
    with pytest.raises(RuntimeError, match="attached"):
        uringloop.glib.attach(glib_loop.aio_context)


@pytest.mark.parametrize("wrong", [object(), 0, "default", GLib.MainLoop])
def test_what_is_no_main_context_is_refused(monitor, wrong):
    with pytest.raises(TypeError, match=r"GLib\.MainContext"):
        uringloop.glib.new_event_loop(wrong, fdmon=monitor)
    with pytest.raises(TypeError, match=r"GLib\.MainContext"):
        uringloop.glib.GLibLoop(wrong, monitor, 0)
    loop = uringloop.new_event_loop(fdmon=monitor)
    with pytest.raises(TypeError, match=r"GLib\.MainContext"):
        uringloop.glib.Source(loop.aio_context, wrong, 0, None)
    loop.close()


def test_the_classes_find_glib_themselves(monitor):
    script = f"""
        import asyncio
        import uringloop.glib
        loop = uringloop.glib.GLibLoop(None, {monitor!r}, 0)
        assert loop.run_until_complete(asyncio.sleep(0, 5)) == 5
        loop.close()
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(script)], timeout=20).returncode == 0


def test_a_context_without_asyncio_is_attached_and_detached(monitor, main_loop):
    loop = uringloop.new_event_loop(fdmon=monitor)
    source = uringloop.glib.attach(loop.aio_context)
    loop.call_soon(main_loop.quit)
    main_loop.run()
    source.detach()
    assert not source.is_attached
    assert loop.run_until_complete(asyncio.sleep(0, 1)) == 1
    loop.close()


def test_without_pygobject_the_error_says_what_to_install(monitor):
    script = """
        import sys
        sys.modules["gi"] = None
        import uringloop.glib
        try:
            uringloop.glib.new_event_loop()
        except ImportError as error:
            assert "uringloop[glib]" in str(error), error
            sys.exit(7)
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(script)], timeout=20).returncode == 7


# Coming and going


def test_a_busy_loop_is_attached_and_detached(monitor, main_loop):
    """What the ring has in flight, and its ring, change; the program notices nothing."""
    loop = uringloop.new_event_loop(fdmon=monitor)
    peers = []

    async def start():
        server = await asyncio.start_server(lambda *pair: peers.append(pair), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        while not peers:
            await asyncio.sleep(0)
        return server, reader, writer

    async def exchange():
        for index in range(3):
            peers[0][1].write(b"%d" % index)
            assert await reader.readexactly(1) == b"%d" % index
        writer.write(b"x" * 1_000_000)
        assert len(await peers[0][0].readexactly(1_000_000)) == 1_000_000
        _, other = await asyncio.open_connection(*server.sockets[0].getsockname())
        other.close()
        assert await asyncio.to_thread(lambda: 5) == 5
        main_loop.quit()

    async def end():
        for _, one in [*peers, (None, writer)]:
            one.close()
        server.close()
        await loop.shutdown_default_executor()

    server, reader, writer = loop.run_until_complete(start())
    for _ in range(2):
        loop.run_until_complete(exchange())
        source = uringloop.glib.attach(loop)
        task = loop.create_task(exchange())
        main_loop.run()
        assert task.done()
        source.detach()
    loop.run_until_complete(end())
    loop.close()


def test_requests_in_flight_keep_a_context_from_being_attached(monitor):
    if monitor != "io_uring":
        return  # no other has requests
    loop = uringloop.new_event_loop(fdmon=monitor)
    from uringloop.liburing import lib

    reader, writer = os.pipe()
    request = loop.add_sqe(lib.io_uring_prep_poll_add, reader, select.POLLIN)
    loop.run_until_complete(asyncio.sleep(0))
    with pytest.raises(RuntimeError, match="in flight"):
        uringloop.glib.attach(loop.aio_context)
    os.write(writer, b"x")

    async def answer():
        return await request

    assert loop.run_until_complete(answer()) & select.POLLIN
    uringloop.glib.attach(loop.aio_context).detach()
    loop.close()
    os.close(reader)
    os.close(writer)


def test_closing_an_attached_loop_ends_it_without_a_word(monitor, main_loop, capfd):
    loop = uringloop.new_event_loop(fdmon=monitor)
    source = uringloop.glib.attach(loop)
    GLib.idle_add(main_loop.quit)
    main_loop.run()
    loop.close()
    assert not source.is_attached
    GLib.idle_add(main_loop.quit)
    main_loop.run()
    assert capfd.readouterr().err == ""


def test_a_callback_of_glib_closes_an_attached_loop_with_something_to_do(monitor, main_loop, capfd):
    """GLib has checked both sources already, and comes to the loop's when it is closed."""
    loop = uringloop.new_event_loop(fdmon=monitor)
    GLib.idle_add(loop.close, priority=GLib.PRIORITY_DEFAULT)
    source = uringloop.glib.attach(loop)
    loop.call_soon(print, "not any more")
    GLib.idle_add(main_loop.quit)
    main_loop.run()
    assert not source.is_attached
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("where", ["call_soon", "data_received"])
def test_a_running_ordinary_loop_is_attached_for_a_dialog(monitor, main_loop, where):
    """By one of its own callbacks; afterwards it runs on by itself."""
    loop = uringloop.new_event_loop(fdmon=monitor)
    near, far = socket.socketpair()
    got = b""

    def dialog():
        source = uringloop.glib.attach(loop)
        far.send(b"2")
        loop.call_later(0.01, main_loop.quit)
        main_loop.run()
        source.detach()
        far.send(b"3")

    class Talk(asyncio.Protocol):
        def data_received(self, data):
            nonlocal got
            got += data
            if data == b"1":
                loop.call_soon(dialog) if where == "call_soon" else dialog()
            elif got == b"123":
                done.set_result(None)

    async def main():
        transport, _ = await loop.create_connection(Talk, sock=near)
        far.send(b"1")
        await asyncio.wait_for(done, 10)
        transport.close()
        await asyncio.sleep(0)

    done = loop.create_future()
    loop.run_until_complete(main())
    loop.close()
    far.close()


def test_run_inside_of_a_running_loop_is_refused(glib_loop, monitor):
    async def main():
        other = asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="cannot be called from a running event loop"):
            uringloop.glib.run(other, fdmon=monitor)
        other.close()

    glib_loop.run_until_complete(main())


def test_a_running_ordinary_loop_that_was_attached_runs_on(monitor):
    """On the ring that it has from now on, before GLib has requested anything."""
    loop = uringloop.new_event_loop(fdmon=monitor)

    async def main():
        source = uringloop.glib.attach(loop)
        assert await asyncio.to_thread(lambda: 5) == 5
        source.detach()
        await loop.shutdown_default_executor()

    loop.run_until_complete(main())
    loop.close()

"""os.fork while the loop does not run: the loop works in the child. Each test is a separate script."""

import pytest
from support.forking import run_forking

IDLE = """
async def work():
    loop = asyncio.get_running_loop()
    async def echo(reader, writer):
        writer.write(await reader.read(5))
        writer.close()
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    writer.close()
    server.close()
    await asyncio.sleep(0.001)
    loop.call_soon_threadsafe(int)
    assert await loop.run_in_executor(None, int, "5") == 5
    await loop.shutdown_default_executor()
"""


@pytest.mark.parametrize("before", ["", "loop.run_until_complete(work_of_the_parent())"])
def test_an_idle_loop_works_in_the_child(monitor, before):
    run_forking(
        IDLE
        + f"""
async def work_of_the_parent():
    await asyncio.sleep(0.001)
    asyncio.get_running_loop().call_soon_threadsafe(int)
    await asyncio.sleep(0)

loop = make_loop(MONITOR)
{before}
future = loop.create_future()
loop.call_later(0.001, future.set_result, 1)
called = []
loop.call_soon(called.append, 1)

def child():
    assert not loop.is_closed()
    assert loop.run_until_complete(future) == 1
    assert called == [1]
    loop.run_until_complete(work())
    loop.close()

if MONITOR != STOCK:  # there the child would close the wake-up socketpair of both
    ended(fork(child))
assert not called
assert loop.run_until_complete(future) == 1
loop.run_until_complete(work())
loop.close()
""",
        monitor,
    )


def test_an_idle_loop_works_in_a_child_of_the_child_and_in_both_at_once(monitor):
    run_forking(
        IDLE
        + """
loop = make_loop(MONITOR)
loop.run_until_complete(asyncio.sleep(0))

def child():
    ended(fork(lambda: loop.run_until_complete(work())))
    pid = fork(lambda: loop.run_until_complete(work()))
    loop.run_until_complete(work())
    ended(pid)
    ended(fork(lambda: loop.close()))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()

if MONITOR != STOCK:  # there the processes share one epoll object
    pid = fork(child)
    loop.run_until_complete(asyncio.sleep(0.001))
    ended(pid)
loop.run_until_complete(asyncio.sleep(0.001))
loop.close()
""",
        monitor,
    )


@pytest.mark.parametrize("when", ["before the fork", "after it"])
def test_readers_of_an_idle_loop_are_watched_in_the_child(monitor, when):
    run_forking(
        f"""
        near, far = socket.socketpair()
        near.setblocking(False)
        got = []
        loop = make_loop(MONITOR)
        if {when!r} == "before the fork":
            loop.add_reader(near, lambda: got.append(near.recv(10)))
        one_turn(loop)

        def child():
            other, peer = socket.socketpair()
            other.setblocking(False)
            loop.add_reader(other, lambda: got.append(other.recv(10)))
            peer.send(b"y")
            turn_until(loop, lambda: got)
            assert got == [b"y"]
            if {when!r} == "after it":
                loop.add_reader(near, lambda: got.append(near.recv(10)))
            far.send(b"x")
            turn_until(loop, lambda: len(got) == 2)
            assert got == [b"y", b"x"]
            assert loop.remove_reader(near) and loop.remove_reader(other)
            peer.send(b"z")
            far.send(b"z")
            one_turn(loop)
            assert len(got) == 2
            near.recv(1)
            loop.close()

        if MONITOR != STOCK:  # there the child removes from the epoll object of both
            ended(fork(child))
            loop.remove_reader(near)
        loop.add_reader(near, lambda: got.append(near.recv(10)))
        far.send(b"x")
        turn_until(loop, lambda: got)
        assert got == [b"x"]
        loop.remove_reader(near)
        loop.close()
        """,
        monitor,
    )


def test_a_server_of_an_idle_loop_serves_in_the_child(monitor):
    run_forking(
        """
        async def serve():
            return await asyncio.get_running_loop().create_server(Recorder, "127.0.0.1", 0)

        async def ask():
            protocol = Recorder()
            await asyncio.get_running_loop().create_connection(lambda: protocol, *address)
            await turns(3)
            protocol.transport.close()
            await protocol.lost.wait()

        loop = make_loop(MONITOR)
        server = loop.run_until_complete(serve())
        address = server.sockets[0].getsockname()
        loop.run_until_complete(ask())

        def child():
            for _ in range(3):
                loop.run_until_complete(ask())
            server.close()
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()

        if MONITOR != STOCK:  # the child removes the listener from the epoll object of both
            ended(fork(child))
        loop.run_until_complete(ask())
        server.close()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        """,
        monitor,
    )


def test_a_connection_of_an_idle_loop_goes_on_in_the_child(monitor):
    run_forking(
        """
        async def connect(near):
            protocol = Recorder()
            await asyncio.get_running_loop().create_connection(lambda: protocol, sock=near)
            far.send(b"before")
            await protocol.received(6)
            return protocol

        async def use(protocol):
            far.send(b"x")
            await protocol.received(7)
            protocol.transport.write(b"y" * 1000)
            assert await read_exactly(far, 1000) == b"y" * 1000

        near, far = socket.socketpair()
        far.setblocking(False)
        loop = make_loop(MONITOR)
        protocol = loop.run_until_complete(connect(near))

        def child():
            protocol.transport.write(b"w" * 300_000)   # before the first run, and too much for the turn's end
            async def main():
                assert await read_exactly(far, 300_000) == b"w" * 300_000
                await use(protocol)
            loop.run_until_complete(main())

        ended(fork(child))
        loop.run_until_complete(use(protocol))
        protocol.transport.close()
        loop.run_until_complete(protocol.lost.wait())
        far.close()
        loop.close()
        """,
        monitor,
    )


def test_unsent_data_of_an_idle_loop_is_sent_only_by_the_parent(monitor):
    run_forking(
        """
        if MONITOR == STOCK:
            raise SystemExit  # stock asyncio sends it in each process that runs the loop
        near, far = socket.socketpair()
        far.setblocking(False)
        data = bytes(range(256)) * 8192
        loop = make_loop(MONITOR)

        async def connect():
            protocol = Recorder()
            await asyncio.get_running_loop().create_connection(lambda: protocol, sock=near)
            protocol.transport.write(data)
            return protocol

        protocol = loop.run_until_complete(connect())
        assert protocol.transport.get_write_buffer_size()

        def child():
            assert loop.is_closed()
            try:
                loop.run_forever()
            except RuntimeError:
                pass
            else:
                raise AssertionError("it runs")
            loop.close()

        ended(fork(child))
        assert loop.run_until_complete(read_exactly(far, len(data))) == data
        protocol.transport.close()
        loop.run_until_complete(protocol.lost.wait())
        far.close()
        loop.close()
        """,
        monitor,
    )


def test_signal_handlers_of_an_idle_loop_are_called_in_the_child(monitor):
    run_forking(
        """
        import signal
        loop = make_loop(MONITOR)
        got = []
        loop.add_signal_handler(signal.SIGUSR1, got.append, 1)
        loop.add_signal_handler(signal.SIGUSR2, got.append, 2)

        def child():
            assert loop.remove_signal_handler(signal.SIGUSR2)
            loop.call_soon(signal.raise_signal, signal.SIGUSR1)
            turn_until(loop, lambda: got)
            assert got == [1]
            assert loop.remove_signal_handler(signal.SIGUSR1)
            assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
            loop.close()

        if MONITOR != STOCK:  # there the processes share the wake-up socketpair
            ended(fork(child))
            one_turn(loop)
            assert got == []
        signal.raise_signal(signal.SIGUSR1)
        turn_until(loop, lambda: got)
        assert got == [1]
        loop.close()
        """,
        monitor,
    )


def test_a_daemon_that_closes_all_fds_may_use_the_loop(monitor):
    """The watched files are closed, and their numbers belong to other files, which nothing watches or closes."""
    run_forking(
        IDLE
        + """
import signal
if MONITOR == STOCK:
    raise SystemExit  # stock asyncio's epoll object is closed, too
near, far = socket.socketpair()
loop = make_loop(MONITOR)
got = []
loop.add_reader(near, got.append, 1)
loop.add_signal_handler(signal.SIGUSR1, int)
one_turn(loop)
number = near.fileno()

def child():
    highest = max(map(int, os.listdir("/proc/self/fd")))
    os.closerange(3, highest + 1)
    pairs = [socket.socketpair() for _ in range(highest)]
    taken = {sock.fileno(): sock for pair in pairs for sock in pair}
    assert number in taken
    for pair in pairs:
        pair[0].send(b"x")
        pair[1].send(b"x")
    loop.run_until_complete(work())
    assert got == []
    loop.add_reader(number, got.append, 2)
    turn_until(loop, lambda: got)
    assert set(got) == {2}
    loop.remove_reader(number)
    loop.close()
    for sock in taken.values():
        assert sock.recv(2) == b"x"

ended(fork(child))
loop.remove_reader(near)
loop.close()
""",
        monitor,
    )


def test_the_threads_of_an_idle_loops_executor_are_not_awaited_in_the_child(monitor):
    run_forking(
        """
        if MONITOR == STOCK:
            raise SystemExit  # stock asyncio waits for threads that only the parent has
        loop = make_loop(MONITOR)
        async def main():
            return await asyncio.get_running_loop().run_in_executor(None, int, "5")
        assert loop.run_until_complete(main()) == 5

        def child():
            assert loop.run_until_complete(main()) == 5
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

        ended(fork(child))
        assert loop.run_until_complete(main()) == 5
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        """,
        monitor,
    )


@pytest.mark.needs_liburing
@pytest.mark.needs_cffi
def test_a_loop_with_raw_requests_in_flight_is_closed_in_the_child():
    run_forking(
        """
        from uringloop.liburing import lib
        loop = make_loop(MONITOR)
        read_end, write_end = os.pipe()
        future = loop.add_sqe(lib.io_uring_prep_poll_add, read_end, 1)
        one_turn(loop)
        ended(fork(lambda: loop.close() if loop.is_closed() else os._exit(9)))
        os.write(write_end, b"x")
        turn_until(loop, future.done)
        assert not loop.is_closed()

        def child():
            async def main():
                await asyncio.get_running_loop().add_sqe(lib.io_uring_prep_nop)
            future = loop.add_sqe(lib.io_uring_prep_nop)   # before the first run
            loop.run_until_complete(main())
            assert future.done()
            loop.close()

        ended(fork(child))
        loop.close()
        """,
        "io_uring",
    )

"""run_nested(): wrong uses, other threads and loops, and I/O meanwhile."""

import asyncio
import os
import threading

import pytest
from support.helpers import (
    BufferedRecorder,
    Recorder,
    abort,
    client_tls,
    one_turn,
    open_pair,
    open_transport,
    pattern,
    run,
    run_script,
    server_tls,
    socketpair,
    turn_until,
    turns,
)
from support.nested_tools import answer

# -- wrong uses --------------------------------------------------------------------------------------------


def refused(loop, match, awaitable=None):
    coroutine = answer() if awaitable is None else awaitable
    with pytest.raises((RuntimeError, ValueError), match=match):
        loop.run_nested(coroutine)
    if awaitable is None:
        coroutine.close()


def test_a_loop_that_does_not_run_is_refused(loop):
    refused(loop, "needs an event loop that runs; use run_until_complete")


def test_a_closed_loop_is_refused(loop):
    loop.close()
    refused(loop, "Event loop is closed")


def test_another_thread_is_refused(loop):
    def other_thread():
        refused(loop, "outside of the event loop's thread; use asyncio.run_coroutine_threadsafe")

    run(loop, asyncio.to_thread(other_thread))


def test_another_loop_is_refused(new_loop, loop):
    other = new_loop()

    async def main():
        refused(other, "needs an event loop that runs")
        future = other.create_future()
        refused(loop, "different loop", future)

    run(loop, main())


def test_a_loop_of_another_thread_is_refused(new_loop, loop):
    other = new_loop()
    started = threading.Event()
    other.call_soon(started.set)
    thread = threading.Thread(target=other.run_forever)
    thread.start()
    started.wait()

    async def main():
        refused(other, "outside of the event loop's thread")

    try:
        run(loop, main())
    finally:
        other.call_soon_threadsafe(other.stop)
        thread.join()


def test_the_loop_cannot_be_closed_in_a_nested_run(loop):
    async def inner():
        with pytest.raises(RuntimeError, match="Cannot close a running event loop"):
            loop.close()

    async def main():
        loop.run_nested(inner())

    run(loop, main())


def test_a_fork_child_leaves_its_nested_run(monitor):
    printed = run_script(
        """
        import asyncio, os, sys, uringloop, warnings
        warnings.simplefilter("ignore")
        loop = uringloop.new_event_loop(MONITOR)

        async def inner():
            await asyncio.sleep(0)
            if os.fork() == 0:
                return
            os.wait()
            print("parent", flush=True)

        async def main():
            try:
                loop.run_nested(inner())
            except RuntimeError as error:
                print(error, flush=True)
                os._exit(0)

        loop.run_until_complete(main())
        loop.close()
        """,
        monitor,
    )
    assert printed.splitlines() == [
        "Event loop is closed: this process is a fork of the one that runs it",
        "parent",
    ]


# -- I/O ---------------------------------------------------------------------------------------------------


def test_what_was_written_before_goes_out_in_the_nested_run(loop):
    async def main():
        async with open_pair() as (near, far):
            near.transport.write(b"request")
            assert loop.run_nested(far.received(7)) == b"request"
            far.transport.write(b"answer")
            near.transport.write(b"more")
            assert loop.run_nested(asyncio.gather(near.received(6), far.received(11))) == [
                b"answer",
                b"requestmore",
            ]

    run(loop, main())


def test_a_protocol_may_wait_in_its_callbacks(loop):
    """The rest is delivered to it meanwhile, in order."""

    class Nesting(Recorder):
        def data_received(self, data):
            super().data_received(data)
            if len(self.chunks) == 1:
                self.transport.write(b"more, please")
                loop.run_nested(self.received(14))
                self.calls.append("waited")

        def connection_made(self, transport):
            super().connection_made(transport)
            loop.run_nested(answer())

        def connection_lost(self, error):
            loop.run_nested(answer())
            super().connection_lost(error)

    async def main():
        async with open_pair(Nesting()) as (near, far):
            far.transport.write(b"first")
            await far.received(12)
            far.transport.write(b" and more")
            await near.received(14)
            await turns(3)
            assert bytes(near.data) == b"first and more"
            assert near.calls[-1] == "waited"

    run(loop, main())


@pytest.mark.parametrize("size", [3, 4, 64])
def test_a_buffered_protocol_may_wait_in_its_callbacks(loop, size):
    """What its buffer had no room for comes first, and then what arrives meanwhile."""

    class Nesting(BufferedRecorder):
        async def have(self, count):
            while len(self.data) < count:
                await asyncio.sleep(0)

        def buffer_updated(self, count):
            first = not self.data
            super().buffer_updated(count)
            if first:
                loop.run_nested(self.have(8))
                peer.send(b"ijkl")
                loop.run_nested(self.have(12))

    async def main():
        nonlocal peer
        async with open_transport(Nesting(size)) as (_, protocol, peer):
            peer.send(b"abcdefgh")
            await protocol.have(12)
            peer.send(b"mnopqrst")
            await protocol.have(20)
            assert bytes(protocol.data) == b"abcdefghijklmnopqrst"

    peer = None
    run(loop, main())


def test_tls_in_nested_runs(loop):
    class Nesting(Recorder):
        def data_received(self, data):
            super().data_received(data)
            if len(self.chunks) == 1:
                loop.run_nested(self.received(200_008))

    async def main():
        accepted = loop.create_future()

        def accept():
            protocol = Nesting()
            accepted.set_result(protocol)
            return protocol

        server = await loop.create_server(accept, "127.0.0.1", 0, ssl=server_tls())
        port = server.sockets[0].getsockname()[1]
        transport, client = await loop.create_connection(
            Recorder, "127.0.0.1", port, ssl=client_tls(), server_hostname="localhost"
        )
        transport.write(b"abcdefgh")
        transport.write(pattern(100_000))
        protocol = await accepted
        await protocol.received(8)
        transport.write(pattern(100_000))
        assert await protocol.received(200_008) == b"abcdefgh" + 2 * pattern(100_000)
        for one in (client, protocol):
            await abort(one)
        server.close()
        await server.wait_closed()

    run(loop, main())


def test_a_watched_fd_is_armed_in_a_nested_run_of_its_own_callback(loop):
    fd = os.eventfd(1)
    seen = []

    def on_readable():
        seen.append(os.eventfd_read(fd))
        if len(seen) == 1:
            loop.call_soon(os.eventfd_write, fd, 7)
            loop.run_nested(second)
            seen.append("nested run over")
        else:
            second.set_result(None)

    second = loop.create_future()
    loop.add_reader(fd, on_readable)
    turn_until(loop, lambda: len(seen) == 3)
    loop.remove_reader(fd)
    os.close(fd)
    assert seen == [1, 7, "nested run over"]


def test_executors_and_threads_wake_a_nested_run(loop):
    async def main():
        assert loop.run_nested(asyncio.to_thread(lambda: 1)) == 1
        future = loop.create_future()
        thread = threading.Thread(target=loop.call_soon_threadsafe, args=(future.set_result, 2))
        loop.call_soon(thread.start)
        assert loop.run_nested(future) == 2
        thread.join()

    run(loop, main())


def test_asynchronous_generators_are_finalized_in_nested_runs(loop):
    closed = []

    async def numbers():
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            closed.append(True)

    async def inner():
        async for _ in numbers():
            break

    async def main():
        loop.run_nested(inner())
        loop.run_nested(answer())

    run(loop, main())
    assert closed == [True]


def test_debug_mode(loop, caplog):
    loop.set_debug(True)
    loop.slow_callback_duration = 10

    async def main():
        assert loop.run_nested(answer()) == 42
        return await answer()

    assert run(loop, main()) == 42
    one_turn(loop)


# -- the order of what a nested turn brings -------------------------------------------------------------------


class Turning(BufferedRecorder):
    """Makes turns in `method`, each time after the peer has sent the next piece."""

    def __init__(self, method, peer, pieces, size):
        super().__init__(size)
        self.method, self.peer, self.pieces = method, peer, list(pieces)

    def turn(self, method):
        if method == self.method and self.pieces:
            self.peer.send(self.pieces.pop(0))
            for _ in range(4):
                asyncio.get_running_loop().aio_context.poll(False)

    def get_buffer(self, size_hint):
        self.turn("get_buffer")
        return super().get_buffer(size_hint)

    def buffer_updated(self, count):
        super().buffer_updated(count)
        self.turn("buffer_updated")


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("method", ["get_buffer", "buffer_updated"])
@pytest.mark.parametrize("size", [3, 64], ids=["small_buffer", "large_buffer"])
def test_turns_upon_turns_of_a_buffered_protocol_keep_the_order(loop, kind, method, size):
    """Each level has a chunk in its hands that is not delivered yet when the next level brings more."""
    near, peer = socketpair(kind)
    pieces = [b"second-", b"third--", b"fourth-", b"fifth--"]
    protocol = Turning(method, peer, pieces, size)
    run(loop, loop.create_connection(lambda: protocol, sock=near))
    peer.send(b"first--")
    turn_until(loop, lambda: len(protocol.data) == 35)
    assert protocol.data == b"first--" + b"".join(pieces)
    peer.close()
    turn_until(loop, protocol.lost.is_set)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("method", ["get_buffer", "buffer_updated"])
def test_the_end_that_a_nested_turn_sees_comes_last(loop, kind, method):
    near, peer = socketpair(kind)
    protocol = Turning(method, peer, [], 3)
    run(loop, loop.create_connection(lambda: protocol, sock=near))

    def turn(name):
        if name == method and peer.fileno() >= 0:
            peer.close()
            for _ in range(4):
                loop.aio_context.poll(False)

    protocol.turn = turn
    peer.send(b"0123456789")
    turn_until(loop, protocol.lost.is_set)
    assert protocol.data == b"0123456789"
    assert protocol.calls[-2:] == ["eof_received", "connection_lost"]
    assert protocol.error is None


@pytest.mark.parametrize("bulk", [False, True], ids=["small", "bulk"])
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_the_end_that_a_nested_turn_sees_survives_an_interrupt(loop, kind, bulk):
    """It waits behind a rest, whose delivery raises: the kernel tells of the end only once."""
    near, peer = socketpair(kind)
    protocol = Turning(None, peer, [], 100_000)
    run(loop, loop.create_connection(lambda: protocol, sock=near))
    sent = pattern(13_000)
    for count in range(1, 10 if bulk else 1):  # from the fourth on io_uring reads in bulk
        peer.send(sent)
        turn_until(loop, lambda count=count: len(protocol.data) == count * len(sent))
    protocol.data.clear()
    protocol.buffer = bytearray(3)
    interrupts = iter([False, True])
    transport = protocol.transport
    has_paused = []

    def turn(name):
        if name != "get_buffer":
            if not has_paused:  # the rest is held, and no frame that reads is below when it is delivered
                has_paused.append(True)
                transport.pause_reading()
        elif not has_paused:
            return
        elif peer.fileno() >= 0:
            peer.close()
            for _ in range(4):
                loop.aio_context.poll(False)
        elif next(interrupts, False):
            raise KeyboardInterrupt

    protocol.turn = turn
    peer.send(b"0123456789")
    turn_until(loop, lambda: has_paused)
    run(loop, turns(3))
    transport.resume_reading()
    with pytest.raises(KeyboardInterrupt):
        turn_until(loop, lambda: False)
    turn_until(loop, protocol.lost.is_set, seconds=2)
    assert protocol.data == b"0123456789"
    assert protocol.calls[-2:] == ["eof_received", "connection_lost"]


@pytest.mark.parametrize("pauses", [False, True], ids=["reading", "paused"])
@pytest.mark.parametrize("into", [Recorder, BufferedRecorder])
def test_a_protocol_that_a_turn_in_get_buffer_replaces_gets_nothing_more(loop, into, pauses):
    near, peer = socketpair("unix")
    successor = into()

    class Replaced(BufferedRecorder):
        def get_buffer(self, size_hint):
            loop.call_soon(self.transport.set_protocol, successor)
            if pauses:
                loop.call_soon(self.transport.pause_reading)
            loop.aio_context.poll(False)
            return super().get_buffer(size_hint)

    replaced = Replaced()
    run(loop, loop.create_connection(lambda: replaced, sock=near))
    peer.send(b"hello")
    if pauses:
        turn_until(loop, lambda: not replaced.transport.is_reading())
        run(loop, turns(3))
        assert not successor.data
        replaced.transport.resume_reading()
    turn_until(loop, lambda: successor.data)
    assert successor.data == b"hello"
    assert replaced.calls == ["connection_made"]
    peer.close()
    turn_until(loop, successor.lost.is_set)

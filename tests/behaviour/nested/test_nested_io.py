"""run_nested(): I/O that was started before it, or outside, continues in it."""

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
    server_tls,
    turn_until,
    turns,
)
from support.nested_tools import answer


def test_data_written_before_is_sent_in_the_nested_run(loop):
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
    """Meanwhile the rest is delivered to it, in order."""

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
    """Data for which its buffer had no room is delivered first, and then data that arrives meanwhile."""

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
        for side in (client, protocol):
            await abort(side)
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


def test_nested_runs_work_in_debug_mode(loop, caplog):
    loop.set_debug(True)
    loop.slow_callback_duration = 10

    async def main():
        assert loop.run_nested(answer()) == 42
        return await answer()

    assert run(loop, main()) == 42
    one_turn(loop)

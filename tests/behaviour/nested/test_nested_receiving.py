"""Nested turns, at any depth, while connections are accepted and read."""

import asyncio
import socket

import pytest
from support.helpers import (
    BufferedRecorder,
    Datagrams,
    Recorder,
    client_tls,
    open_pair,
    open_transport,
    pattern,
    read_exactly,
    run,
    server_tls,
    turns,
)


class Deep:
    """Each level waits in its method for an answer that the next level gives in its method."""

    depth = 12

    def __init__(self, loop, make):
        self.loop, self.make, self.n_done = loop, make, 0
        self.traffic = pattern(3 << 20)

    async def ask(self, level):
        deep = self

        class Level(self.make):
            def called(self):
                if level < deep.depth and not hasattr(self, "has_nested"):
                    self.has_nested = True
                    deep.loop.run_nested(deep.ask(level + 1))
                deep.n_done += 1

            def data_received(self, data):
                super().data_received(data)
                self.called()

            def buffer_updated(self, count):
                super().buffer_updated(count)
                self.called()

        async with open_transport(Level()) as (_, protocol, peer):
            peer.send(b"request")
            while len(protocol.data) < 7:
                await asyncio.sleep(0)
            # another connection receives meanwhile: all buffers of the loop are used several times
            async with open_pair() as (near, far):
                far.transport.write(self.traffic)
                assert await near.received(len(self.traffic)) == self.traffic


@pytest.mark.parametrize("make", [Recorder, BufferedRecorder])
def test_every_level_receives(loop, make):
    deep = Deep(loop, make)
    run(loop, deep.ask(1))
    assert deep.n_done == deep.depth


@pytest.mark.parametrize("where", ["factory", "connection_made"])
def test_connections_that_arrive_meanwhile_are_served(loop, where):
    """A protocol factory, or connection_made, runs turns in which further connections arrive."""
    order = []

    class Greeting(asyncio.Protocol):
        def connection_made(self, transport):
            if where == "connection_made":
                wait_for_the_others()
            order.append("made")
            transport.write(b"hello")
            transport.close()

    def factory():
        if where == "factory":
            wait_for_the_others()
        return Greeting()

    async def ask(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read() == b"hello"
        writer.close()
        await writer.wait_closed()

    def wait_for_the_others():
        if len(clients) < 4:
            client = loop.create_task(ask(port))
            clients.append(client)
            loop.run_nested(client)  # it arrives while this one is made

    async def main():
        nonlocal port
        server = await loop.create_server(factory, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        await ask(port)
        await asyncio.gather(*clients)
        assert len(clients) == 4
        assert len(order) == 5
        server.close()
        await turns(3)

    clients, port = [], None
    run(loop, main())


class Waiting:
    """Waits, in the call that delivers the byte at `start`, until `end` bytes have arrived."""

    def wait_for(self, loop, start, end):
        self.loop, self.start, self.end, self.enough = loop, start, end, loop.create_future()

    def called(self):
        if len(self.data) >= self.end and not self.enough.done():
            self.enough.set_result(None)
        elif self.start is not None and len(self.data) > self.start:
            self.start = None
            self.loop.run_nested(asyncio.wait_for(self.enough, 5))


class WaitingRecorder(Waiting, Recorder):
    def data_received(self, data):
        super().data_received(data)
        self.called()


class WaitingBuffered(Waiting, BufferedRecorder):
    def buffer_updated(self, count):
        super().buffer_updated(count)
        self.called()


async def received_in_a_nested_run(protocol):
    await asyncio.wait_for(asyncio.shield(protocol.enough), 5)
    assert protocol.data == pattern(len(protocol.data))


@pytest.mark.parametrize("bulk", [False, True], ids=["small", "bulk"])
@pytest.mark.parametrize("at", ["at once", "paused"])
@pytest.mark.parametrize("make", [WaitingRecorder, WaitingBuffered])
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_nested_run_gets_data_that_the_frame_below_has_left(loop, kind, make, at, bulk):
    """A chunk longer than the buffer, data that arrived while reading was paused, several pieces for one event."""

    async def main():
        async with open_transport(make(), kind=kind) as (transport, protocol, peer):
            warm = 9 * 13_000 if bulk else 0  # from the fourth on io_uring reads in bulk
            sent = pattern(warm + 60_010)
            protocol.wait_for(loop, warm, len(sent))
            peer.setblocking(True)
            for start in range(0, warm, 13_000):
                peer.sendall(sent[start : start + 13_000])
                while len(protocol.data) < start + 13_000:
                    await asyncio.sleep(0)
            if at == "paused":
                transport.pause_reading()
                peer.sendall(sent[warm : warm + 10])
                await turns(3)
                peer.sendall(sent[warm + 10 :])
                await turns(3)
                transport.resume_reading()
            else:
                peer.sendall(sent[warm : warm + 10])
                peer.sendall(sent[warm + 10 :])
            await received_in_a_nested_run(protocol)

    run(loop, main())


def test_data_that_a_nested_run_leaves_unread_arrives_although_nothing_follows(loop):
    """One wait reports two connections. In turns that the first one runs, the second is read, but not to its end.
    The outer turn counted two events, and takes the read that the nested turn postpones for the second of them.
    """
    n_pieces = 20  # a read ends at a passed fd: more reads than there are turns in the nested run

    class Nesting(Recorder):
        def data_received(self, data):
            super().data_received(data)
            loop.run_nested(is_read)
            order.append("end of the nested run")

    class Read(Recorder):
        def data_received(self, data):
            super().data_received(data)
            if is_read is not None:
                order.append(len(self.data))
                if not is_read.done():
                    is_read.set_result(None)

    async def main():
        nonlocal is_read
        async with (
            open_transport(Nesting(), kind="unix") as (_, _, first_peer),
            open_transport(Read(), kind="unix") as (_, protocol, peer),
        ):
            for number in range(1, 10):  # from the fourth on io_uring reads in bulk
                peer.send(bytes(13_000))
                while len(protocol.data) < number * 13_000:
                    await asyncio.sleep(0)
            is_read = loop.create_future()
            first_peer.send(b"x")
            for _ in range(n_pieces):
                socket.send_fds(peer, [bytes(7_000)], [peer.fileno()])
            await turns(50)
            assert order[0] == 9 * 13_000 + 7_000, "the first connection is called first"
            assert "end of the nested run" in order
            assert len(protocol.data) == 9 * 13_000 + n_pieces * 7_000

    order, is_read = [], None
    run(loop, main())


@pytest.mark.parametrize("make", [WaitingRecorder, lambda: WaitingBuffered(4096)], ids=["data", "buffered"])
def test_a_nested_run_gets_data_that_tls_has_left(loop, make):
    async def main():
        near = make()
        sent = pattern(60_010)
        near.wait_for(loop, 0, len(sent))
        far = Recorder()
        async with await loop.create_server(lambda: far, "127.0.0.1", 0, ssl=server_tls()) as server:
            transport, _ = await loop.create_connection(
                lambda: near, *server.sockets[0].getsockname(), ssl=client_tls(), server_hostname="localhost"
            )
            await far.connected.wait()
            far.transport.write(sent)
            await received_in_a_nested_run(near)
            transport.abort()
            far.transport.abort()

    run(loop, main())


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_a_nested_run_gets_the_next_datagram_of_a_batch(loop, family, tmp_path):
    """Both arrive in one batch."""

    class WaitingDatagrams(Datagrams):
        def datagram_received(self, data, address):
            super().datagram_received(data, address)
            if data == b"last":
                last.set_result(None)
            elif not has_waited:
                has_waited.append(True)
                loop.run_nested(asyncio.wait_for(last, 5))

    has_waited = []
    last = loop.create_future()
    ours, peer = socket.socket(family, socket.SOCK_DGRAM), socket.socket(family, socket.SOCK_DGRAM)
    with ours, peer:
        ours.bind(("127.0.0.1", 0) if family == socket.AF_INET else str(tmp_path / "ours"))
        peer.connect(ours.getsockname())
        ours.setblocking(False)
        transport, protocol = run(loop, loop.create_datagram_endpoint(WaitingDatagrams, sock=ours))
        for data in (b"first", b"second", b"last"):
            peer.send(data)
        run(loop, asyncio.wait_for(asyncio.shield(last), 5))
        assert has_waited
        run(loop, turns(2))
        assert [protocol.received.get_nowait()[0] for _ in range(3)] == [b"first", b"second", b"last"]
        transport.abort()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_connection_made_may_wait_for_data(loop, kind):
    """As in asyncio, where a nested turn starts reading and wakes the task that connected."""

    class Greeted(WaitingRecorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            transport.write(b"hello")
            loop.run_nested(asyncio.wait_for(self.enough, 5))

    async def main():
        protocol = Greeted()
        protocol.wait_for(loop, None, 5)
        async with open_transport(protocol, kind=kind) as (_, _, peer):
            assert await read_exactly(peer, 5) == b"hello"
            peer.sendall(pattern(5))
            await received_in_a_nested_run(protocol)

    run(loop, main())

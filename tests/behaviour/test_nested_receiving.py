"""Nested turns while connections are received from and accepted, at any depth."""

import asyncio

import pytest
from helpers import BufferedRecorder, Recorder, open_pair, open_transport, pattern, run, turns


class Deep:
    """Each level waits in its method for an answer that the next level gives in its own."""

    depth = 12

    def __init__(self, loop, make):
        self.loop, self.make, self.n_done = loop, make, 0

    async def ask(self, level):
        deep = self

        class Level(self.make):
            def called(self):
                if level < deep.depth and not hasattr(self, "is_asked"):
                    self.is_asked = True
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
            # others receive meanwhile: all the buffers that the loop has are used several times over
            async with open_pair() as (near, far):
                far.transport.write(pattern(3 << 20))
                assert await near.received(3 << 20) == pattern(3 << 20)


@pytest.mark.parametrize("make", [Recorder, BufferedRecorder])
def test_every_level_receives(loop, make):
    deep = Deep(loop, make)
    run(loop, deep.ask(1))
    assert deep.n_done == deep.depth


@pytest.mark.parametrize("where", ["factory", "connection_made"])
def test_connections_that_come_meanwhile_are_served(loop, where):
    """A protocol factory, or connection_made, makes turns in which further connections arrive."""
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
            loop.run_nested(client)  # it comes while this one is made

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

"""Work for a loop that is watched."""

import asyncio
import time

SLOW_S = 0.02


def busy(seconds):
    """A sleep may take longer, by any amount."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def turns(loop, count=1):
    for _ in range(count):
        loop.call_soon(loop.stop)
        loop.run_forever()


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


async def echo_of(n_bytes):
    """Send so many bytes to an echo server, and read them back; the loop receives and writes them twice."""
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"x" * n_bytes)
        await reader.readexactly(n_bytes)
        yield
        writer.close()
        await writer.wait_closed()

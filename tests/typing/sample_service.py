"""A service as a user would write it, accepted by `mypy --strict`; it also runs."""

import asyncio
from typing import assert_type

import uringloop


class Echo(asyncio.Protocol):
    """Echoes everything."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


def describe(loop: uringloop.Loop) -> str:
    """The line of a status page."""
    assert_type(loop.fdmon, str)
    assert_type(loop.fdmon_reason, str | None)
    numbers = loop.statistics()
    assert_type(numbers, uringloop.Statistics)
    assert_type(numbers.syscalls, int)
    assert_type(numbers["syscalls"], int | str)
    return f"{numbers.fdmon}: {numbers.syscalls} system calls, {numbers.turns} turns"


async def main(greeting: bytes) -> bytes:
    loop = uringloop.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    async with server:
        port: int = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(greeting)
        answer = await reader.readexactly(len(greeting))
        writer.close()
        await writer.wait_closed()
    handle = loop.call_later(60, print, "never")
    assert_type(handle, asyncio.TimerHandle)
    handle.cancel()
    assert loop.fdmon in describe(loop)
    return answer


if __name__ == "__main__":
    assert uringloop.run(main(b"hello")) == b"hello"
    assert_type(uringloop.run(main(b"typed"), debug=True), bytes)

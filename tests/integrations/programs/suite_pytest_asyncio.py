"""Tests for pytest-asyncio; the row's conftest.py chooses the loop."""

import asyncio

import pytest
from inside import blob, check_loop

pytestmark = pytest.mark.asyncio


async def test_the_loop():
    check_loop()


async def test_a_server():
    async def echo(reader, writer):
        writer.write(await reader.read())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(blob(100_000))
        writer.write_eof()
        assert await reader.read() == blob(100_000)
        writer.close()
        await writer.wait_closed()

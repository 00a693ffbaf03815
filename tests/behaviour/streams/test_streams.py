"""asyncio's streams on this loop."""

import asyncio
import contextlib
import os

import pytest
from support.helpers import pattern, reset_on_close, socketpair, turns


@contextlib.asynccontextmanager
async def stream_pair(kind="tcp", **kwargs):
    near, far = socketpair(kind)
    ends = [await asyncio.open_connection(sock=sock, **kwargs) for sock in (near, far)]
    try:
        yield ends
    finally:
        for _, writer in ends:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def test_lines_and_exact_reads():
    async with stream_pair() as ((reader, _), (_, writer)):
        writer.write(b"one\ntwo\nthree")
        assert await reader.readline() == b"one\n"
        assert await reader.readuntil(b"o") == b"two"
        assert await reader.readexactly(1) == b"\n"
        assert await reader.readexactly(5) == b"three"


async def test_read_to_the_end():
    async with stream_pair() as ((reader, _), (_, writer)):
        writer.writelines([b"a", b"b", b"c"])
        writer.write_eof()
        assert await reader.read() == b"abc"
        assert reader.at_eof()


async def test_short_streams_raise_incomplete_read():
    async with stream_pair() as ((reader, _), (_, writer)):
        writer.write(b"abc")
        writer.close()
        with pytest.raises(asyncio.IncompleteReadError) as caught:
            await reader.readexactly(10)
        assert caught.value.partial == b"abc"


async def test_lines_that_are_too_long_raise():
    async with stream_pair(limit=100) as ((reader, _), (_, writer)):
        writer.write(b"x" * 300 + b"\n")
        with pytest.raises(ValueError):
            await reader.readline()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_a_reader_slower_than_the_writer_loses_nothing(kind):
    data = pattern(3_000_000)
    async with stream_pair(kind, limit=10_000) as ((reader, _), (_, writer)):

        async def send():
            for start in range(0, len(data), 30_000):
                writer.write(data[start : start + 30_000])
                await writer.drain()
            writer.write_eof()

        sending = asyncio.ensure_future(send())
        got = bytearray()
        while chunk := await reader.read(7_777):
            got += chunk
        await sending
        assert got == data


async def test_drain_waits_for_the_peer_and_ends_when_it_reads():
    async with stream_pair("unix") as ((reader, _), (_, writer)):
        writer.write(bytes(3_000_000))
        draining = asyncio.ensure_future(writer.drain())
        await turns(5)
        assert not draining.done()
        await reader.readexactly(3_000_000)
        await draining


async def test_drain_after_a_reset_raises():
    near, far = socketpair("tcp")
    reader, writer = await asyncio.open_connection(sock=near)
    reset_on_close(far)
    far.close()
    with pytest.raises(ConnectionResetError):
        await reader.read()
    with pytest.raises(ConnectionResetError):
        for _ in range(10):
            writer.write(b"x")
            await writer.drain()
    writer.close()
    with contextlib.suppress(ConnectionResetError):
        await writer.wait_closed()


async def test_drain_waiters_are_woken_when_the_connection_is_lost():
    near, far = socketpair("tcp")
    _, writer = await asyncio.open_connection(sock=near)
    writer.write(bytes(20_000_000))
    draining = [asyncio.ensure_future(writer.drain()) for _ in range(3)]
    await turns(3)
    reset_on_close(far)
    far.close()
    assert all(
        isinstance(error, OSError) for error in await asyncio.gather(*draining, return_exceptions=True)
    )
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def test_start_server_serves_many_clients():
    async def handle(reader, writer):
        while line := await reader.readline():
            writer.write(line.upper())
            await writer.drain()
        writer.close()
        await writer.wait_closed()
        handled.append(True)

    handled = []
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()

    async def client(number):
        reader, writer = await asyncio.open_connection(*address)
        for count in range(5):
            writer.write(b"line %d %d\n" % (number, count))
            assert await reader.readline() == b"LINE %d %d\n" % (number, count)
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(client(number) for number in range(20)))
    while len(handled) < 20:
        await asyncio.sleep(0)
    server.close()
    await server.wait_closed()


async def test_unix_streams(tmp_path):
    async def handle(reader, writer):
        writer.write(await reader.read(100))
        await writer.drain()
        writer.close()

    path = str(tmp_path / "stream")
    server = await asyncio.start_unix_server(handle, path)
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(b"unix")
    assert await reader.read() == b"unix"
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


async def test_writer_has_the_extra_info_of_its_transport():
    async with stream_pair() as ((_, writer), (_, other)):
        assert writer.get_extra_info("peername") == other.get_extra_info("sockname")
        assert writer.can_write_eof()
        assert not writer.is_closing()
        writer.close()
        assert writer.is_closing()


async def test_both_directions_at_once():
    data = os.urandom(2_000_000)
    async with stream_pair() as ends:

        async def send(writer):
            writer.write(data)
            await writer.drain()

        results = await asyncio.gather(
            *(reader.readexactly(len(data)) for reader, _ in ends), *(send(writer) for _, writer in ends)
        )
        assert results[0] == data
        assert results[1] == data

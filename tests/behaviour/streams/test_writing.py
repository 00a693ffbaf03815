"""write and writelines: order, buffers that change afterwards, empty pieces, errors."""

import array
import asyncio
import mmap
import re
import sys

import pytest
from support.connections import KINDS
from support.helpers import (
    STOCK,
    Recorder,
    fill,
    monitor_of,
    open_transport,
    pattern,
    read_exactly,
    read_to_end,
    turns,
)


def skip_where_stock_keeps_a_view():
    """Since Python 3.12 stock asyncio sends changed bytes if it could not send at once."""
    if monitor_of(asyncio.get_running_loop()) == STOCK and sys.version_info >= (3, 12):
        pytest.skip("stock asyncio keeps a view of what it cannot send at once")


@KINDS
async def test_writes_arrive_in_order(kind):
    async with open_transport(kind=kind) as (transport, _protocol, peer):
        expected = b"".join(b"%05d" % number for number in range(5000))
        for number in range(5000):
            transport.write(b"%05d" % number)
        assert await read_exactly(peer, len(expected)) == expected


@KINDS
async def test_writes_of_several_turns_arrive_in_order(kind):
    async with open_transport(kind=kind) as (transport, _protocol, peer):
        expected = b""
        for number in range(300):
            transport.write(b"%d," % number)
            expected += b"%d," % number
            if number % 7 == 0:
                await turns(1)
        assert await read_exactly(peer, len(expected)) == expected


@KINDS
@pytest.mark.parametrize("full", [False, True])
async def test_a_bytearray_may_be_changed_right_after_write(kind, full):
    if full:
        skip_where_stock_keeps_a_view()
    async with open_transport(kind=kind) as (transport, _protocol, peer):
        filled = fill(transport.get_extra_info("socket")._sock) if full else 0
        data = bytearray(b"before")
        transport.write(data)
        data[:] = b"after!"
        data.extend(b"a buffer that is still exported cannot be resized")
        assert (await read_exactly(peer, filled + 6))[-6:] == b"before"


@pytest.mark.parametrize("full", [False, True])
async def test_pieces_of_writelines_may_be_changed_right_afterwards(full):
    if full:
        skip_where_stock_keeps_a_view()
    async with open_transport(kind="unix") as (transport, _protocol, peer):
        filled = fill(transport.get_extra_info("socket")._sock) if full else 0
        pieces = [bytearray(b"one"), b"two", memoryview(bytearray(b"three"))]
        transport.writelines(pieces)
        pieces[0][:] = b"ONE"
        pieces[2][:] = b"THREE"
        pieces.clear()
        assert (await read_exactly(peer, filled + 11))[-11:] == b"onetwothree"


async def test_write_refuses_other_types_in_asyncios_words():
    async with open_transport(kind="unix") as (transport, _protocol, _peer):
        for wrong in ("text", 5, None, [1], array.array("B", b"x")):
            with pytest.raises(TypeError) as expected:
                asyncio.selector_events._SelectorSocketTransport.write(transport, wrong)
            with pytest.raises(TypeError, match=f"^{re.escape(str(expected.value))}$"):
                transport.write(wrong)


async def test_writelines_refuses_other_types():
    if monitor_of(asyncio.get_running_loop()) == STOCK and sys.version_info < (3, 12):
        pytest.skip("stock asyncio joins the pieces and calls write()")
    async with open_transport(kind="unix") as (transport, _protocol, peer):
        for wrong, kind in ((["text"], "str"), ([b"a", 1], "int"), ("text", "str"), (b"bytes", "int")):
            with pytest.raises(
                TypeError, match=f"^memoryview: a bytes-like object is required, not '{kind}'$"
            ):
                transport.writelines(wrong)
        for nothing in (None, [], (), b""):
            transport.writelines(nothing)
        transport.writelines([array.array("B", b"ar"), memoryview(b"ray")])
        assert await read_exactly(peer, 5) == b"array"
        transport.write_eof()
        with pytest.raises(RuntimeError, match=r"^Cannot call writelines\(\) after write_eof\(\)$"):
            transport.writelines([b"x"])


async def test_a_large_bytearray_may_be_changed_right_after_write():
    skip_where_stock_keeps_a_view()
    async with open_transport(kind="unix") as (transport, _protocol, peer):
        data = bytearray(pattern(1_000_000))
        expected = bytes(data)
        transport.write(data)
        data[:] = bytes(len(data))
        assert await read_exactly(peer, len(expected)) == expected


@pytest.mark.parametrize(
    "make",
    [
        bytes,
        bytearray,
        memoryview,
        lambda data: memoryview(bytearray(data)),
        lambda data: memoryview(b"x" + data + b"x")[1:-1],
    ],
)
async def test_all_kinds_of_buffers_are_written(make):
    async with open_transport() as (transport, _protocol, peer):
        transport.write(make(b"buffer"))
        transport.writelines([make(b"and"), make(b"another")])
        assert await read_exactly(peer, 16) == b"bufferandanother"


@pytest.mark.parametrize("data", ["text", 5, None, [b"list"], array.array("b", b"x")])
async def test_write_refuses_other_types(data):
    async with open_transport() as (transport, _protocol, peer):
        with pytest.raises(TypeError):
            transport.write(data)
        transport.write(b"fine")
        assert await read_exactly(peer, 4) == b"fine"


async def test_a_mapped_file_can_be_written_through_a_memoryview(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(pattern(100_000))
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        async with open_transport(kind="unix") as (transport, _protocol, peer):
            with memoryview(mapped) as view:
                transport.write(view)
                assert await read_exactly(peer, 100_000) == pattern(100_000)
                await turns(3)


@KINDS
async def test_empty_writes_send_nothing_and_raise_nothing(kind):
    async with open_transport(kind=kind) as (transport, protocol, peer):
        transport.write(b"")
        transport.write(bytearray())
        if monitor_of(asyncio.get_running_loop()) == STOCK:  # its close() waits forever after an empty piece
            transport.writelines([b"x", b"y"])
        else:
            transport.writelines([])
            transport.writelines([b"", b""])
            await turns(3)
            assert transport.get_write_buffer_size() == 0
            transport.writelines([b"", b"x", b"", b"y", b""])
        transport.write(b"")
        transport.close()
        assert await read_to_end(peer) == b"xy"
        assert protocol.calls[0] == "connection_made"


@KINDS
async def test_five_thousand_chunks_in_one_writelines_arrive_in_order(kind):
    """More than IOV_MAX."""
    async with open_transport(kind=kind) as (transport, _protocol, peer):
        chunks = [b"%05d" % number for number in range(5000)]
        transport.writelines(chunks)
        assert await read_exactly(peer, 25_000) == b"".join(chunks)


async def test_writelines_takes_a_generator():
    async with open_transport() as (transport, _protocol, peer):
        transport.writelines(b"%d" % number for number in range(10))
        assert await read_exactly(peer, 10) == b"0123456789"


@KINDS
async def test_many_chunks_behind_a_full_buffer_arrive_in_order(kind):
    async with open_transport(kind=kind) as (transport, _protocol, peer):
        filled = fill(transport.get_extra_info("socket")._sock)
        data = pattern(3_000_000)
        for start in range(0, len(data), 1000):
            transport.write(data[start : start + 1000])
        assert (await read_exactly(peer, filled + len(data)))[filled:] == data


async def test_bytes_are_not_kept_longer_than_needed():
    async with open_transport() as (transport, _protocol, peer):
        data = bytes(bytearray(b"x" * 50_000))
        before = sys.getrefcount(data)
        transport.write(data)
        await read_exactly(peer, len(data))
        await turns(3)
        assert sys.getrefcount(data) == before


@KINDS
async def test_writes_after_the_connection_was_lost_are_dropped_with_a_warning(kind, caplog):
    async with open_transport(kind=kind) as (transport, protocol, _peer):
        transport.abort()
        await protocol.lost.wait()
        for _ in range(10):
            transport.write(b"x")
        assert transport.get_write_buffer_size() == 0
        assert any("socket.send() raised exception" in record.message for record in caplog.records)


async def test_write_between_close_and_connection_lost_is_harmless():
    async with open_transport() as (transport, protocol, peer):
        transport.write(b"before")
        transport.close()
        transport.write(b"")
        await protocol.lost.wait()
        assert await read_to_end(peer) == b"before"


async def test_write_in_data_received_answers_each_piece():
    class Echo(Recorder):
        def data_received(self, data):
            self.transport.write(data[:1])
            self.transport.write(data[1:])

    async with open_transport(Echo()) as (_transport, _protocol, peer):
        for number in range(50):
            peer.send(b"%03d" % number)
            assert await read_exactly(peer, 3) == b"%03d" % number


async def test_two_transports_do_not_mix_what_they_write():
    async with open_transport() as (one, _, first), open_transport(kind="unix") as (two, _, second):
        for number in range(100):
            one.write(b"%02d" % number)
            two.write(b"%02d" % (99 - number))
        assert await read_exactly(first, 200) == b"".join(b"%02d" % number for number in range(100))
        assert await read_exactly(second, 200) == b"".join(b"%02d" % (99 - number) for number in range(100))


# sendfile


@KINDS
@pytest.mark.parametrize("fallback", [False, True])
async def test_sendfile_follows_earlier_writes(kind, fallback, tmp_path):
    loop = asyncio.get_running_loop()
    path = tmp_path / "file"
    path.write_bytes(pattern(400_000))
    async with open_transport(kind=kind) as (transport, _protocol, peer):
        transport.write(b"header")
        with open(path, "rb") as file:
            sending = asyncio.ensure_future(loop.sendfile(transport, file, fallback=fallback))
            data = await read_exactly(peer, 6 + 400_000)
            assert await sending == 400_000
        transport.write(b"trailer")
        assert await read_exactly(peer, 7) == b"trailer"
        assert data == b"header" + pattern(400_000)


async def test_sendfile_of_a_part(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(pattern(10_000))
    async with open_transport() as (transport, _protocol, peer):
        with open(path, "rb") as file:
            assert await asyncio.get_running_loop().sendfile(transport, file, 100, 1000) == 1000
            assert file.tell() == 1100
        assert await read_exactly(peer, 1000) == pattern(10_000)[100:1100]


async def test_sendfile_on_a_closing_transport_raises(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x")
    async with open_transport() as (transport, _protocol, _peer):
        transport.close()
        with open(path, "rb") as file:
            with pytest.raises(RuntimeError, match="closing"):
                await asyncio.get_running_loop().sendfile(transport, file)


async def test_reading_goes_on_after_sendfile(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1000)
    async with open_transport() as (transport, protocol, peer):
        peer.send(b"one")
        await protocol.received(3)
        with open(path, "rb") as file:
            await asyncio.get_running_loop().sendfile(transport, file)
        peer.send(b"two")
        assert await protocol.received(6) == b"onetwo"

"""loop.sendfile and loop.sock_sendfile: what is sent, and what happens when they end early."""

import asyncio
import contextlib
import errno
import socket
import sys

import pytest
from support.helpers import (
    LINUX,
    STOCK,
    fill,
    monitor_of,
    open_transport,
    pattern,
    read_exactly,
    read_to_end,
    reset_on_close,
    shrink_buffers,
    socketpair,
    turns,
    until,
)

SIZE = 3_000_000  # more than the buffers of both ends hold


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(pattern(SIZE))
    with open(path, "rb") as opened:
        yield opened


@pytest.fixture(params=["tcp", "unix"])
def kind(request):
    return request.param


@pytest.fixture
def pair(kind):
    near, far = socketpair(kind)
    shrink_buffers(near, far, count=1 << 16)
    for end in (near, far):
        end.setblocking(False)
    yield near, far
    near.close()
    far.close()


def not_stock(reason):
    if monitor_of(asyncio.get_running_loop()) == STOCK:
        pytest.skip(f"stock asyncio {reason}")


@contextlib.asynccontextmanager
async def open_narrow(kind="tcp"):
    """open_transport with buffers that do not hold the file."""
    async with open_transport(kind=kind) as (transport, protocol, peer):
        shrink_buffers(transport.get_extra_info("socket"), peer, count=1 << 16)
        yield transport, protocol, peer


def no_executor(loop, monkeypatch):
    """Make the test fail unless sendfile(2) is used: the fallback would read in a thread."""

    def refuse(*_args):
        raise AssertionError("run_in_executor was called")

    monkeypatch.setattr(loop, "run_in_executor", refuse)


# sock_sendfile


async def test_a_file_is_sent_although_no_descriptor_is_left(kind, file, monkeypatch):
    def refuse(sock):
        raise OSError(errno.EMFILE, "no descriptor left")

    async with open_transport(kind=kind) as (transport, _protocol, peer):
        monkeypatch.setattr(socket.socket, "dup", refuse)
        sending = asyncio.ensure_future(asyncio.get_running_loop().sendfile(transport, file))
        assert await read_exactly(peer, SIZE) == pattern(SIZE)
        assert await sending == SIZE
        assert file.tell() == SIZE


async def test_sock_sendfile_waits_for_a_slow_reader(pair, file, monkeypatch):
    near, far = pair
    loop = asyncio.get_running_loop()
    no_executor(loop, monkeypatch)
    task = asyncio.ensure_future(loop.sock_sendfile(near, file))
    await turns(10)
    assert not task.done()
    assert await read_exactly(far, SIZE) == pattern(SIZE)
    assert await task == SIZE
    assert file.tell() == SIZE
    assert not loop.remove_writer(near)


@pytest.mark.skipif(sys.version_info < (3, 14, 10), reason="asyncio leaves the position where it was")
async def test_sock_sendfile_from_the_end_leaves_the_position_there(pair, file):
    file.seek(123)
    assert await asyncio.get_running_loop().sock_sendfile(pair[0], file, SIZE, fallback=False) == 0
    assert file.tell() == SIZE


async def test_cancelled_sock_sendfile_leaves_the_files_position_after_the_sent_bytes(pair, file):
    not_stock("leaves the position where it was")
    near, far = pair
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(loop.sock_sendfile(near, file, 1000))
    await turns(10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not loop.remove_writer(near)
    sent = file.tell() - 1000
    assert 0 < sent < SIZE
    near.close()
    assert await read_to_end(far) == pattern(SIZE)[1000 : 1000 + sent]


@pytest.mark.parametrize("end", ["cancelled", "destroyed", "more room"])
async def test_sock_sendfile_leaves_a_file_alone_that_reuses_its_closed_files_number(pair, tmp_path, end):
    not_stock("sends, and moves, the other file")
    near, far = pair
    loop = asyncio.get_running_loop()
    (tmp_path / "sent").write_bytes(b"s" * SIZE)
    (tmp_path / "other").write_bytes(b"o" * SIZE)
    sent_file = open(tmp_path / "sent", "rb")  # noqa: SIM115  (it is closed too early)
    sending = loop.sock_sendfile(near, sent_file)
    future = sending.send(None)  # waits for room
    future._asyncio_future_blocking = False
    number = sent_file.fileno()
    sent_file.close()
    with open(tmp_path / "other", "rb") as other:
        assert other.fileno() == number
        if end == "more room":
            while not future.done():
                with contextlib.suppress(BlockingIOError):
                    assert b"o" not in far.recv(1 << 16)
                await asyncio.sleep(0)
            with pytest.raises(OSError) as caught:
                sending.throw(future.exception())
            assert caught.value.errno == errno.EBADF
        elif end == "cancelled":
            with pytest.raises(asyncio.CancelledError):
                sending.throw(asyncio.CancelledError())
        else:
            sending.close()
        assert other.tell() == 0
    assert not loop.remove_writer(near)


async def test_sock_sendfile_into_a_full_socket_can_be_cancelled(pair, file):
    near, far = pair
    if near.family == socket.AF_UNIX and LINUX < (6, 5):
        pytest.skip("before Linux 6.5 sendfile(2) adds pages to a UNIX socket that is full")
    loop = asyncio.get_running_loop()
    filled = fill(near)
    task = asyncio.ensure_future(loop.sock_sendfile(near, file, 10))
    await turns(3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not loop.remove_writer(near)
    assert file.tell() == 0
    await read_exactly(far, filled)
    await loop.sock_sendall(near, b"next")
    assert await read_exactly(far, 4) == b"next"


async def test_sock_sendfile_of_more_than_the_file_has_sends_the_file(pair, file):
    near, far = pair
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(loop.sock_sendfile(near, file, SIZE - 100, 1000))
    assert await read_exactly(far, 100) == pattern(SIZE)[-100:]
    assert await task == 100
    assert await loop.sock_sendfile(near, file, SIZE + 5) == 0


async def test_sock_sendfile_to_a_peer_that_goes_away_raises(pair, file):
    near, far = pair
    task = asyncio.ensure_future(asyncio.get_running_loop().sock_sendfile(near, file))
    await turns(5)
    reset_on_close(far)
    far.close()
    with pytest.raises(ConnectionError):
        await task
    assert not asyncio.get_running_loop().remove_writer(near)


async def test_sock_sendfile_to_a_peer_that_is_gone_raises(pair, file):
    near, far = pair
    reset_on_close(far)
    far.close()
    await turns(2)
    with pytest.raises(ConnectionError):
        await asyncio.get_running_loop().sock_sendfile(near, file)


async def test_sock_sendfile_refuses_datagram_sockets(file):
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        with pytest.raises(ValueError, match="SOCK_STREAM"):
            await asyncio.get_running_loop().sock_sendfile(sock, file)


async def test_other_callbacks_run_while_a_fast_peer_reads(file, tmp_path):
    """One sendfile(2) must not continue as long as the peer keeps up."""
    loop = asyncio.get_running_loop()
    not_stock("sends as much as it can")
    path = tmp_path / "sparse"
    with open(path, "wb") as sparse:
        sparse.truncate(64 << 20)
    near, far = socketpair("tcp")
    near.setblocking(False)

    def drain():
        left = 64 << 20
        buffer = bytearray(1 << 20)
        while left:
            left -= far.recv_into(buffer)

    reading = loop.run_in_executor(None, drain)
    with open(path, "rb") as sparse:
        sending = asyncio.ensure_future(loop.sock_sendfile(near, sparse))
        count = 0
        while not sending.done():
            await asyncio.sleep(0)
            count += 1
        assert await sending == 64 << 20
    assert count >= 32
    await reading
    near.close()
    far.close()


# loop.sendfile


async def test_sendfile_leaves_the_transport_usable(kind, file, monkeypatch):
    loop = asyncio.get_running_loop()
    no_executor(loop, monkeypatch)
    async with open_narrow(kind) as (transport, protocol, peer):
        transport.write(b"before")
        sending = asyncio.ensure_future(loop.sendfile(transport, file, fallback=False))
        await turns(3)
        with pytest.raises(RuntimeError, match="sendfile is in progress"):
            transport.write(b"x")
        with pytest.raises(RuntimeError, match="sendfile is in progress"):
            transport.writelines([b"x"])
        peer.send(b"early")
        assert await read_exactly(peer, 6 + SIZE) == b"before" + pattern(SIZE)
        assert await sending == SIZE
        transport.write(b"after")
        assert await read_exactly(peer, 5) == b"after"
        assert await protocol.received(5) == b"early"
        with pytest.raises(RuntimeError, match="used by transport"):
            loop.add_writer(transport.get_extra_info("socket").fileno(), print)


async def test_sendfile_waits_for_unsent_writes(kind, file):
    """On io_uring a waiting SEND is in flight; a file sent meanwhile would arrive in the middle of its data."""
    loop = asyncio.get_running_loop()
    async with open_narrow(kind) as (transport, _protocol, peer):
        filled = 0
        while not transport.get_write_buffer_size():
            transport.write(bytes(1 << 20))
            filled += 1 << 20
            await turns(2)
        sending = asyncio.ensure_future(loop.sendfile(transport, file))
        await turns(5)
        assert file.tell() == 0
        assert await read_exactly(peer, filled) == bytes(filled)
        assert await read_exactly(peer, SIZE) == pattern(SIZE)
        assert await sending == SIZE


async def test_a_paused_transport_stays_paused(file):
    loop = asyncio.get_running_loop()
    async with open_narrow() as (transport, protocol, peer):
        transport.pause_reading()
        sending = asyncio.ensure_future(loop.sendfile(transport, file, 0, 100))
        await read_exactly(peer, 100)
        await sending
        assert not transport.is_reading()
        peer.send(b"held")
        await turns(5)
        assert not protocol.data


async def test_resume_reading_during_sendfile_disturbs_neither(kind, file):
    loop = asyncio.get_running_loop()
    async with open_narrow(kind) as (transport, protocol, peer):
        sending = asyncio.ensure_future(loop.sendfile(transport, file))
        await turns(5)
        assert not sending.done()
        transport.resume_reading()
        peer.send(b"meanwhile")
        assert await protocol.received(9) == b"meanwhile"
        transport.pause_reading()
        await turns(2)
        transport.resume_reading()
        assert await read_exactly(peer, SIZE) == pattern(SIZE)
        assert await sending == SIZE


@pytest.mark.parametrize("how", ["abort", "close"])
async def test_sendfile_ends_when_the_transport_is_closed_under_it(kind, how, file):
    not_stock("waits for ever")
    loop = asyncio.get_running_loop()
    async with open_narrow(kind) as (transport, protocol, peer):
        sending = asyncio.ensure_future(loop.sendfile(transport, file))
        await turns(5)
        assert not sending.done()
        getattr(transport, how)()
        with pytest.raises(ConnectionError):
            await sending
        assert protocol.lost.is_set()
        assert 0 < file.tell() < SIZE
        got = await read_to_end(peer)
        assert got == pattern(len(got))


async def test_sendfile_that_waits_for_earlier_writes_ends_with_the_connection(file):
    loop = asyncio.get_running_loop()
    async with open_narrow() as (transport, _protocol, _peer):
        while not transport.get_write_buffer_size():
            transport.write(bytes(1 << 20))
            await turns(2)
        sending = asyncio.ensure_future(loop.sendfile(transport, file))
        await turns(3)
        transport.abort()
        with pytest.raises(ConnectionError):
            await sending
        assert file.tell() == 0


async def test_cancelled_sendfile_releases_the_transport(kind, file):
    not_stock("leaves the file's position where it was")
    loop = asyncio.get_running_loop()
    async with open_narrow(kind) as (transport, protocol, peer):
        sending = asyncio.ensure_future(loop.sendfile(transport, file))
        await turns(5)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        sent = file.tell()
        transport.write(b"after")
        assert await read_exactly(peer, sent + 5) == pattern(sent) + b"after"
        peer.send(b"reply")
        assert await protocol.received(5) == b"reply"


async def test_sendfile_cancelled_while_it_waits_for_writes_releases_the_transport(file):
    not_stock("leaves the transport paused and refuses writes for ever")
    loop = asyncio.get_running_loop()
    async with open_narrow() as (transport, protocol, peer):
        filled = 0
        while not transport.get_write_buffer_size():
            transport.write(bytes(1 << 20))
            filled += 1 << 20
            await turns(2)
        sending = asyncio.ensure_future(loop.sendfile(transport, file))
        await turns(3)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        transport.write(b"after")
        assert (await read_exactly(peer, filled + 5)).endswith(b"after")
        peer.send(b"reply")
        assert await protocol.received(5) == b"reply"


async def test_a_second_sendfile_at_the_same_time_is_refused(file, tmp_path):
    loop = asyncio.get_running_loop()
    async with open_narrow() as (transport, _protocol, peer):
        sending = asyncio.ensure_future(loop.sendfile(transport, file))
        await turns(5)
        with pytest.raises((RuntimeError, KeyError)):
            await loop.sendfile(transport, file)
        assert await read_exactly(peer, SIZE) == pattern(SIZE)
        assert await sending == SIZE


async def test_sendfile_to_a_peer_that_goes_away_raises_and_the_connection_is_lost(file):
    loop = asyncio.get_running_loop()
    async with open_narrow() as (transport, protocol, peer):
        sending = asyncio.ensure_future(loop.sendfile(transport, file))
        await turns(5)
        reset_on_close(peer)
        peer.close()
        with pytest.raises(ConnectionError):
            await sending
        await until(protocol.lost.is_set)
        assert transport.is_closing()


async def test_sendfile_of_an_object_without_a_descriptor_falls_back_or_is_refused(tmp_path):
    import io

    loop = asyncio.get_running_loop()
    async with open_narrow() as (transport, _protocol, peer):
        with pytest.raises(asyncio.SendfileNotAvailableError):
            await loop.sendfile(transport, io.BytesIO(b"memory"), fallback=False)
        assert await loop.sendfile(transport, io.BytesIO(b"memory")) == 6
        assert await read_exactly(peer, 6) == b"memory"
        transport.write(b"after")
        assert await read_exactly(peer, 5) == b"after"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((-1,), ValueError),
        ((0.0,), TypeError),
        ((0, -1), ValueError),
        ((0, 0), ValueError),
        ((0, 1.5), TypeError),
    ],
)
async def test_sendfile_refuses_invalid_numbers(arguments, error, file):
    loop = asyncio.get_running_loop()
    async with open_transport() as (transport, _, peer):
        with pytest.raises(error, match=r"must be a (positive|non-negative) integer"):
            await loop.sendfile(transport, file, *arguments)
        transport.write(b"goes on")
        assert await read_exactly(peer, 7) == b"goes on"


async def test_sendfile_refuses_text_files(tmp_path):
    path = tmp_path / "text"
    path.write_text("text")
    async with open_transport() as (transport, _, _peer):
        with open(path) as text, pytest.raises(ValueError, match="binary mode"):
            await asyncio.get_running_loop().sendfile(transport, text)


async def test_sendfile_requires_a_socket_transport(file, tmp_path):
    loop = asyncio.get_running_loop()
    with open(tmp_path / "pipe", "wb") as out, contextlib.suppress(ValueError):
        transport, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, out)
        pytest.fail(f"a regular file is no pipe: {transport}")
    endpoint, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", 0))
    with pytest.raises(RuntimeError, match="not supported"):
        await loop.sendfile(endpoint, file)
    endpoint.abort()
    await turns(3)


async def test_a_paused_protocol_is_resumed_before_the_file_is_sent(file):
    """pause_writing and resume_writing stay paired around a sendfile."""
    loop = asyncio.get_running_loop()
    async with open_narrow() as (transport, protocol, peer):
        filled = 0
        while not protocol.paused.is_set():
            transport.write(bytes(1 << 20))
            filled += 1 << 20
            await turns(1)
        sending = asyncio.ensure_future(loop.sendfile(transport, file))
        await read_exactly(peer, filled + SIZE)
        assert await sending == SIZE
        assert protocol.calls.count("pause_writing") == protocol.calls.count("resume_writing") == 1

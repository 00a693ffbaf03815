"""connect_read_pipe and connect_write_pipe."""

# ruff: noqa: SIM115 (the transport closes the file)

import asyncio
import errno
import os
import socket

import pytest
from support.helpers import STOCK, Recorder, fill, monitor_of, read_to_end, turns, until


class Writer(Recorder):
    """A write pipe's protocol: it records pause, resume and the end."""


async def open_reader(protocol=None):
    read_fd, write_fd = os.pipe()
    protocol = protocol or Recorder()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: protocol, open(read_fd, "rb", 0))
    return transport, protocol, write_fd


async def open_writer():
    read_fd, write_fd = os.pipe()
    os.set_blocking(read_fd, False)
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(Writer, open(write_fd, "wb", 0))
    return transport, protocol, read_fd


async def test_read_pipe_delivers_data_and_end():
    _transport, protocol, write_fd = await open_reader()
    os.write(write_fd, b"through a pipe")
    assert await protocol.received(14) == b"through a pipe"
    os.close(write_fd)
    await protocol.lost.wait()
    assert protocol.calls == ["connection_made", "data_received", "eof_received", "connection_lost"]
    assert protocol.error is None


async def test_read_pipe_can_be_paused_and_resumed():
    transport, protocol, write_fd = await open_reader()
    transport.pause_reading()
    os.write(write_fd, b"later")
    await turns(5)
    assert protocol.data == b""
    transport.resume_reading()
    assert await protocol.received(5) == b"later"
    transport.close()
    await protocol.lost.wait()
    os.close(write_fd)


@pytest.mark.expects_loop_errors
async def test_a_read_pipe_that_cannot_be_watched_is_closed(monkeypatch):
    """No memory in the kernel, for example: the protocol gets the error instead of waiting for ever."""
    loop = asyncio.get_running_loop()
    if monitor_of(loop) == STOCK:
        pytest.skip("asyncio only reports it")
    if not hasattr(asyncio.unix_events._UnixReadPipeTransport, "_add_reader"):
        pytest.skip("of this Python the base of our transport calls the loop itself: as asyncio")

    def add_reader(fd, callback):
        raise OSError(errno.ENOMEM, "no memory")

    monkeypatch.setattr(loop, "_add_reader", add_reader)
    _transport, protocol, write_fd = await open_reader()
    await protocol.lost.wait()
    assert protocol.calls == ["connection_made", "connection_lost"]
    assert protocol.error.errno == errno.ENOMEM
    os.close(write_fd)


async def test_write_pipe_writes_in_order():
    transport, protocol, read_fd = await open_writer()
    for number in range(10):
        transport.write(b"%d" % number)
    transport.close()
    await protocol.lost.wait()
    assert os.read(read_fd, 100) == b"0123456789"
    assert os.read(read_fd, 100) == b""
    os.close(read_fd)


async def test_write_pipe_keeps_data_that_the_kernel_does_not_take():
    transport, protocol, read_fd = await open_writer()
    data = os.urandom(300_000)
    transport.write(data)
    assert transport.get_write_buffer_size() > 0
    assert protocol.calls == ["connection_made", "pause_writing"]
    got = bytearray()

    def complete():
        try:
            got.extend(os.read(read_fd, 1 << 16))
        except BlockingIOError:
            pass
        return len(got) == len(data)

    await until(complete)
    assert got == data
    await protocol.resumed.wait()
    transport.close()
    await protocol.lost.wait()
    os.close(read_fd)


async def test_write_pipe_is_closed_when_the_reader_is_gone():
    transport, protocol, read_fd = await open_writer()
    os.close(read_fd)
    await protocol.lost.wait()
    assert transport.is_closing()
    assert protocol.error is None or isinstance(protocol.error, BrokenPipeError)


async def test_write_pipe_reports_a_broken_pipe_when_data_waits():
    transport, protocol, read_fd = await open_writer()
    transport.write(bytes(300_000))
    os.close(read_fd)
    await protocol.lost.wait()
    assert isinstance(protocol.error, BrokenPipeError)


async def test_write_eof_sends_unsent_data_and_closes():
    transport, protocol, read_fd = await open_writer()
    assert transport.can_write_eof()
    transport.write(b"last")
    transport.write_eof()
    await protocol.lost.wait()
    assert os.read(read_fd, 10) == b"last"
    assert os.read(read_fd, 10) == b""
    os.close(read_fd)


async def test_abort_of_a_write_pipe_drops_unsent_data():
    transport, protocol, read_fd = await open_writer()
    transport.write(bytes(300_000))
    transport.abort()
    await protocol.lost.wait()
    assert protocol.error is None
    os.close(read_fd)


async def test_regular_files_are_refused(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"text")
    loop = asyncio.get_running_loop()
    with open(path, "rb", 0) as file:
        with pytest.raises((ValueError, PermissionError)):
            await loop.connect_read_pipe(Recorder, file)
    with open(path, "wb", 0) as file:
        with pytest.raises((ValueError, PermissionError)):
            await loop.connect_write_pipe(Recorder, file)


async def test_pipe_transports_are_instances_of_asyncios_classes():
    reading, reader, write_fd = await open_reader()
    writing, writer, read_fd = await open_writer()
    assert isinstance(reading, asyncio.ReadTransport)
    assert isinstance(writing, asyncio.WriteTransport)
    assert reading.get_extra_info("pipe").fileno() >= 0
    assert writing.get_extra_info("pipe").fileno() >= 0
    for transport, protocol in ((reading, reader), (writing, writer)):
        transport.close()
        await protocol.lost.wait()
    os.close(write_fd)
    os.close(read_fd)


async def test_a_socket_can_be_used_as_a_write_pipe():
    near, far = socket.socketpair()
    far.setblocking(False)
    transport, protocol = await asyncio.get_running_loop().connect_write_pipe(Writer, near)
    transport.write(b"hello")
    transport.close()
    await protocol.lost.wait()
    assert await read_to_end(far) == b"hello"
    far.close()


async def test_a_fifo_can_be_read_and_written(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    loop = asyncio.get_running_loop()
    read_fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    write_fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    _, reader = await loop.connect_read_pipe(Recorder, open(read_fd, "rb", 0))
    writing, writer = await loop.connect_write_pipe(Writer, open(write_fd, "wb", 0))
    writing.write(b"fifo")
    assert await reader.received(4) == b"fifo"
    writing.close()
    await writer.lost.wait()
    await reader.lost.wait()


async def test_a_terminal_can_be_used(tmp_path):
    import pty

    loop = asyncio.get_running_loop()
    master, slave = pty.openpty()
    _transport, reader = await loop.connect_read_pipe(Recorder, open(master, "rb", 0))
    os.write(slave, b"typed")
    assert await reader.received(5) == b"typed"
    reader.transport.close()
    await reader.lost.wait()
    os.close(slave)


async def test_data_for_a_full_pipe_is_written_once_there_is_room():
    near, far = socket.socketpair()
    far.setblocking(False)
    near.setblocking(False)
    before = fill(near)
    transport, protocol = await asyncio.get_running_loop().connect_write_pipe(Writer, near)
    transport.write(b"tail")
    assert transport.get_write_buffer_size() == 4
    transport.close()
    data = await read_to_end(far)
    assert data.endswith(b"tail")
    assert len(data) == before + 4
    await protocol.lost.wait()
    far.close()

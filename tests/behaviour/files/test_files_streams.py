"""Files without positions: FIFOs, pipes, terminals. Nothing blocks the loop, and a cancelled reader loses nothing."""

import asyncio
import contextlib
import fcntl
import io
import os
import pty
import signal
import socket
import sys
import threading
import tty
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.helpers import (
    kernel_workers,
    one_turn,
    pattern,
    shrink_buffers,
    socketpair,
    turn_until,
    turns,
    until,
    wchan,
)

from uringloop import files


@pytest.fixture
def fifo(tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


async def both_ends(path):
    reading, writing = files.open(path, "rb"), files.open(path, "wb")
    return await asyncio.gather(reading, writing)


def is_waited_for(fifo):
    """Whether a thread sleeps in the kernel until the other end of a FIFO is opened."""
    threads = [thread for thread in threading.enumerate() if thread.name == f"open {fifo}"]
    return any(thread.native_id and wchan(thread.native_id) == "wait_for_partner" for thread in threads)


async def test_opening_a_fifo_waits_for_the_other_end(fifo):
    for first, second in (("rb", "wb"), ("wb", "rb")):
        waiting = asyncio.ensure_future(files.open(fifo, first))
        await until(lambda: is_waited_for(fifo))
        assert not waiting.done()
        async with files.open(fifo, second) as other:
            async with await waiting as one:
                writer, reader = (one, other) if first == "wb" else (other, one)
                await writer.write(b"through\n")
                await writer.flush()
                assert await reader.readline() == b"through\n"


@pytest.mark.parametrize("mode", ["rb", "wb", "r", "w"])
async def test_waiting_for_the_other_end_can_be_cancelled(fifo, mode):
    opening = asyncio.ensure_future(files.open(fifo, mode))
    await turns(5)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening


@pytest.mark.parametrize("mode", ["rb", "wb", "w"])
async def test_many_waiting_fifos_do_not_delay_other_files(tmp_path, mode):
    """Otherwise a few of them take all threads of the executor, or all workers of the ring."""
    paths = [tmp_path / f"fifo {number}" for number in range(40)]
    for path in paths:
        os.mkfifo(path)
    waiting = [asyncio.ensure_future(files.open(path, mode)) for path in paths]
    await turns(20)
    async with files.open(tmp_path / "file", "wb") as file:
        await file.write(b"x")
        await file.fsync()
    assert not any(task.done() for task in waiting)
    others = [await files.open(path, "wb" if mode == "rb" else "rb") for path in paths[:20]]
    for end in [*others, *await asyncio.gather(*waiting[:20])]:
        assert os.get_blocking(end.fileno())
        await end.close()
    for task in waiting[20:]:
        task.cancel()
    results = await asyncio.gather(*waiting[20:], return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)


@pytest.mark.parametrize("mode", ["wb", "xb", "ab", "r+b"])
async def test_files_are_blocking_as_with_open(tmp_path, mode):
    path = tmp_path / "file"
    if mode == "r+b":
        path.touch()
    async with files.open(path, mode) as file:
        assert os.get_blocking(file.fileno())
        assert bool(fcntl.fcntl(file.fileno(), fcntl.F_GETFL) & os.O_APPEND) == (mode == "ab")
    async with files.TemporaryFile() as file:
        assert os.get_blocking(file.fileno())


async def test_opening_waits_until_a_lease_is_released(tmp_path):
    """The holder is notified by a signal, and may take some time."""
    path = tmp_path / "file"
    path.touch()
    fd = os.open(path, os.O_RDWR)
    was = signal.signal(signal.SIGIO, signal.SIG_IGN)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        opening = asyncio.ensure_future(files.open(path, "wb"))
        # The holder can see that the file is requested.
        await until(lambda: fcntl.fcntl(fd, fcntl.F_GETLEASE) != fcntl.F_WRLCK)
        await turns(5)
        assert not opening.done()
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        async with await opening as file:
            assert os.get_blocking(file.fileno())
    finally:
        os.close(fd)
        signal.signal(signal.SIGIO, was)


async def test_waiting_for_an_unlinked_fifo_can_be_cancelled(fifo):
    opening = asyncio.ensure_future(files.open(fifo, "rb"))
    await until(lambda: is_waited_for(fifo))
    fifo.unlink()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    # The thread closes what it has opened: the fixture that counts descriptors checks it.
    await until(lambda: not any(thread.name == f"open {fifo}" for thread in threading.enumerate()))


@pytest.mark.parametrize("mode", ["rb", "wb"])
@pytest.mark.parametrize("n_turns", range(5))
def test_a_fifo_opened_after_the_loop_was_stopped_is_closed(loop, fifo, mode, n_turns):
    """The loop is closed before the task that waited for the FIFO continues: the descriptor has no owner."""

    async def open_it():
        await (await files.open(fifo, mode, 0)).close()

    executor = ThreadPoolExecutor(1)
    loop.set_default_executor(executor)
    opening = loop.create_task(open_it())
    opening._log_destroy_pending = False
    turn_until(loop, lambda: any(thread.name == f"open {fifo}" for thread in threading.enumerate()))
    (thread,) = (thread for thread in threading.enumerate() if thread.name == f"open {fifo}")
    other_fd = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    thread.join()
    for _ in range(n_turns):
        one_turn(loop)
    loop.close()
    executor.shutdown()  # waits for a close in its thread
    os.close(other_fd)
    # the fixture that counts descriptors checks that nothing stays open


@pytest.mark.parametrize("n_turns", [1, 2, 3])
def test_a_file_whose_opening_was_left_with_its_loop_is_closed(loop, tmp_path, n_turns):
    async def open_it():
        await (await files.open(tmp_path / "new", "wb", 0)).close()

    executor = ThreadPoolExecutor(1)
    loop.set_default_executor(executor)
    opening = loop.create_task(open_it())
    opening._log_destroy_pending = False
    for _ in range(n_turns):
        one_turn(loop)
    loop.close()
    executor.shutdown()  # waits for an open or a close in its thread
    # as above


async def test_a_fifo_is_read_to_its_end(fifo):
    reader, writer = await both_ends(fifo)
    async with reader:
        reading = asyncio.ensure_future(reader.read())
        async with writer:
            for _ in range(5):
                await writer.write(b"x" * 50_000)
                await writer.flush()
        assert await reading == b"x" * 250_000
        assert await reader.read() == b""


async def test_lines_arrive_as_they_are_written(fifo):
    reader, writer = await both_ends(fifo)
    async with reader, writer:
        for number in range(20):
            await writer.write(b"%d\n" % number)
            await writer.flush()
            assert await reader.readline() == b"%d\n" % number


async def test_a_reader_that_waits_does_not_block_the_loop(fifo):
    reader, writer = await both_ends(fifo)
    async with reader, writer:
        reading = asyncio.ensure_future(reader.read(3))
        await turns(20)
        assert not reading.done()
        await writer.write(b"abc")
        await writer.flush()
        assert await reading == b"abc"


@pytest.mark.parametrize("buffering", [-1, 0])
async def test_a_cancelled_reader_loses_nothing(fifo, buffering):
    writer_fd = os.open(fifo, os.O_RDWR)
    try:
        async with files.open(fifo, "rb", buffering) as reader:
            received = b""
            sent = b""
            for number in range(50):
                reading = asyncio.ensure_future(reader.read(10))
                await turns(number % 4)
                data = b"<%03d>" % number
                os.write(writer_fd, data)
                sent += data
                await turns(number % 3)
                reading.cancel()
                try:
                    received += await reading
                except asyncio.CancelledError:
                    pass
            rest = asyncio.ensure_future(reader.read(1)) if received == sent else None
            while received != sent:
                received += await reader.read(1)
            if rest is not None:
                rest.cancel()
                await asyncio.gather(rest, return_exceptions=True)
            assert received == sent
    finally:
        os.close(writer_fd)


class ScriptedReads:
    """Stands for a file's backend: each read returns the next result, or raises it."""

    def __init__(self, *results):
        self.results = list(results)

    async def read(self, fd, count, offset):
        result = self.results.pop(0)
        if isinstance(result, BaseException):
            raise result
        return result


@pytest.mark.parametrize("error", [asyncio.CancelledError, MemoryError])
@pytest.mark.parametrize("how", ["read", "read to the end"])
@pytest.mark.parametrize(("mode", "buffering"), [("rb", -1), ("rb", 0), ("r", -1)])
async def test_data_that_arrived_during_a_cancellation_stays_in_order(fifo, mode, buffering, how, error):
    """The read that is cancelled has some data already, and its last system call brings more."""
    writer_fd = os.open(fifo, os.O_RDWR)
    try:
        async with files.open(fifo, mode, buffering) as reader:
            cancelled = error()
            cancelled.outcome = b"cd"
            file = reader.buffer if mode == "r" else reader
            actual = file._backend
            first = [] if (buffering, how) == (0, "read") else [b"ab"]  # unbuffered, that is the whole result
            file._backend = ScriptedReads(*first, cancelled)
            with pytest.raises(error):
                await (reader.read(6) if how == "read" else reader.read())
            file._backend = actual
            os.write(writer_fd, b"ef")
            received = await reader.read(0)
            while len(received) < 2 * len(first) + 4:
                received += await reader.read(1)
            assert received in (b"abcdef"[2 - 2 * len(first) :], "abcdef")
    finally:
        os.close(writer_fd)


async def test_a_line_whose_read_was_cancelled_halfway_is_read_whole(fifo):
    writer_fd = os.open(fifo, os.O_RDWR)
    try:
        async with files.open(fifo, "r", encoding="utf-8") as reader:
            reading = asyncio.ensure_future(reader.readline())
            os.write(writer_fd, "begin ä".encode()[:-1])
            await turns(20)
            assert not reading.done()
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            os.write(writer_fd, "ä".encode()[1:] + b" end\n")
            assert await reader.readline() == "begin ä end\n"
    finally:
        os.close(writer_fd)


async def test_a_cancelled_writer_reports_how_much_it_wrote(fifo):
    reader_fd = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    try:
        writer = await files.open(fifo, "wb")
        writing = asyncio.ensure_future(writer.write(b"x" * 1_000_000))
        await until(lambda: _unread(reader_fd) > 60_000)
        assert not writing.done()
        writing.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await writing
        written = _unread(reader_fd)
        assert caught.value.characters_written == written > 0
        await writer.close()
        assert len(os.read(reader_fd, 1_000_000)) == written
    finally:
        os.close(reader_fd)


def _unread(fd):
    import array
    import fcntl
    import termios

    count = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, count)
    return count[0]


async def test_closing_with_a_full_pipe_can_be_cancelled(fifo):
    reader_fd = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    try:
        writer = await files.open(fifo, "wb")
        os.write(reader_fd, b"f" * 65536)
        await writer.write(b"never to be written")
        closing = asyncio.ensure_future(writer.close())
        await turns(10)
        assert not closing.done()
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert writer.closed
        assert os.read(reader_fd, 100_000) == b"f" * 65536
    finally:
        os.close(reader_fd)


async def test_a_broken_pipe_raises_broken_pipe_error(fifo):
    reader, writer = await both_ends(fifo)
    await reader.close()
    await writer.write(b"x")
    with pytest.raises(BrokenPipeError):
        await writer.flush()
    with pytest.raises(BrokenPipeError):
        await writer.close()


async def test_streams_have_no_positions(fifo):
    reader, writer = await both_ends(fifo)
    async with reader, writer:
        assert not await reader.seekable()
        with pytest.raises(OSError, match="Illegal seek"):
            await reader.tell()
        with pytest.raises(io.UnsupportedOperation, match="not seekable"):
            await reader.seek(0)
        with pytest.raises(OSError, match="Illegal seek"):
            await reader.pread(1, 0)
    with pytest.raises(io.UnsupportedOperation, match="not seekable"):
        await files.open(fifo, "r+b")
    async with files.open(fifo, "r+b", 0) as both:
        await both.write(b"raw")
        assert await both.read(10) == b"raw"


async def test_a_non_blocking_descriptor_waits_without_blocking_the_loop():
    reading_fd, writing_fd = os.pipe()
    os.set_blocking(reading_fd, False)
    os.set_blocking(writing_fd, False)
    async with files.open(reading_fd, "rb") as reader, files.open(writing_fd, "wb") as writer:
        line = asyncio.ensure_future(reader.readline())
        await turns(10)
        await writer.write(b"late\n")
        await writer.flush()
        assert await line == b"late\n"
        much = asyncio.ensure_future(reader.read(500_000))
        await writer.write(b"y" * 500_000)
        await writer.flush()
        assert await much == b"y" * 500_000


async def test_terminals():
    controlling_fd, terminal_fd = pty.openpty()
    try:
        async with files.open(os.ttyname(terminal_fd), "r") as terminal:
            assert await terminal.isatty()
            assert terminal.line_buffering
            line = asyncio.ensure_future(terminal.readline())
            await turns(10)
            assert not line.done()
            os.write(controlling_fd, b"typed\n")
            assert await line == "typed\n"
    finally:
        os.close(controlling_fd)
        os.close(terminal_fd)


@pytest.mark.parametrize("is_master", [False, True], ids=["slave", "master"])
async def test_a_full_terminal_does_not_stop_the_loop(is_master):
    """The kernel writes to a terminal while the request is submitted, and would wait there, and the loop with it."""
    ends = pty.openpty()
    tty.setraw(ends[1])
    writing_fd, reading_fd = ends if is_master else ends[::-1]
    os.set_blocking(reading_fd, False)
    data = pattern(300_000)
    async with files.open(writing_fd, "wb", buffering=0) as terminal, files.open(os.devnull, "rb") as other:
        writing = asyncio.ensure_future(write_all(terminal, data))
        for _ in range(100):
            await other.read(1)
        assert not writing.done()
        arrived = bytearray()

        def is_all_there():
            with contextlib.suppress(BlockingIOError):
                arrived.extend(os.read(reading_fd, 65536))
            return len(arrived) == len(data)

        await until(is_all_there)
        await writing
        assert arrived == data
    os.close(reading_fd)


async def write_all(file, data):
    left = memoryview(data)
    while left:
        left = left[await file.write(left) :]


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_files_of_sockets_whose_peers_do_not_read_start_no_kernel_threads(kind):
    """The kernel reports the socket of a peer that has shut down its side as ready, tries to write, and then waits."""
    n_before = kernel_workers()
    peers, opened, writing = [], [], []
    for _ in range(20):
        near, peer = socketpair(kind)
        shrink_buffers(near, peer)
        peer.shutdown(socket.SHUT_WR)
        opened.append(await files.open(near.detach(), "wb", buffering=0))
        peers.append(peer)
        writing.append(asyncio.ensure_future(write_all(opened[-1], bytes(1_000_000))))
    await asyncio.sleep(0.1)  # the kernel makes its threads when it likes
    await turns(100)
    assert kernel_workers() <= n_before + 8
    assert not any(task.done() for task in writing)
    for task in writing:
        task.cancel()
    await asyncio.gather(*writing, return_exceptions=True)
    for peer in peers:
        peer.close()
    for file in opened:
        await file.close()


async def test_standard_input(monkeypatch):
    script = (
        "import asyncio, sys, uringloop\n"
        "async def main():\n"
        "    ticks = 0\n"
        "    async def tick():\n"
        "        nonlocal ticks\n"
        "        while True:\n"
        "            await asyncio.sleep(0.001)\n"
        "            ticks += 1\n"
        "            if ticks == 1:\n"
        "                print('ticked', flush=True)\n"
        "    async with uringloop.open('/dev/stdin') as file:\n"
        "        print('ready', flush=True)\n"
        "        ticking = asyncio.ensure_future(tick())\n"
        "        async for line in file:\n"
        "            print(line.strip() if ticks else 'no ticks', flush=True)\n"
        "    ticking.cancel()\n"
        "uringloop.run(main())\n"
    )
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert await child.stdout.readline() == b"ready\n"
    assert await child.stdout.readline() == b"ticked\n"
    child.stdin.write(b"one\n")
    assert await child.stdout.readline() == b"one\n"
    child.stdin.write(b"two\n")
    child.stdin.close()
    assert await child.stdout.read() == b"two\n"
    assert await child.wait() == 0


async def test_splice_between_pipes_files_and_sockets(tmp_path):
    content = os.urandom(300_000)
    path = tmp_path / "file"
    path.write_bytes(content)
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    async with files.open(path, "rb") as file:
        with left, right:
            sending = asyncio.ensure_future(files.splice(file, left, 1 << 30, offset_src=100))
            received = b""
            while len(received) < len(content) - 100:
                received += await asyncio.get_running_loop().sock_recv(right, 65536)
            assert received == content[100:]
            assert await sending == len(content) - 100
        reading_fd, writing_fd = os.pipe()
        async with files.open(tmp_path / "copy", "wb") as copy:
            moved = await asyncio.gather(
                files.splice(file, writing_fd, 200_000, offset_src=0),
                files.splice(reading_fd, copy, 200_000, offset_dst=7),
            )
        assert moved == [200_000, 200_000]
        os.close(writing_fd)
        os.close(reading_fd)
    assert (tmp_path / "copy").read_bytes() == bytes(7) + content[:200_000]


async def test_waiting_splices_start_no_kernel_threads():
    n_before = kernel_workers()
    pipes = [os.pipe() for _ in range(40)]
    sinks = [os.pipe() for _ in range(40)]
    waiting = [
        asyncio.ensure_future(files.splice(pipe[0], sink[1], 1))
        for pipe, sink in zip(pipes, sinks, strict=True)
    ]
    await asyncio.sleep(0.05)  # the kernel makes its threads when it likes
    assert kernel_workers() - n_before <= 1
    for _, writing in pipes:
        os.write(writing, b"x")
    assert await asyncio.gather(*waiting) == [1] * 40
    assert [os.read(sink[0], 100) for sink in sinks] == [b"x"] * 40
    for fd in sum([*pipes, *sinks], ()):
        os.close(fd)


async def test_a_splice_to_a_peer_that_has_shut_down_its_side_waits_for_room(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(pattern(1 << 20))
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    with left, right:
        right.shutdown(socket.SHUT_WR)
        async with files.open(path, "rb") as file:
            sending = asyncio.ensure_future(files.splice(file, left, 1 << 20, offset_src=0))
            await turns(50)
            received = b""
            while len(received) < 1 << 20:
                received += await asyncio.get_running_loop().sock_recv(right, 65536)
            assert await sending == 1 << 20
        assert received == pattern(1 << 20)


async def test_a_cancelled_splice_reports_how_much_arrived(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(5 << 20))
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    with left, right:
        async with files.open(path, "rb") as file:
            sending = asyncio.ensure_future(files.splice(file, left, 5 << 20, offset_src=0))
            received = 0
            while received < 1 << 20:
                received += len(await asyncio.get_running_loop().sock_recv(right, 65536))
            sending.cancel()
            with pytest.raises(asyncio.CancelledError) as caught:
                await sending
        left.close()
        while data := await asyncio.get_running_loop().sock_recv(right, 65536):
            received += len(data)
        assert caught.value.characters_written == received

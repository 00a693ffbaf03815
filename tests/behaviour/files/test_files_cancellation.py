"""Cancelled file operations: positions stay exact, no write is torn, and the number of written bytes is known."""

import asyncio
import gc
import os
import random
import sys

import pytest
from support.helpers import turns

from uringloop import files


async def cancelled_after(coroutine, n_turns):
    """Cancel after some turns; return the result, or the CancelledError."""
    task = asyncio.ensure_future(coroutine)
    await turns(n_turns)
    task.cancel()
    try:
        return await task
    except asyncio.CancelledError as error:
        return error


@pytest.mark.parametrize("buffering", [-1, 0, 1000])
async def test_a_cancelled_read_reads_nothing(tmp_path, buffering):
    content = os.urandom(2_000_000)
    (tmp_path / "file").write_bytes(content)
    async with files.open(tmp_path / "file", "rb", buffering) as file:
        position = 0
        for number in range(200):
            size = (1, 10, 5000, 100_000, 600_000)[number % 5]
            data = await cancelled_after(file.read(size), number % 4)
            if isinstance(data, bytes):
                assert data == content[position : position + size]
                position += len(data)
            assert await file.tell() == position
            if number % 20 == 0:
                position = number * 1000
                await file.seek(position)
        assert await file.read() == content[position:]


@pytest.mark.parametrize("buffering", [-1, 0, 1000])
async def test_a_cancelled_write_reports_how_much_it_wrote(tmp_path, buffering):
    path = tmp_path / "file"
    expected = b""
    async with files.open(path, "wb", buffering) as file:
        for number in range(100):
            data = os.urandom((10, 3000, 200_000, 1_500_000)[number % 4])
            result = await cancelled_after(file.write(data), number % 5)
            # named by io: counts bytes, despite its name
            count = result if isinstance(result, int) else getattr(result, "characters_written", 0)
            expected += data[:count]
            assert await file.tell() == len(expected)
    assert path.read_bytes() == expected


async def test_a_cancelled_positional_write_reports_how_much_it_wrote(tmp_path):
    path = tmp_path / "file"
    expected = bytearray()
    async with files.open(path, "wb") as file:
        for number in range(50):
            data = os.urandom(300_000)
            result = await cancelled_after(file.pwrite(data, len(expected)), number % 5)
            count = result if isinstance(result, int) else getattr(result, "characters_written", 0)
            expected += data[:count]
            assert await file.tell() == 0
    assert path.read_bytes() == expected


async def test_appending_is_exact_when_cancelled(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"before")
    expected = b"before"
    async with files.open(path, "ab") as file:
        for number in range(60):
            data = os.urandom(150_000 if number % 2 else 100)
            result = await cancelled_after(file.write(data), number % 5)
            count = result if isinstance(result, int) else getattr(result, "characters_written", 0)
            expected += data[:count]
            if number % 7 == 0:
                await cancelled_after(file.flush(), number % 3)
            assert await file.tell() == len(expected)
    assert path.read_bytes() == expected


async def test_a_cancelled_flush_keeps_the_rest(tmp_path):
    path = tmp_path / "file"
    expected = b""
    async with files.open(path, "wb") as file:
        for number in range(60):
            await file.write(data := os.urandom(50_000))
            expected += data
            await cancelled_after(file.flush(), number % 5)
            assert await file.tell() == len(expected)
    assert path.read_bytes() == expected


async def test_closing_writes_everything_despite_cancellations(tmp_path):
    path = tmp_path / "file"
    for number in range(40):
        file = await files.open(path, "wb")
        await file.write(data := os.urandom(100_000))
        fd = file.fileno()
        closing = asyncio.ensure_future(file.close())
        for _ in range(number % 3 + 1):
            await turns(number % 5)
            closing.cancel()
        result = (await asyncio.gather(closing, return_exceptions=True))[0]
        if not file.closed:  # cancelled before it started
            assert isinstance(result, asyncio.CancelledError)
            await file.close()
        assert path.read_bytes() == data
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


async def test_a_cancelled_open_leaves_no_descriptor(tmp_path):
    path = tmp_path / "file"
    path.touch()
    before = len(os.listdir("/proc/self/fd"))
    for number in range(100):
        mode = ("rb", "wb", "r")[number % 3]
        result = await cancelled_after(files.open(path, mode), number % 6)
        if not isinstance(result, asyncio.CancelledError):
            await result.close()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.skipif(sys.version_info < (3, 11, 7), reason="asyncio.timeout() did not set the cause in 3.11.2")
async def test_the_cause_of_a_timeout_reports_how_much_was_written(tmp_path):
    reading_fd, writing_fd = os.pipe()
    async with files.open(reading_fd, "rb") as reader:
        async with files.open(writing_fd, "wb") as writer:
            with pytest.raises(TimeoutError) as caught:
                await asyncio.wait_for(writer.write(bytes(1 << 20)), 0.05)
            written = caught.value.__cause__.characters_written
            assert 0 < written < 1 << 20
            with pytest.raises(TimeoutError) as caught:
                async with asyncio.timeout(0.05):
                    await writer.write(bytes(1 << 20))
            assert caught.value.__cause__.characters_written == 0  # nothing was read from it
        assert len(await reader.read()) == written


async def test_a_timeout_around_open_raises_timeout_error(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await files.open(tmp_path / "fifo", "rb")


async def test_text_of_a_cancelled_read_is_read_again(tmp_path):
    text = "".join(f"{number} äöü\n" for number in range(20_000))
    (tmp_path / "file").write_text(text, encoding="utf-8")
    async with files.open(tmp_path / "file", encoding="utf-8") as file:
        taken = ""
        for number in range(400):
            how = (file.readline, lambda: file.read(100), lambda: file.read(20_000))[number % 3]
            result = await cancelled_after(how(), number % 4)
            if isinstance(result, str):
                taken += result
            if number % 50 == 49:
                await file.seek(await file.tell())
        assert taken + await file.read() == text


async def test_the_loop_may_end_while_operations_wait(tmp_path):
    """asyncio.run cancels remaining tasks; the fixtures check that nothing stays in flight."""
    os.mkfifo(tmp_path / "fifo")
    both_fd = os.open(tmp_path / "fifo", os.O_RDWR)
    file = await files.open(tmp_path / "fifo", "rb")
    reading = [asyncio.ensure_future(file.read(1)) for _ in range(3)]
    await turns(5)
    for task in reading:
        task.cancel()
    await asyncio.gather(*reading, return_exceptions=True)
    await file.close()
    os.close(both_fd)


@pytest.mark.slow
async def test_thousands_of_races_leave_nothing(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(1 << 20))
    chance = random.Random(5)
    fds = len(os.listdir("/proc/self/fd"))
    outcomes = {True: 0, False: 0}
    async with files.open(path, "r+b") as file:
        for _ in range(3000):
            result = await cancelled_after(_one(chance, file, path), chance.randrange(8))
            outcomes[isinstance(result, asyncio.CancelledError)] += 1
            if hasattr(result, "close"):
                await result.close()
    assert all(outcomes.values())
    assert len(os.listdir("/proc/self/fd")) == fds
    gc.collect()
    kinds = ("RawRequest", "Block", "BufferedFile")
    assert [found for found in gc.get_objects() if type(found).__name__ in kinds and found is not file] == []


def _one(chance, file, path):
    """A random operation, not started."""
    which = chance.randrange(5)
    if which == 0:
        return file.pread(chance.choice([10, 4096, 300_000]), chance.randrange(1 << 20))
    if which == 1:
        return file.pwrite(bytes(chance.choice([1, 5000])), chance.randrange(1 << 19))
    if which == 2:
        return files.stat(path)
    if which == 3:
        return file.read(5000)
    return files.open(path, "rb")

"""Files whose data is in the page cache: read at once, but no more in a turn than the loop can spare."""

import asyncio
import fcntl
import os
import tracemalloc

import pytest
from support.helpers import turns

from uringloop import files

KIB, MIB = 1024, 1024 * 1024


@pytest.fixture
def path(tmp_path):
    """A file of 4 MiB that is cached, and written to the disk."""
    path = tmp_path / "file"
    path.write_bytes(os.urandom(4 * MIB))
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    return path


def skip_unless_read_at_once(path):
    if not hasattr(asyncio.get_running_loop(), "aio_context"):
        pytest.skip("on other loops files are read in threads")
    fd = os.open(path, os.O_RDONLY)
    try:
        os.preadv(fd, [bytearray(1)], 0, os.RWF_NOWAIT)
    except OSError as error:
        pytest.skip(f"the file system has no RWF_NOWAIT: {error}")
    finally:
        os.close(fd)


def at_once(coroutine):
    """The result of a coroutine that does not wait."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    pytest.fail("it waits")


async def test_cached_data_is_read_without_waiting(path):
    skip_unless_read_at_once(path)
    content = path.read_bytes()
    async with files.open(path, "rb") as file:
        assert at_once(file.pread(4 * KIB, 5)) == content[5 : 5 + 4 * KIB]
        assert at_once(file.pread(100, 4 * MIB - 10)) == content[-10:]
        assert at_once(file.pread(100, 4 * MIB)) == b""
        assert at_once(file.read(10)) == content[:10]
        assert at_once(file.seek(MIB)) == MIB
        assert at_once(file.read(300 * KIB)) == content[MIB : MIB + 300 * KIB]
        assert at_once(file.tell()) == MIB + 300 * KIB
        assert at_once(file.readline()) == content[MIB + 300 * KIB :].partition(b"\n")[0] + b"\n"


async def test_the_rest_of_a_file_is_read_without_waiting(path):
    skip_unless_read_at_once(path)
    content = path.read_bytes()
    async with files.open(path, "rb") as file:
        await file.seek(-500 * KIB, os.SEEK_END)
        assert at_once(file.read(7)) == content[-500 * KIB :][:7]
        assert at_once(file.read()) == content[-500 * KIB :][7:]
        assert await file.read() == b""


async def test_reading_cached_data_lets_other_callbacks_run(path):
    loop = asyncio.get_running_loop()
    n_ticks = 0

    def tick():
        nonlocal n_ticks
        n_ticks += 1
        ticking[0] = loop.call_soon(tick)

    ticking = [loop.call_soon(tick)]
    async with files.open(path, "rb") as file:
        for number in range(1000):
            await file.pread(4 * KIB, number * 4 * KIB)
        small = n_ticks
        for _ in range(10):
            await file.pread(MIB, MIB)
        large = n_ticks - small
    ticking[0].cancel()
    assert small >= 5
    assert large >= 9


async def test_reads_for_which_a_turn_has_no_room_are_made_in_order(path):
    skip_unless_read_at_once(path)
    content = path.read_bytes()
    order = []

    async def read(number):
        data = await file.pread(MIB - number, number)
        assert data == content[number:MIB]
        order.append(number)

    async with files.open(path, "rb") as file:
        await asyncio.gather(*map(read, range(40)))
    assert order == [*range(40)]


async def test_a_cancelled_read_that_waits_for_its_turn_does_not_hold_up_others(path):
    content = path.read_bytes()
    async with files.open(path, "rb") as file:
        for n_before in range(4):
            reads = [asyncio.ensure_future(file.pread(MIB, number)) for number in range(12)]
            await turns(n_before)
            for read in reads[1::2]:
                read.cancel()
            results = await asyncio.gather(*reads, return_exceptions=True)
            for number, data in enumerate(results):
                expected = content[number : number + MIB]
                assert data == expected or (number % 2 and isinstance(data, asyncio.CancelledError))
        assert await file.pread(10, 0) == content[:10]


async def test_reads_that_wait_for_their_turn_occupy_no_memory(path):
    skip_unless_read_at_once(path)

    async def read(number):
        return len(await file.pread(MIB, number))

    async with files.open(path, "rb") as file:
        tracemalloc.start()
        try:
            assert await asyncio.gather(*map(read, range(64))) == [MIB] * 64
            assert tracemalloc.get_traced_memory()[1] < 8 * MIB
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("buffering", [-1, 0])
async def test_what_is_not_cached_is_read_after_what_is(path, buffering):
    content = path.read_bytes()
    for first, last in ((0, MIB), (100 * KIB, 200 * KIB), (MIB + 64 * KIB, 4 * MIB), (3 * MIB, 4 * MIB)):
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, first, last - first, os.POSIX_FADV_DONTNEED)
        os.close(fd)
        async with files.open(path, "rb", buffering) as file:
            assert await file.pread(MIB, 64 * KIB) == content[64 * KIB : 64 * KIB + MIB]
            assert await file.read() == content
            memory = bytearray(4 * MIB + 10)
            await file.seek(0)
            assert await file.readinto(memory) == 4 * MIB
            assert memory[: 4 * MIB] == content


@pytest.mark.parametrize("buffering", [-1, 0])
async def test_a_file_that_grows_or_shrinks_is_read_to_its_end(path, buffering):
    content = path.read_bytes()
    async with files.open(path, "rb", buffering) as file:
        with open(path, "ab") as other:
            other.write(b"more")
        assert await file.read() == content + b"more"
        os.truncate(path, 1000)
        await file.seek(10)
        assert await file.read() == content[10:1000]
        assert await file.pread(100, 990) == content[990:1000]
        os.truncate(path, 0)
        await file.seek(0)
        assert await file.read() == b""


async def test_a_file_without_the_page_cache_is_not_read_at_once(path):
    """preadv2(2) with RWF_NOWAIT waits for the disk there."""
    skip_unless_read_at_once(path)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError as error:
        pytest.skip(f"no O_DIRECT: {error}")
    async with files.open(fd, "rb") as file:
        assert file._cached is None


async def test_a_read_does_not_overtake_one_that_waits(path):
    content = path.read_bytes()
    async with files.open(path, "rb") as file:
        await file._lock.acquire()
        first = asyncio.ensure_future(file.read(10))
        await turns(2)
        file._lock.release()  # `first` is woken, and runs in the next turn
        assert await file.read(10) == content[10:20]
        assert await first == content[:10]


@pytest.mark.parametrize("mode", ["rb", "r+b", "wb", "ab"])
async def test_an_opened_file_has_the_flags_of_the_builtin_open(path, mode):
    async with files.open(path, mode) as file:
        with open(path, mode) as expected:
            assert fcntl.fcntl(file.fileno(), fcntl.F_GETFL) == fcntl.fcntl(expected.fileno(), fcntl.F_GETFL)
        assert fcntl.fcntl(file.fileno(), fcntl.F_GETFD) == fcntl.FD_CLOEXEC


async def test_after_a_jump_a_read_of_some_size_takes_no_more_than_that(path):
    """Bytes ahead would be copied for nothing by who reads here and there; the next in sequence fetches some."""
    skip_unless_read_at_once(path)
    content = path.read_bytes()
    async with files.open(path, "rb") as file:
        for position in (MIB, 3 * MIB, 5 * KIB):
            assert at_once(file.seek(position)) == position
            assert at_once(file.read(4 * KIB)) == content[position : position + 4 * KIB]
            assert file._n_ahead() == 0
        assert at_once(file.read(4 * KIB)) == content[9 * KIB : 13 * KIB]
        assert file._n_ahead() == 12 * KIB
        assert at_once(file.seek(MIB)) == MIB
        assert at_once(file.read(100)) == content[MIB : MIB + 100]
        assert file._n_ahead() == 8 * KIB - 100
        assert at_once(file.seek(MIB + 10)) == MIB + 10  # among them
        assert await file.read(-1) == content[MIB + 10 :]
        assert await file.seek(4 * MIB - 7) == 4 * MIB - 7
        assert await file.read(4 * KIB) == content[-7:]


async def test_sizes_and_positions_that_no_file_has_are_refused_as_ever(path):
    skip_unless_read_at_once(path)
    async with files.open(path, "rb") as file:
        with pytest.raises(OverflowError):
            await file.read(1 << 80)
        with pytest.raises(ValueError, match="offset-sized"):
            await file.seek(1 << 80)
        with pytest.raises(TypeError):
            await file.read("1")
        assert await file.read(True) == path.read_bytes()[:1]

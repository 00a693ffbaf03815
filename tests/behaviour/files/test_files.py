"""Async binary files: the same steps have the same results as with the builtin open."""

import os

import pytest
from support.helpers import pattern
from support.two_files import CONTENT, Pair, outcome

from uringloop import files


@pytest.fixture
def pair(tmp_path):
    return lambda content=CONTENT: Pair(tmp_path, content)


READING = [
    ("read", 10),
    ("tell",),
    ("readline",),
    ("readline", 3),
    ("read", 0),
    ("readinto", 50),
    ("seek", 100),
    ("read", 20),
    ("seek", -10, 1),
    ("read", 20),
    ("seek", 50_000),
    ("read", 5),
    ("seek", -40, 2),
    ("tell",),
    ("readlines",),
    ("read", 5),
    ("tell",),
    ("seek", 1 << 20),
    ("read", 1),
    ("seek", 0),
    ("readlines", 200),
    ("tell",),
    ("seek", 7),
    ("read",),
    ("read",),
    ("tell",),
]


@pytest.mark.parametrize("buffering", [-1, 0, 7, 100])
async def test_reading_returns_what_open_returns(pair, buffering):
    both = await pair().open("rb", buffering)
    steps = READING if buffering else [step for step in READING if step[0] != "readinto"]
    await both.steps(*steps)
    await both.close()


async def test_reading_more_than_is_read_ahead(pair):
    both = await pair(os.urandom(3 << 20)).open("rb")
    await both.steps(
        ("read", 100), ("read", 1 << 20), ("readinto", 700_000), ("read", 300_000), "tell", "read"
    )
    await both.steps(("seek", 0), ("readinto", 4 << 20), "tell")
    await both.close()


async def test_sequential_reading_reads_larger_and_larger_chunks(tmp_path):
    from uringloop.files import buffered

    path = tmp_path / "file"
    path.write_bytes(bytes(2 << 20))
    async with files.open(path, "rb") as file:
        sizes = []
        while await file.read(1000):
            assert len(file._ahead) <= buffered.READ_AHEAD_MOST_BYTES + 1000
            if file._chunk_bytes not in sizes:
                sizes.append(file._chunk_bytes)
        assert sizes[:3] == [8192, 16384, 32768]
        assert max(sizes) == buffered.READ_AHEAD_MOST_BYTES
        await file.seek(1_000_000)
        await file.read(10)
        assert file._chunk_bytes == len(file._ahead) == 8192


WRITING = [
    ("write", b"abc"),
    ("tell",),
    ("write", bytearray(b"defg")),
    ("write", memoryview(b"hij")),
    ("seek", 1),
    ("write", b"X"),
    ("tell",),
    ("write", b"y" * 100),
    ("seek", 0, 2),
    ("write", b"z" * 300_000),
    ("tell",),
    ("truncate", 200_000),
    ("tell",),
    ("seek", 150_000),
    ("truncate",),
    ("seek", 160_000),
    ("writelines", [b"after", b"the", b"hole"]),
    ("flush",),
    ("tell",),
]


@pytest.mark.parametrize("offset", [-2, -1, 0, 1, 5])
async def test_seeking_to_the_edges_of_what_is_read_ahead(tmp_path, offset):
    """A chunk begins where the first read after a seek does."""
    path = tmp_path / "file"
    content = pattern(300_000)
    path.write_bytes(content)
    async with files.open(path, "rb") as file:
        await file.seek(10_000)
        assert await file.read(5) == content[10_000:10_005]
        n_ahead = file._n_ahead()
        for edge in (10_000, 10_005 + n_ahead):
            position = edge + offset
            assert await file.seek(position) == position
            assert await file.read(3) == content[position : position + 3]


@pytest.mark.parametrize("buffering", [-1, 0, 10])
@pytest.mark.parametrize("mode", ["wb", "ab", "xb", "r+b", "w+b", "a+b", "x+b"])
async def test_writing_does_what_open_does(pair, mode, buffering):
    both = await pair(None if "x" in mode else CONTENT).open(mode, buffering)
    await both.steps(*WRITING)
    if "+" in mode and ("a" not in mode or not buffering):
        # Not when appending with a buffer: until it is flushed, io returns the written data as if it were at the
        # position of the reads.
        await both.steps(("seek", 0), ("read", 10), ("write", b"in between"), "tell", ("read", 10), "tell")
    if "+" in mode:
        await both.steps(("seek", -100, 1), ("readline", 2000), ("write", b"W"), ("seek", 0), "read")
    await both.close()


async def test_reading_sees_writes_and_positional_writes(tmp_path):
    async with files.open(tmp_path / "file", "w+b") as file:
        await file.write(b"0123456789")
        assert await file.pread(4, 3) == b"3456"
        await file.seek(0)
        assert await file.read(2) == b"01"  # everything is ahead now
        assert await file.pwrite(b"abc", 2) == 3
        assert await file.tell() == 2
        assert await file.read(4) == b"abc5"
        buffers = [bytearray(2), bytearray(3)]
        assert await file.preadv(buffers, 1) == 5
        assert buffers == [b"1a", b"bc5"]
        assert await file.pwritev([b"ZZ", b"YYY"], 5) == 5
        assert await file.read() == b"ZYYY"
        await file.truncate(6)
        await file.seek(0)
        assert await file.read() == b"01abcZ"


async def test_durability_and_allocation(tmp_path):
    path = tmp_path / "file"
    async with files.open(path, "wb") as file:
        await file.write(b"data")
        await file.fsync()
        assert path.read_bytes() == b"data"
        await file.write(b"more")
        await file.fdatasync()
        assert path.read_bytes() == b"datamore"
        await file.fallocate(0, 100_000)
        assert path.stat().st_size == 100_000
        keep_size, punch_hole = 1, 2
        result = await outcome(file.fallocate, 0, 4, keep_size | punch_hole)
        assert path.read_bytes()[:8] == (b"\0\0\0\0more" if result is None else b"datamore"), result
        await file.fadvise(0, 0, os.POSIX_FADV_DONTNEED)


async def test_peek_and_read1_return_buffered_bytes(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 100)
    async with files.open(path, "rb") as file:
        assert (await file.peek())[:3] == b"\0\1\2"
        assert await file.tell() == 0
        assert await file.read1(2) == b"\0\1"
        assert len(await file.read1()) > 0
        buffer = bytearray(10)
        position = await file.tell()
        assert await file.readinto1(buffer) == 10
        assert buffer == bytes((position + at) % 256 for at in range(10))


async def test_files_of_proc_are_read_whole():
    for path in ("/proc/self/status", "/proc/cpuinfo", "/proc/self/maps"):
        async with files.open(path, "rb") as file:
            data = await file.read()
        assert data.count(b"\n") > 3
        assert data.endswith(b"\n")
    async with files.open("/proc/self/status") as file:
        assert len([line async for line in file]) > 10
    async with files.open("/dev/zero", "rb") as file:
        assert await file.read(100_000) == bytes(100_000)
    async with files.open("/dev/null", "r+b") as file:
        assert await file.write(b"x") == 1
        assert await file.read() == b""

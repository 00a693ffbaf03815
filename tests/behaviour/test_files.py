"""Async files, binary and text: whatever the builtin open does with the same steps."""

import asyncio
import contextlib
import errno
import io
import os
import sys

import pytest
from helpers import turns

from uringloop import files

CONTENT = b"".join(b"line %d\r\nand\rthen\n" % number for number in range(3000)) + b"no end"
UMLAUTS = "".join(f"zeile {number} äöü€𝄞\r\n{number}\rx\n" for number in range(2000)) + "ohne ende ß"


async def outcome(function, *args):
    """The result, or the exception without its traceback."""
    try:
        value = function(*args)
        if hasattr(value, "__await__"):
            value = await value
    except Exception as error:
        return type(error), str(error)
    return bytes(value) if isinstance(value, bytearray | memoryview) else value


class Pair:
    """The same file twice: one opened by the builtin open, one by ours; steps are taken on both."""

    def __init__(self, folder, content):
        self.paths = folder / "builtin", folder / "async"
        for path in self.paths:
            if content is not None:
                path.write_bytes(content)

    async def open(self, *args, **options):
        self.theirs = open(self.paths[0], *args, **options)  # noqa: SIM115
        self.ours = await files.open(self.paths[1], *args, **options)
        return self

    async def step(self, name, *args):
        if name == "readinto":
            buffers = bytearray(args[0]), bytearray(args[0])
            results = (
                await outcome(self.theirs.readinto, buffers[0]),
                await outcome(self.ours.readinto, buffers[1]),
            )
            assert buffers[0] == buffers[1]
        else:
            results = (
                await outcome(getattr(self.theirs, name), *args),
                await outcome(getattr(self.ours, name), *args),
            )
        is_io_wrong = name == "seek" and isinstance(results[0], int) and results[0] < 0  # CPython 3.11
        assert results[0] == results[1] or is_io_wrong, (name, args)
        return results[1]

    async def steps(self, *steps):
        for step in steps:
            await self.step(*(step if isinstance(step, tuple) else (step,)))

    async def close(self):
        self.theirs.close()
        await self.ours.close()
        contents = [path.read_bytes() for path in self.paths]
        assert contents[0] == contents[1]
        return contents[0]


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
async def test_reading_is_that_of_open(pair, buffering):
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
        read = file._read_at

        async def watched(count, offset):
            sizes.append(count)
            return await read(count, offset)

        file._read_at = watched
        while await file.read(1000):
            assert len(file._ahead) <= buffered.READ_AHEAD_MOST_BYTES + 1000
        assert sizes[:3] == [8192, 16384, 32768]
        assert max(sizes) == buffered.READ_AHEAD_MOST_BYTES
        await file.seek(1_000_000)
        await file.read(10)
        assert sizes[-1] == 8192


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


@pytest.mark.parametrize("buffering", [-1, 0, 10])
@pytest.mark.parametrize("mode", ["wb", "ab", "xb", "r+b", "w+b", "a+b", "x+b"])
async def test_writing_is_that_of_open(pair, mode, buffering):
    both = await pair(None if "x" in mode else CONTENT).open(mode, buffering)
    await both.steps(*WRITING)
    if "+" in mode and ("a" not in mode or not buffering):
        # Not when appending with a buffer: io then shows, until it is flushed, what was written as if it were where
        # reading was.
        await both.steps(("seek", 0), ("read", 10), ("write", b"in between"), "tell", ("read", 10), "tell")
    if "+" in mode:
        await both.steps(("seek", -100, 1), ("readline",), ("write", b"W"), ("seek", 0), "read")
    await both.close()


async def test_reading_sees_what_was_written_and_positional_writes(tmp_path):
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


async def test_durability_and_space(tmp_path):
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


ATTRIBUTES = ["fileno", "readable", "writable", "seekable", "isatty", "closed", "name", "mode"]


@pytest.mark.parametrize("mode", ["rb", "wb", "r+b", "w+b", "ab", "a+b", "r", "w", "r+", "a"])
@pytest.mark.parametrize("buffering", [-1, 0])
async def test_attributes_are_those_of_open(pair, mode, buffering):
    if buffering == 0 and "b" not in mode:
        return
    both = await pair().open(mode, buffering)
    for name in ATTRIBUTES:
        values = []
        for file in (both.theirs, both.ours):
            value = getattr(file, name)
            value = value() if callable(value) else value
            values.append(await value if hasattr(value, "__await__") else value)
        if name == "fileno":
            assert all(isinstance(value, int) for value in values)
        elif name == "name":
            assert values == [str(path) for path in both.paths]
        else:
            assert values[0] == values[1], name
    assert str(both.paths[1]) in repr(both.ours)
    await both.close()


MISUSE = [
    ("read",),
    ("read", -2),
    ("readline",),
    ("readlines",),
    ("write", b"a"),
    ("write", "a"),
    ("truncate",),
    ("truncate", -1),
    ("seek", -1),
    ("seek", 0, 9),
    ("seek", -5000000, 1),
    ("seek", 1.5),
]


@pytest.mark.parametrize("mode", ["rb", "wb", "r+b", "ab"])
@pytest.mark.parametrize("buffering", [-1, 0])
async def test_misuse_is_refused_as_by_open(pair, mode, buffering):
    both = await pair().open(mode, buffering)
    await both.steps(*(step for step in MISUSE if buffering or step != ("read", -2)))
    await both.close()


@pytest.mark.parametrize("mode", ["r", "w", "r+", "a"])
async def test_misuse_of_text_files_is_refused_as_by_open(pair, mode):
    both = await pair().open(mode, encoding="utf-8")
    more = [("seek", 1, 1), ("seek", 1, 2), ("readline", "a"), ("read", "a")]
    left_out = ("truncate",), ("truncate", -1), ("seek", 1.5)  # text files of io take 1.5 for a position
    await both.steps(*(step for step in MISUSE if step not in left_out), *more)
    await both.close()


@pytest.mark.parametrize("mode", ["rb", "r+b", "r", "w"])
async def test_a_closed_file_says_so(pair, mode):
    both = await pair().open(mode)
    await both.close()
    await both.ours.close()
    assert both.ours.closed
    for name, *args in [
        ("read",),
        ("readline",),
        ("seek", 0),
        ("tell",),
        ("flush",),
        ("fileno",),
        ("truncate",),
    ]:
        if (mode, name) in (
            ("rb", "truncate"),
            ("w", "read"),
            ("w", "readline"),
            ("r", "truncate"),
            ("rb", "flush"),
        ):
            continue
        assert (await outcome(getattr(both.ours, name), *args))[0] is ValueError
        if name not in ("fileno", "truncate", "flush"):
            await both.step(name, *args)
    with pytest.raises(ValueError, match="closed file"):
        async with both.ours:
            pass
    with pytest.raises(ValueError, match="closed file"):
        async for _ in both.ours:
            pass


@pytest.mark.parametrize(
    ("args", "options"),
    [
        (("",), {}),
        (("rw",), {}),
        (("z",), {}),
        (("rr",), {}),
        (("rtb",), {}),
        ((3,), {}),
        (("r", 0), {}),
        (("rb",), {"encoding": "utf-8"}),
        (("rb",), {"errors": "strict"}),
        (("rb",), {"newline": ""}),
        (("r",), {"newline": "x"}),
        (("r",), {"encoding": 3}),
        (("r",), {"encoding": "no such thing"}),
        (("r", "a"), {}),
        (("r",), {"closefd": False}),
    ],
)
async def test_wrong_arguments_are_refused_at_the_call(tmp_path, args, options):
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(Exception) as theirs:
        open(path, *args, **options)  # noqa: SIM115
    with pytest.raises(type(theirs.value)) as ours:
        files.open(path, *args, **options)
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize("file", [1.5, None, "a\0b", b"a\0b", -1])
async def test_what_is_no_file_is_refused_at_the_call(file):
    with pytest.raises((TypeError, ValueError)) as theirs:
        open(file)  # noqa: SIM115
    with pytest.raises(type(theirs.value)) as ours:
        files.open(file)
    assert str(ours.value) == str(theirs.value)


async def test_line_buffering_of_binary_files_warns(tmp_path):
    with pytest.warns(RuntimeWarning, match="line buffering"):
        opening = files.open(tmp_path / "file", "wb", 1)
    async with opening:
        pass


async def test_errors_of_opening_name_the_file(tmp_path):
    (tmp_path / "there").touch()
    cases = [(tmp_path / "missing", "r"), (tmp_path, "rb"), (tmp_path, "w"), (tmp_path / "there", "x")]
    cases += [(tmp_path / "there" / "below", "r"), (str(tmp_path / "missing").encode(), "r")]
    for path, mode in cases:
        with pytest.raises(OSError) as theirs:
            open(path, mode)  # noqa: SIM115
        with pytest.raises(type(theirs.value)) as ours:
            await files.open(path, mode)
        assert str(ours.value) == str(theirs.value)
        assert ours.value.filename == theirs.value.filename
        assert ours.value.errno == theirs.value.errno


async def test_paths_of_all_kinds(tmp_path):
    path = tmp_path / "dätei"
    path.write_bytes(b"x")
    for one in (path, str(path), os.fsencode(path)):
        async with files.open(one, "rb") as file:
            assert await file.read() == b"x"
            assert file.name == os.fspath(one)


async def test_a_descriptor_is_a_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    fd = os.open(path, os.O_RDWR)
    os.lseek(fd, 3, os.SEEK_SET)
    async with files.open(fd, "r+b", closefd=False) as file:
        assert (file.name, await file.tell()) == (fd, 3)
        assert await file.read(2) == b"34"
        await file.write(b"x")
    assert os.read(fd, 10) == b"6789"  # the descriptor is where the file was
    async with files.open(fd, "rb") as file:
        pass
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    with pytest.raises(OSError, match="Bad file descriptor") as ours:
        await files.open(fd, "rb")
    assert ours.value.filename in (fd, None)


async def test_an_opener_opens(tmp_path):
    (tmp_path / "file").write_text("text")
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        async with files.open("file", opener=lambda name, flags: os.open(name, flags, dir_fd=folder)) as file:
            assert not os.get_inheritable(file.fileno())
            assert await file.read() == "text"
    finally:
        os.close(folder)
    with pytest.raises(ValueError, match="opener returned -1"):
        await files.open("file", opener=lambda name, flags: -1)
    with pytest.raises(ZeroDivisionError):
        await files.open("file", opener=lambda name, flags: 1 // 0)


async def test_an_opening_is_awaited_once(tmp_path):
    opening = files.open(tmp_path / "file", "w")
    file = await opening
    await file.close()
    with pytest.raises(RuntimeError, match="awaited already"):
        await opening


async def test_descriptors_are_not_inherited(tmp_path):
    async with files.open(tmp_path / "file", "w") as file:
        assert not os.get_inheritable(file.fileno())


async def test_opening_is_audited(tmp_path):
    seen = []
    active = [True]
    sys.addaudithook(lambda event, args: active and event == "open" and seen.append(args))
    try:
        async with files.open(tmp_path / "file", "w"):
            pass
    finally:
        active.clear()
    assert (tmp_path / "file", "w", os.O_WRONLY | os.O_CREAT | os.O_TRUNC) in [
        (path, mode, flags & ~os.O_CLOEXEC) for path, mode, flags in seen
    ]


async def test_a_forgotten_file_warns_writes_and_closes(tmp_path):
    path = tmp_path / "file"
    file = await files.open(path, "wb")
    await file.write(b"not flushed")
    fd = file.fileno()
    forgotten = [file]
    del file
    with pytest.warns(ResourceWarning, match="unclosed file"):
        forgotten.clear()
    assert path.read_bytes() == b"not flushed"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


async def test_peek_and_read1(tmp_path):
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


# Text

ENCODINGS = ["utf-8", "utf-16", "utf-8-sig", "latin-1", "utf-16-le", "utf-7", "shift_jis"]


@pytest.mark.parametrize("newline", [None, "", "\n", "\r", "\r\n"])
@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_text_is_that_of_open(pair, encoding, newline):
    text = UMLAUTS if encoding.startswith("utf") else UMLAUTS.encode("ascii", "ignore").decode()
    both = await pair(text.encode(encoding)).open("r", encoding=encoding, newline=newline)
    await both.steps(
        ("read", 10), "readline", "readline", ("readline", 4), ("read", 20_000), ("readlines", 300)
    )
    lines = [line async for line in both.ours]
    assert lines == list(both.theirs)
    await both.steps(("seek", 0), "read", "read")
    assert both.ours.newlines == both.theirs.newlines
    assert both.ours.encoding == both.theirs.encoding
    await both.close()
    both = await pair(text.encode(encoding)).open("r", encoding=encoding, newline=newline)
    for _ in range(60):
        await both.step("readline")
    await both.steps(("read", 3), ("readline", 100_000), ("read", 100_000), "readline")
    await both.close()


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("newline", [None, ""])
async def test_text_positions_lead_back(tmp_path, encoding, newline):
    text = UMLAUTS if encoding.startswith("utf") else UMLAUTS.encode("ascii", "ignore").decode()
    path = tmp_path / "file"
    path.write_bytes(text.encode(encoding))
    async with files.open(path, encoding=encoding, newline=newline) as file:
        everything = await file.read()
        await file.seek(0)
        known, taken = [], 0
        for size in [0, 1, 2, 3, 13, 14, 15, 1000, 8000, 20_000, 1, 1, 1, 100_000]:
            taken += len(await file.read(size))
            known.append((await file.tell(), taken))
        for cookie, at in reversed(known):
            assert await file.seek(cookie) == cookie
            assert await file.read(50) == everything[at : at + 50]
        for cookie, at in known:
            await file.seek(cookie)
            assert await file.tell() == cookie
            assert await file.read() == everything[at:]


async def test_text_positions_are_those_of_open_where_they_are_bytes(pair):
    both = await pair(UMLAUTS.encode()).open("r", encoding="utf-8")
    n_bytes = 0
    for size in (0, 1, 5, 20, 30, 9000, 7, 11, 13):
        await both.steps(("read", size), "readline")
        theirs, ours = both.theirs.tell(), await both.ours.tell()
        if theirs < 1 << 64:  # else in the middle of what the decoder knows: a number of each one's own
            assert theirs == ours
            n_bytes += 1
        both.theirs.seek(theirs)
        await both.ours.seek(ours)
    assert n_bytes > 4
    await both.steps("read", "tell", ("seek", 100), ("read", 10), ("seek", 0, 2), "read", "tell")
    await both.close()


@pytest.mark.parametrize("newline", [None, "", "\n", "\r", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-8-sig"])
async def test_writing_text_is_that_of_open(pair, encoding, newline):
    both = await pair(None).open("w", encoding=encoding, newline=newline)
    await both.steps(
        ("write", "ä\n"), ("write", "b\r\nc"), "tell", ("writelines", ["d\n", "e"]), "flush", "tell"
    )
    await both.steps(("seek", 0), ("write", "Z"), ("seek", 0, 2), ("write", "\n" * 10_000))
    await both.close()
    both = await pair(b"".join([both.paths[0].read_bytes()])).open("a", encoding=encoding, newline=newline)
    await both.steps("tell", ("write", "appended\n"), "tell")
    await both.close()
    both = await pair(UMLAUTS.encode(encoding)).open("r+", encoding=encoding, newline=newline)
    await both.steps(("read", 5), ("write", "over"), "flush", "tell", ("seek", 0), "readline", ("seek", 0))
    await both.steps(("write", "begin"), "tell", ("truncate", 400), ("seek", 0), "read")
    await both.close()


async def test_decoding_errors_are_those_of_open_and_lose_nothing(pair):
    both = await pair(b"good\n\xff\xfebad\n" + b"x" * 20_000).open("r", encoding="utf-8")
    for name in ("read", "readline"):
        with pytest.raises(UnicodeDecodeError):
            await getattr(both.ours, name)()
    assert await both.ours.tell() == 0
    await both.close()
    for errors in ("replace", "ignore", "surrogateescape", "backslashreplace"):
        both = await pair(b"good\n\xff\xfebad\n" + b"x" * 20_000).open("r", encoding="utf-8", errors=errors)
        await both.steps("readline", "readline", "tell", "read")
        assert both.ours.errors == both.theirs.errors
        await both.close()
    both = await pair(None).open("w", encoding="ascii")
    await both.steps(("write", "ok"), ("write", "ä"), ("write", "ok"))
    await both.close()


async def test_an_incomplete_character_at_the_end_is_an_error(pair):
    both = await pair("ä".encode()[:1]).open("r", encoding="utf-8")
    await both.steps("readline", "read", ("read", 1))
    await both.close()


async def test_the_default_encoding_is_that_of_open(pair):
    both = await pair(None).open("w")
    assert both.ours.encoding.lower() == both.theirs.encoding.lower()
    await both.close()


async def test_line_buffering(tmp_path):
    path = tmp_path / "file"
    async with files.open(path, "w", 1, encoding="utf-8") as file:
        assert file.line_buffering
        await file.write("no end")
        assert path.read_text() == ""
        await file.write("but now\nand")
        assert path.read_text() == "no endbut now\nand"


async def test_a_text_file_has_its_bytes_below(tmp_path):
    path = tmp_path / "file"
    async with files.open(path, "w", encoding="utf-8") as file:
        await file.write("ä")
        await file.fsync()
        await file.fdatasync()
        assert await file.buffer.tell() == 2
        assert await file.buffer.pwrite(b"x", 5) == 1
    assert path.read_bytes() == "ä".encode() + b"\0\0\0x"


# Several tasks


async def test_readers_of_one_file_take_turns(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(250)) * 4000)
    async with files.open(path, "rb") as file:

        async def reader():
            return [await file.read(1000) for _ in range(100)]

        parts = [part for parts in await asyncio.gather(*(reader() for _ in range(10))) for part in parts]
        assert all(part == bytes(range(250)) * 4 for part in parts)
        assert await file.tell() == 1_000_000


async def test_lines_written_by_many_tasks_are_whole(tmp_path):
    path = tmp_path / "file"
    async with files.open(path, "w", encoding="utf-8") as file:

        async def writer(number):
            for _ in range(50):
                await file.write(f"{number}" * 500 + "\n")
                await turns(1)

        await asyncio.gather(*(writer(number) for number in range(10)))
    lines = path.read_text().splitlines()
    assert len(lines) == 500
    assert all(line == line[0] * 500 for line in lines)


async def test_closing_waits_for_those_who_read(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100_000)
    for _ in range(20):
        file = await files.open(path, "rb")
        reading = [asyncio.ensure_future(file.pread(50_000, 0)) for _ in range(5)]
        await turns(1)
        closing = [asyncio.ensure_future(file.close()) for _ in range(2)]
        assert [len(data) for data in await asyncio.gather(*reading)] == [50_000] * 5
        await asyncio.gather(*closing)
        with pytest.raises(ValueError, match="closed file"):
            await file.pread(1, 0)


async def test_thousands_of_files(tmp_path):
    async def one(number):
        path = tmp_path / str(number)
        async with files.open(path, "wb") as file:
            await file.write(b"%d" % number * 100)
        async with files.open(path, "rb") as file:
            return await file.read() == b"%d" % number * 100

    for start in range(0, 1000, 200):
        assert all(await asyncio.gather(*(one(number) for number in range(start, start + 200))))


async def test_a_large_read_leaves_others_their_turns(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(32 << 20))
    async with files.open(path, "rb") as file:
        for read in (file.read(), file.pread(32 << 20, 0), file.seek(0), file.readinto(bytearray(32 << 20))):
            task = asyncio.ensure_future(read)
            n_turns = 0
            while not task.done():
                await turns(1)
                n_turns += 1
            result = await task
            if result:
                assert (result if isinstance(result, int) else len(result)) == 32 << 20
                assert n_turns >= 20


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


# Full disks


@contextlib.contextmanager
def small_file_system(folder, options):
    """A tmpfs of 1 MiB, for root only."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", bytes(folder), b"tmpfs", 0, options) != 0:
        pytest.skip(f"mount: {os.strerror(ctypes.get_errno())}")
    try:
        yield libc
    finally:
        assert libc.umount2(bytes(folder), 0) == 0


async def test_a_full_disk_says_so_and_keeps_what_is_not_written(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    with small_file_system(folder, b"size=1m"):
        file = await files.open(folder / "file", "wb")
        with pytest.raises(OSError, match="No space left") as caught:
            await file.write(bytes(3 << 20))
        assert caught.value.errno == errno.ENOSPC
        written = caught.value.characters_written
        assert written == await file.tell() == (folder / "file").stat().st_size == 1 << 20
        await file.write(b"small")
        with pytest.raises(OSError, match="No space left"):
            await file.flush()
        os.truncate(folder / "file", 4096)
        await file.flush()
        assert (folder / "file").read_bytes()[-5:] == b"small"
        await file.close()
        file = await files.open(folder / "other", "wb")
        await file.write(bytes(100_000))
        (folder / "filler").write_bytes(bytes(os.statvfs(folder).f_bavail * os.statvfs(folder).f_bsize))
        fd = file.fileno()
        with pytest.raises(OSError, match="No space left"):
            await file.close()
        assert file.closed
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


async def test_a_read_only_file_system_says_so(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    remount, read_only = 32, 1
    with small_file_system(folder, b"size=1m") as libc:
        (folder / "file").write_bytes(b"x")
        assert libc.mount(b"none", bytes(folder), b"tmpfs", remount | read_only, b"") == 0
        for mode in ("w", "r+b", "a"):
            with pytest.raises(OSError, match="Read-only file system") as caught:
                await files.open(folder / "file", mode)
            assert caught.value.filename == str(folder / "file")
        with pytest.raises(OSError, match="Read-only file system"):
            await files.unlink(folder / "file")
        async with files.open(folder / "file", "rb") as file:
            assert await file.read() == b"x"


async def test_unsupported_operations_are_ios(tmp_path):
    async with files.open(tmp_path / "file", "wb") as file:
        with pytest.raises(io.UnsupportedOperation):
            await file.read()
        with pytest.raises(io.UnsupportedOperation):
            await file.pread(1, 0)
        for call in (file.pwrite(b"x", -1),):
            with pytest.raises(OSError, match="Invalid argument"):
                await call


def test_encoding_warnings_are_pythons(tmp_path):
    import subprocess

    script = f"import uringloop.files as f; f.open({str(tmp_path / 'file')!r}, 'w')"
    done = subprocess.run(
        [sys.executable, "-X", "warn_default_encoding", "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "EncodingWarning" in done.stderr


@pytest.mark.parametrize("mode", ["w", "wb", "a", "ab"])
def test_close_after_the_loop_has_ended_loses_nothing(new_loop, tmp_path, mode):
    """The file said that it was closed, and what was buffered was gone."""
    path = tmp_path / "file"
    path.write_bytes(b"old ")
    pending = "pending" if mode in "wa" else b"pending"

    async def write():
        file = await files.open(path, mode)
        await file.write(pending)
        return file

    async def close(file):
        await file.close()

    loop = new_loop()
    file = loop.run_until_complete(write())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    new_loop().run_until_complete(close(file))
    assert file.closed
    assert path.read_bytes() == (b"pending" if "w" in mode else b"old pending")

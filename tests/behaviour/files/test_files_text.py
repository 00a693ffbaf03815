"""Text files: the same steps have the same results as with the builtin open."""

import pytest
from support.two_files import CONTENT, UMLAUTS, Pair

from uringloop import files


@pytest.fixture
def pair(tmp_path):
    return lambda content=CONTENT: Pair(tmp_path, content)


ENCODINGS = ["utf-8", "utf-16", "utf-8-sig", "latin-1", "utf-16-le", "utf-7", "shift_jis"]


@pytest.mark.parametrize("newline", [None, "", "\n", "\r", "\r\n"])
@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_text_is_read_as_with_open(pair, encoding, newline):
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
async def test_seek_returns_to_text_positions(tmp_path, encoding, newline):
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


async def test_text_positions_that_are_byte_offsets_are_the_same_as_of_open(pair):
    both = await pair(UMLAUTS.encode()).open("r", encoding="utf-8")
    n_bytes = 0
    for size in (0, 1, 5, 20, 30, 9000, 7, 11, 13):
        await both.steps(("read", size), "readline")
        theirs, ours = both.theirs.tell(), await both.ours.tell()
        if theirs < 1 << 64:  # larger numbers encode the decoder's state, each in its own way
            assert theirs == ours
            n_bytes += 1
        both.theirs.seek(theirs)
        await both.ours.seek(ours)
    assert n_bytes > 4
    await both.steps("read", "tell", ("seek", 100), ("read", 10), ("seek", 0, 2), "read", "tell")
    await both.close()


@pytest.mark.parametrize("newline", [None, "", "\n", "\r", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-8-sig"])
async def test_text_is_written_as_with_open(pair, encoding, newline):
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


# Undecodable bytes in the first chunk of 8 KiB, in the second, and across two.
UNDECODABLE = [
    b"ok\n\xff\xfe\nmore\n",
    b"good\n\xff\xfebad\n" + b"x" * 20_000 + b"\nend\n",
    b"line\n" * 2000 + b"\xff\n" + b"more\n" * 3000,
    b"line\n" * 1638 + b"\xc3\xff\n" + b"more\n" * 3000,
    b"x" * 9000 + b"\xff" + b"y" * 9000 + b"\nend\n",
]


@pytest.mark.parametrize("content", UNDECODABLE, ids=range(len(UNDECODABLE)))
async def test_undecodable_bytes_raise_once_as_with_open(pair, content):
    """Otherwise each read raises: the position stays before the undecodable bytes."""
    for steps in (
        [("readline",)] * 20,
        [("readline",), ("read", 100), ("read", 9000), ("read", 9000), ("readline",), ("read",), ("read",)],
        [("readline",), ("read",), ("read",), ("readline",)],
        [("readlines",), ("readlines",), ("readlines",)],
        [("read", 20_000), ("read", 20_000), ("read", 20_000)],
    ):
        both = await pair(content).open("r", encoding="utf-8")
        await both.steps(*steps)
        await both.close()


@pytest.mark.parametrize("content", UNDECODABLE, ids=range(len(UNDECODABLE)))
@pytest.mark.parametrize("reading", [("readline",), ("read", 3000), ("read", 9000), ("read",)])
async def test_the_position_after_a_decoding_error_is_the_same_as_of_open(pair, content, reading):
    both = await pair(content).open("r", encoding="utf-8")
    for _ in range(12):
        if await both.step(*reading) == "":
            break
        await both.step("tell")
    await both.steps(("seek", 0), "readline", "tell")
    await both.close()


async def test_decoding_errors_are_handled_as_with_open(pair):
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


async def test_the_default_encoding_is_the_same_as_of_open(pair):
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


async def test_a_text_file_has_its_binary_file_as_buffer(tmp_path):
    path = tmp_path / "file"
    async with files.open(path, "w", encoding="utf-8") as file:
        await file.write("ä")
        await file.fsync()
        await file.fdatasync()
        assert await file.buffer.tell() == 2
        assert await file.buffer.pwrite(b"x", 5) == 1
    assert path.read_bytes() == "ä".encode() + b"\0\0\0x"

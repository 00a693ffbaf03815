"""`uringloop.open`: its arguments, what it returns, and what happens to forgotten objects."""

import asyncio
import io
import os
import subprocess
import sys
from collections.abc import AsyncIterable, Iterable
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.helpers import one_turn
from support.two_files import CONTENT, Pair, outcome

from uringloop import files


@pytest.fixture
def pair(tmp_path):
    return lambda content=CONTENT: Pair(tmp_path, content)


ATTRIBUTES = ["fileno", "readable", "writable", "seekable", "isatty", "closed", "name", "mode"]


@pytest.mark.parametrize("mode", ["rb", "wb", "r+b", "w+b", "ab", "a+b", "r", "w", "r+", "a"])
@pytest.mark.parametrize("buffering", [-1, 0])
async def test_attributes_are_the_same_as_of_open(pair, mode, buffering):
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
async def test_misuse_raises_as_with_open(pair, mode, buffering):
    both = await pair().open(mode, buffering)
    await both.steps(*(step for step in MISUSE if buffering or step != ("read", -2)))
    await both.close()


@pytest.mark.parametrize("mode", ["r", "w", "r+", "a"])
async def test_misuse_of_text_files_raises_as_with_open(pair, mode):
    both = await pair().open(mode, encoding="utf-8")
    more = [("seek", 1, 1), ("seek", 1, 2), ("readline", "a"), ("read", "a")]
    left_out = ("truncate",), ("truncate", -1), ("seek", 1.5)  # io's text files accept 1.5 as a position
    await both.steps(*(step for step in MISUSE if step not in left_out), *more)
    await both.close()


WRONG_TYPES = [
    *((name, wrong) for name in ("read", "readline", "readlines", "seek") for wrong in ("x", 1.5)),
    *((name, wrong) for name in ("read1", "peek", "truncate", "write", "writelines") for wrong in ("x", 3.5)),
    *((name, wrong) for name in ("readinto", "readinto1") for wrong in (3, "x", b"x")),
]


@pytest.mark.parametrize(("mode", "buffering"), [("rb", -1), ("r+b", -1), ("r+b", 0), ("r+", -1)])
async def test_wrong_types_raise_as_with_open(pair, mode, buffering):
    both = await pair().open(mode, buffering)
    for name, wrong in WRONG_TYPES:
        if not hasattr(both.theirs, name):
            continue
        if mode == "r+" and name in ("seek", "truncate", "write", "writelines"):
            continue  # io's text files accept 1.5 as a position, and a str as lines
        theirs = await outcome(getattr(both.theirs, name), wrong)
        ours = await outcome(getattr(both.ours, name), wrong)
        if mode == "rb" and name in ("truncate", "write", "writelines"):
            assert ours[0] in (theirs[0], io.UnsupportedOperation), name
            continue
        assert (ours[0], ours[1]) == (theirs[0], theirs[1]), (name, wrong)
    await both.close()


async def test_the_repr_of_a_file_names_it_and_shows_whether_it_is_closed(tmp_path):
    path = tmp_path / "file"
    for mode, buffering, words in [
        ("w", -1, "TextFile name={} mode='w' encoding='UTF-8'"),
        ("rb", -1, "BufferedFile name={} mode='rb'"),
        ("r+b", 0, "RawFile name={} mode='rb+'"),
    ]:
        encoding = None if "b" in mode else "UTF-8"
        file = await files.open(path, mode, buffering, encoding)
        words = "<uringloop.files." + words.format(repr(str(path)))
        assert repr(file) == words + ">"
        await file.close()
        assert repr(file) == words + " closed>"


@pytest.mark.parametrize("mode", ["rb", "r+b", "r", "w"])
async def test_a_closed_file_raises(pair, mode):
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
async def test_invalid_files_are_refused_at_the_call(file):
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
    for name in (path, str(path), os.fsencode(path)):
        async with files.open(name, "rb") as file:
            assert await file.read() == b"x"
            assert file.name == os.fspath(name)


async def test_a_descriptor_can_be_opened(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    fd = os.open(path, os.O_RDWR)
    os.lseek(fd, 3, os.SEEK_SET)
    async with files.open(fd, "r+b", closefd=False) as file:
        assert (file.name, await file.tell()) == (fd, 3)
        assert await file.read(2) == b"34"
        await file.write(b"x")
    assert os.read(fd, 10) == b"6789"  # the descriptor has the position of the file
    async with files.open(fd, "rb") as file:
        pass
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    with pytest.raises(OSError, match="Bad file descriptor") as theirs:
        open(fd, "rb")  # noqa: SIM115
    with pytest.raises(OSError, match="Bad file descriptor") as ours:
        await files.open(fd, "rb")
    assert (str(ours.value), ours.value.filename) == (str(theirs.value), theirs.value.filename)
    folder = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(IsADirectoryError) as theirs:
        open(folder, "rb", closefd=False)  # noqa: SIM115
    with pytest.raises(IsADirectoryError) as ours:
        await files.open(folder, "rb", closefd=False)
    assert (str(ours.value), ours.value.filename) == (str(theirs.value), theirs.value.filename)
    os.close(folder)


async def test_an_opener_is_called(tmp_path):
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


async def test_the_repr_of_an_opening_shows_its_arguments(tmp_path):
    path = tmp_path / "file"
    opening = files.open(path, "w")
    assert repr(opening) == f"<uringloop.open({str(path)!r}, 'w') not awaited yet>"
    async with opening:
        assert repr(opening) == f"<uringloop.open({str(path)!r}, 'w') awaited>"
    opening = files.NamedTemporaryFile("w", dir=tmp_path)
    assert repr(opening) == "<uringloop.files.NamedTemporaryFile('w') not awaited yet>"
    async with opening:
        pass


async def test_a_forgotten_await_is_named_where_the_file_is_used(tmp_path):
    with (
        pytest.warns(RuntimeWarning, match="never awaited"),
        pytest.raises(AttributeError, match=r"'read': `await uringloop.open\('file', 'r'\)` gives the file"),
    ):
        files.open("file").read()
    opening = files.TemporaryFile()
    assert not hasattr(opening, "cr_code")
    assert not hasattr(opening, "_unknown")
    async with opening as file:
        assert not hasattr(opening, "write")
        assert await file.write(b"x") == 1


async def test_a_forgotten_await_warns(tmp_path):
    """Without the warning the file is just missing."""
    forgettable = {
        "uringloop.open(3, 'r') was never awaited": lambda: files.open(3),
        r"uringloop.files.TemporaryFile\('w\+b'\) was never": files.TemporaryFile,
        r"uringloop.files.TemporaryDirectory\(\) was never": files.TemporaryDirectory,
    }
    asyncio.get_running_loop().set_debug(False)
    for text, forget in forgettable.items():
        with pytest.warns(RuntimeWarning, match=text.replace("n(3, 'r')", r"n\(3, 'r'\)")) as caught:
            forget()
        assert caught[0].filename == __file__
        assert "called" not in str(caught[0].message)


async def test_in_debug_mode_warnings_name_where_a_forgotten_object_was_made(tmp_path):
    asyncio.get_running_loop().set_debug(True)
    here = sys._getframe().f_lineno
    with pytest.warns(RuntimeWarning, match=rf"never awaited, called at {__file__}:{here + 2}"):
        files.open(tmp_path / "file")
    with pytest.warns(RuntimeWarning, match=rf"never awaited, called at {__file__}:{here + 4}"):
        files.TemporaryFile()
    with pytest.warns(RuntimeWarning, match=rf"never awaited, called at {__file__}:{here + 6}"):
        files.TemporaryDirectory()
    forgotten = [await files.open(tmp_path / "file", "w")]
    with pytest.warns(ResourceWarning, match=rf"opened at {__file__}:{here + 7}") as caught:
        forgotten.clear()
    assert caught[0].filename == __file__


async def test_an_opening_can_become_a_task(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x")
    task = asyncio.create_task(files.open(path, "rb"))
    assert "uringloop.open()" in repr(task)
    one = await task
    two, three = await asyncio.gather(files.open(path, "rb"), asyncio.wait_for(files.open(path, "rb"), 10))
    for file in (one, two, three):
        assert await file.read() == b"x"
        await file.close()
    # Cancelled before its first step, or closed: neither counts as forgotten.
    task = asyncio.create_task(files.open(path, "rb"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    files.open(path, "rb").close()


async def test_a_failed_call_warns_of_nothing(tmp_path):
    with pytest.raises(ValueError, match="invalid mode"):
        files.open(tmp_path / "file", "z")
    opening = files.open(tmp_path / "missing")
    with pytest.raises(FileNotFoundError):
        await opening
    del opening


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
    with pytest.warns(
        ResourceWarning, match=f"unclosed file .*BufferedFile name='{path}' mode='wb'>"
    ) as caught:
        forgotten.clear()
    assert caught[0].filename == __file__  # where the last reference was dropped
    assert path.read_bytes() == b"not flushed"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


async def test_unsupported_operations_raise_ios_exceptions(tmp_path):
    async with files.open(tmp_path / "file", "wb") as file:
        with pytest.raises(io.UnsupportedOperation):
            await file.read()
        with pytest.raises(io.UnsupportedOperation):
            await file.pread(1, 0)
        for call in (file.pwrite(b"x", -1),):
            with pytest.raises(OSError, match="Invalid argument"):
                await call


def test_encoding_warnings_are_issued_as_by_python(tmp_path):
    script = f"import uringloop.files as f; f.open({str(tmp_path / 'file')!r}, 'w')"
    done = subprocess.run(
        [sys.executable, "-X", "warn_default_encoding", "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "EncodingWarning" in done.stderr


@pytest.mark.parametrize("n_turns", range(6))
@pytest.mark.parametrize("opener", [None, os.open])
def test_a_file_opened_after_the_loop_was_stopped_is_closed(loop, tmp_path, opener, n_turns):
    """The loop is closed before the task that opened the file continues: the descriptor has no owner."""
    (tmp_path / "file").write_bytes(CONTENT)

    async def open_it():
        await (await files.open(tmp_path / "file", "rb", 0, opener=opener)).close()

    executor = ThreadPoolExecutor(1)
    loop.set_default_executor(executor)
    opening = loop.create_task(open_it())
    opening._log_destroy_pending = False
    one_turn(loop)
    executor.submit(int).result()  # by now its thread has opened the file and handed it over
    for _ in range(n_turns):
        one_turn(loop)
    loop.close()
    executor.shutdown()
    # the fixture that counts descriptors checks that nothing stays open


async def test_with_says_to_use_async_with(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"")
    for opening in (files.open(path), files.open(path, "rb"), files.TemporaryFile(), files.scandir(tmp_path)):
        with pytest.raises(TypeError, match="use `async with`"), opening:
            pass
    for mode, buffering in (("r", -1), ("rb", -1), ("rb", 0)):
        async with files.open(path, mode, buffering) as file:
            with pytest.raises(TypeError, match="use `async with`"), file:
                pass
            assert not file.closed
    folder = files.TemporaryDirectory()
    with pytest.raises(TypeError, match="use `async with`"), folder:
        pass
    async with folder:
        pass


async def test_for_says_to_use_async_for(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"one\ntwo\n")
    with pytest.raises(TypeError, match=r"await uringloop.open\(.*gives the file.*`async for`"):
        list(files.open(path))
    with pytest.raises(TypeError, match="with `async for`"):
        list(files.scandir(tmp_path))
    for mode, buffering in (("r", -1), ("rb", -1), ("rb", 0)):
        async with files.open(path, mode, buffering) as file:
            with pytest.raises(TypeError, match="with `async for`"):
                list(file)
            assert [len(line) async for line in file] == [4, 4]


async def test_a_file_is_an_async_iterable_only(tmp_path):
    """httpx asks for Iterable first."""
    path = tmp_path / "file"
    path.write_bytes(b"")
    for mode, buffering in (("r", -1), ("rb", -1), ("rb", 0)):
        async with files.open(path, mode, buffering) as file:
            assert isinstance(file, AsyncIterable)
            assert not isinstance(file, Iterable)

"""Functions of uringloop.files: results and exceptions are those of the same functions of os, shutil, tempfile."""

import asyncio
import os
import pathlib
import shutil
import stat
import sys

import pytest
from support.helpers import turns

from uringloop import files


async def outcome(function, *args, **options):
    try:
        value = function(*args, **options)
        if hasattr(value, "__await__"):
            value = await value
    except Exception as error:
        return type(error), str(error), getattr(error, "filename", None), getattr(error, "filename2", None)
    return value


def layout(folder):
    """The contents of a folder: names, kinds, permissions, data."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            found[name] = (oct(path.stat().st_mode), path.is_file() and path.read_bytes())
    return found


STEPS = [
    ("mkdir", "a"),
    ("mkdir", "a"),
    ("mkdir", "b", 0o700),
    ("mkdir", "missing/below"),
    ("makedirs", "c/d/e/"),
    ("makedirs", "c/d/e"),
    ("makedirs", "c/d/f", 0o750, True),
    ("makedirs", "c/d/f", 0o750, True),
    ("makedirs", "file/below", 0o777, True),
    ("rename", "file", "renamed"),
    ("rename", "file", "other"),
    ("rename", "renamed", "a"),
    ("replace", "renamed", "a/moved"),
    ("symlink", "a/moved", "link"),
    ("symlink", "a/moved", "link"),
    ("symlink", "nowhere", "dangling"),
    ("link", "a/moved", "hard"),
    ("link", "a/moved", "hard"),
    ("link", "nowhere", "hard2"),
    ("link", "dangling", "hard3"),
    ("readlink", "link"),
    ("readlink", "hard"),
    ("readlink", "nowhere"),
    ("rmdir", "a"),
    ("rmdir", "b"),
    ("rmdir", "hard"),
    ("rmdir", "nowhere"),
    ("unlink", "dangling"),
    ("unlink", "c"),
    ("unlink", "nowhere"),
    ("remove", "hard"),
    ("unlink", "nul\0inside"),
    ("mkdir", "nul\0inside"),
    ("stat", "nul\0inside"),
    ("listdir", "nowhere"),
    ("stat", "nowhere"),
    ("lstat", "nowhere"),
]


@pytest.mark.parametrize("kind", [str, os.fsencode, pathlib.Path], ids=["str", "bytes", "Path"])
async def test_functions_do_what_their_namesakes_in_os_do(tmp_path, monkeypatch, kind):
    folders = tmp_path / "os", tmp_path / "ours"
    for folder in folders:
        folder.mkdir()
        (folder / "file").write_bytes(b"content")
    for name, *args in STEPS:
        if kind is pathlib.Path and "\0" in args[0]:
            continue
        args = [kind(arg) if isinstance(arg, str) else arg for arg in args]
        monkeypatch.chdir(folders[0])
        theirs = await outcome(getattr(os, name), *args)
        monkeypatch.chdir(folders[1])
        ours = await outcome(getattr(files, name), *args)
        if "embedded null" in str(theirs):  # os has several texts for it
            theirs = ours if ours[0] is ValueError and "embedded null" in ours[1] else theirs
        assert ours == theirs, (name, args)
        assert layout(folders[0]) == layout(folders[1]), (name, args)


async def test_stat_returns_what_os_stat_returns(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    fields = [name for name in dir(os.stat_result) if name.startswith("st_")]
    for path in (tmp_path, tmp_path / "file", tmp_path / "link", "/dev/null", "/proc/self/status", "/"):
        for follow in (True, False):
            theirs, ours = (
                os.stat(path, follow_symlinks=follow),
                await files.stat(path, follow_symlinks=follow),
            )
            for field in fields:
                if str(path) == "/proc/self/status" and field.startswith(
                    ("st_atime", "st_mtime", "st_ctime")
                ):
                    continue
                assert getattr(ours, field) == getattr(theirs, field), field
            assert stat.S_IFMT(ours.st_mode) == stat.S_IFMT(theirs.st_mode)
        assert tuple(await files.lstat(path))[:7] == tuple(os.lstat(path))[:7]
    async with files.open(tmp_path / "file", "rb") as file:
        assert await files.stat(file.fileno()) == os.fstat(file.fileno())
    with pytest.raises(OSError, match="Bad file descriptor"):
        await files.stat(1_000_000)


@pytest.mark.parametrize("fd", [-1, -2, -100, -101, 1 << 20])
async def test_stat_of_what_is_no_descriptor_fails_as_os_stat(fd):
    """-100 is AT_FDCWD, which the kernel takes for the working directory."""
    expected = await outcome(os.stat, fd)
    assert expected[0] is OSError
    assert await outcome(files.stat, fd) == expected


async def test_lstat_takes_no_descriptor():
    assert await outcome(files.lstat, 0) == await outcome(os.lstat, 0)


async def test_names_are_relative_to_directories(tmp_path):
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        await files.mkdir("made", dir_fd=folder)
        await files.symlink("made", "link", dir_fd=folder)
        assert await files.readlink("link", dir_fd=folder) == "made"
        assert stat.S_ISDIR((await files.stat("link", dir_fd=folder)).st_mode)
        assert stat.S_ISLNK((await files.lstat("link", dir_fd=folder)).st_mode)
        await files.rename("made", "renamed", src_dir_fd=folder, dst_dir_fd=folder)
        (tmp_path / "file").touch()
        await files.link("file", "hard", src_dir_fd=folder, dst_dir_fd=folder)
        await files.unlink("link", dir_fd=folder)
        await files.rmdir("renamed", dir_fd=folder)
        assert sorted(os.listdir(tmp_path)) == ["file", "hard"]
    finally:
        os.close(folder)


async def test_listing_directories(tmp_path):
    names = {f"name {number}" for number in range(600)}
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    assert set(await files.listdir(tmp_path)) == names | {"folder"}
    entries = [entry async for entry in files.scandir(tmp_path)]
    assert {entry.name for entry in entries} == names | {"folder"}
    assert [entry.name for entry in entries if entry.is_dir()] == ["folder"]
    async with files.scandir(tmp_path) as scan:
        async for entry in scan:
            assert entry.path.startswith(str(tmp_path))
            break
    assert {entry.name async for entry in scan} == set()
    with pytest.raises(FileNotFoundError) as caught:
        async for _ in files.scandir(tmp_path / "nowhere"):
            pass
    assert caught.value.filename == str(tmp_path / "nowhere")


async def test_audit_events_are_the_same_as_of_os(tmp_path):
    seen, active = [], [True]
    wanted = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.link")
    sys.addaudithook(lambda event, args: active and event in wanted and seen.append((event, *args)))
    try:
        await files.mkdir(tmp_path / "a")
        await files.rename(tmp_path / "a", tmp_path / "b")
        await files.symlink("b", tmp_path / "c")
        await files.unlink(tmp_path / "c")
        await files.rmdir(tmp_path / "b")
    finally:
        active.clear()
    assert seen[0] == ("os.mkdir", tmp_path / "a", 0o777, -1)
    assert ("os.rename", tmp_path / "a", tmp_path / "b", -1, -1) in seen
    assert {event for event, *_ in seen} == {"os.mkdir", "os.rename", "os.symlink", "os.remove", "os.rmdir"}


async def test_copying_a_file(tmp_path):
    content = os.urandom(3_000_000)
    (tmp_path / "source").write_bytes(content)
    (tmp_path / "target").write_bytes(b"x" * 5_000_000)
    assert await files.copyfile(tmp_path / "source", tmp_path / "target") == tmp_path / "target"
    assert (tmp_path / "target").read_bytes() == content
    await files.copyfile("/proc/self/status", tmp_path / "target")
    assert (tmp_path / "target").read_text().startswith("Name:")
    (tmp_path / "empty").touch()
    await files.copyfile(tmp_path / "empty", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b""
    (tmp_path / "link").symlink_to("source")
    await files.copyfile(tmp_path / "link", tmp_path / "other link", follow_symlinks=False)
    assert os.readlink(tmp_path / "other link") == "source"


async def test_copies_that_shutil_refuses_are_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    cases = [("file", "file"), ("nowhere", "file"), ("folder", "file"), ("file", "folder"), ("file", "fifo")]
    cases += [("fifo", "file"), ("file", "nowhere/below")]
    for source, target in cases:
        with pytest.raises(Exception) as theirs:
            shutil.copyfile(tmp_path / source, tmp_path / target)
        with pytest.raises(type(theirs.value)):
            await files.copyfile(tmp_path / source, tmp_path / target)
    assert (tmp_path / "file").read_bytes() == b"x"


async def test_temporary_files(tmp_path):
    async with files.TemporaryFile(dir=tmp_path) as file:
        await file.write(b"temporary")
        await file.seek(0)
        assert await file.read() == b"temporary"
        assert os.listdir(tmp_path) == []
    async with files.NamedTemporaryFile(
        "w+", encoding="utf-8", suffix=".txt", prefix="my", dir=tmp_path
    ) as file:
        await file.write("named")
        await file.flush()
        path = pathlib.Path(file.name)
        assert path.read_text() == "named"
        assert (path.suffix, path.name[:2], path.parent) == (".txt", "my", tmp_path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()
    file = await files.NamedTemporaryFile(dir=tmp_path, delete=False)
    await file.close()
    assert os.path.exists(file.name)
    os.unlink(file.name)
    file = await files.NamedTemporaryFile(dir=tmp_path)
    os.unlink(file.name)  # another process was quicker
    await file.close()
    with pytest.raises(FileNotFoundError):
        await files.NamedTemporaryFile(dir=tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError):
        await files.TemporaryFile(dir=tmp_path / "nowhere")


async def test_a_forgotten_temporary_file_is_removed(tmp_path):
    kept = [await files.NamedTemporaryFile(dir=tmp_path)]
    with pytest.warns(ResourceWarning, match="unclosed file"):
        kept.clear()
    assert os.listdir(tmp_path) == []


async def test_temporary_directories(tmp_path):
    async with files.TemporaryDirectory(prefix="dir", dir=tmp_path) as path:
        assert os.path.basename(path).startswith("dir")
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
        async with files.open(os.path.join(path, "file"), "w") as file:
            await file.write("x")
        await files.makedirs(os.path.join(path, "a", "b"))
    assert os.listdir(tmp_path) == []
    directory = await files.TemporaryDirectory(dir=tmp_path)
    await directory.cleanup()
    await directory.cleanup()
    assert os.listdir(tmp_path) == []


async def test_cancelled_functions_wait_until_their_outcome_is_known(tmp_path):
    """A cancelled operation has happened or not when the task continues, and does not happen later."""
    for number in range(60):
        path = tmp_path / str(number)
        making = asyncio.ensure_future(files.mkdir(path))
        await turns(number % 5)
        making.cancel()
        await asyncio.gather(making, return_exceptions=True)
        exists = path.exists()
        await turns(5)
        assert path.exists() == exists


async def test_a_forgotten_temporary_directory_is_removed_with_a_warning(tmp_path):
    made = [await files.TemporaryDirectory(dir=tmp_path)]
    path = made[0].name
    (pathlib.Path(path) / "file").touch()
    assert repr(made[0]) == f"<uringloop.files.TemporaryDirectory {path!r} there>"
    with pytest.warns(ResourceWarning, match="implicitly cleaning up .*TemporaryDirectory") as caught:
        made.clear()
    assert caught[0].filename == __file__
    assert not os.path.exists(path)


async def test_a_temporary_directory_is_made_once_and_may_be_cleaned_up_repeatedly(tmp_path):
    making = files.TemporaryDirectory(dir=tmp_path)
    made = await making
    assert made is making
    with pytest.raises(RuntimeError, match="awaited already"):
        await making
    await made.cleanup()
    await made.cleanup()
    assert os.listdir(tmp_path) == []
    assert repr(made) == f"<uringloop.files.TemporaryDirectory {made.name!r} removed>"


@pytest.mark.parametrize("kind", [files.NamedTemporaryFile, files.TemporaryFile, files.TemporaryDirectory])
async def test_a_cancelled_temporary_file_or_directory_leaves_nothing(tmp_path, kind):
    """Otherwise there would be a file or directory whose name the caller does not know."""

    async def make():
        return await kind(dir=tmp_path)

    for n_turns in [*range(8)] * 5:
        task = asyncio.ensure_future(make())
        await turns(n_turns)
        task.cancel()
        (result,) = await asyncio.gather(task, return_exceptions=True)
        if not isinstance(result, asyncio.CancelledError):
            await (result.cleanup() if kind is files.TemporaryDirectory else result.close())
        assert os.listdir(tmp_path) == []

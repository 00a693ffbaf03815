"""Odd files and odd positions: uringloop's files return and raise what those of the builtin `open` do."""

import asyncio
import fcntl
import gc
import os
import select
import socket
import threading

import pytest
from support.helpers import until

from uringloop import files

ODD_OFFSETS = (
    0,
    5,
    -1,
    1 << 31,
    1 << 62,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
    1 << 65,
    -(1 << 63),
    -(1 << 65),
)


class AsBuiltin:
    """A file of the builtin `open` with coroutines for methods."""

    def __init__(self, file):
        self._file = file

    def __getattr__(self, name):
        method = getattr(self._file, name)

        async def call(*args):
            return method(*args)

        return call


async def open_builtin(*args, **kwargs):
    return AsBuiltin(open(*args, **kwargs))


async def open_ours(*args, **kwargs):
    return await files.open(*args, **kwargs)


def left_open(target):
    """Whether a refused descriptor is still open for its owner; closes it."""
    try:
        os.close(target if isinstance(target, int) else -1)
    except (OSError, OverflowError):
        return False
    return True


async def outcomes(opening, make, mode, buffering, steps):
    """The results of opening and of each step, or the type, errno and text of their exceptions."""
    found = []

    async def record(method, *args):
        try:
            async with asyncio.timeout(5):
                found.append((method, args, await getattr(file, method)(*args)))
        except (OSError, ValueError, TypeError, OverflowError, TimeoutError) as error:
            found.append((method, args, type(error), getattr(error, "errno", None), str(error)))

    target = make()
    try:
        file = await opening(target, mode, buffering)
    except (OSError, ValueError, TypeError) as error:
        return [type(error), getattr(error, "errno", None), left_open(target)]
    for step in steps:
        await record(*step)
    await record("close")
    return found


async def compare(make, mode, steps):
    for buffering in (-1, 0) if "b" in mode else (-1,):
        theirs = await outcomes(open_builtin, make, mode, buffering, steps)
        assert await outcomes(open_ours, make, mode, buffering, steps) == theirs


@pytest.fixture
def make(tmp_path):
    def make():
        path = tmp_path / "file"
        path.write_bytes(b"hello world\n" * 10)
        return path

    return make


@pytest.mark.parametrize("mode", ["rb", "rb+", "r+"])
@pytest.mark.parametrize("whence", [0, 1, 2, 3, 4, 5, -1, 1 << 40, None])
async def test_odd_positions(make, mode, whence):
    if mode == "r+" and whence in (3, 4):  # io's text files do not support them
        whence = 0
    steps = []
    for offset in ODD_OFFSETS:
        steps += [("seek", 0), ("read", 2), ("seek", offset, whence), ("tell",)]
    await compare(make, mode, steps)


async def test_writes_follow_open_after_seeks_beyond_the_largest_position(make):
    for offset in ((1 << 63) - 1, (1 << 63) - 4, 1 << 62):
        steps = [("seek", offset), ("read", 3), ("seek", 0, 2), ("write", b"x"), ("flush",), ("tell",)]
        await compare(make, "rb+", steps)


@pytest.mark.parametrize("size", [1 << 63, 1 << 65, -1, -(1 << 65), None, 3])
async def test_odd_sizes(make, size):
    await compare(make, "rb+", [("truncate", size), ("tell",), ("seek", 0, 2)])
    await compare(make, "rb", [("readline", size), ("seek", 0), ("readlines", size), ("truncate", size)])


@pytest.mark.parametrize("size", [1 << 63, (1 << 64) + 1, 1 << 200, -(1 << 63) - 1, -(1 << 200)])
async def test_sizes_out_of_range(make, size):
    """They are neither truncated nor refused with other texts; a large negative size does not mean "everything"."""
    for mode in ("rb", "rb+", "r", "r+"):
        steps = [(method, size) for method in ("read", "readline", "readlines")]
        if "+" in mode:
            steps += [("truncate", size), ("tell",)]
        await compare(make, mode, steps)
    theirs = await outcomes(open_builtin, make, "rb", -1, [("peek", size), ("read1", size)])
    assert await outcomes(open_ours, make, "rb", -1, [("peek", size), ("read1", size)]) == theirs


async def test_arguments_of_wrong_types_raise_as_in_io(make):
    await compare(make, "rb+", [("readinto", None), ("write", None), ("read", "x")])
    await compare(make, "r+", [("write", None), ("write", b"x"), ("read", "x")])


@pytest.mark.parametrize("fd", [1 << 31, 1 << 63, 1 << 65, -(1 << 31) - 1, -1, 1 << 30])
async def test_invalid_descriptors(fd):
    await compare(lambda: fd, "rb", [])


@pytest.mark.parametrize("kind", ["file", "symlink", "fifo", "folder", "socket", "device"])
@pytest.mark.parametrize("flags", [0, os.O_NOFOLLOW])
@pytest.mark.parametrize("mode", ["rb", "wb", "rb+", "ab", "r", "w", "r+"])
@pytest.mark.parametrize("way", ["descriptor", "opener"])
async def test_descriptors_opened_with_o_path(tmp_path, kind, flags, mode, way):
    """O_PATH: no kind of file is read, written or sought."""
    path = tmp_path / "it"
    if kind == "file":
        path.write_bytes(b"hello world\n")
    elif kind == "symlink":
        (tmp_path / "target").write_bytes(b"hello world\n")
        path.symlink_to("target")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
    else:
        path = "/dev/null"

    def opened(*_):
        return os.open(path, os.O_PATH | flags)

    steps = [("tell",), ("seekable",), ("isatty",), ("seek", 2), ("seek", 0, 2), ("read", 3), ("readline",)]
    steps += [("write", b"x" if "b" in mode else "x"), ("flush",), ("tell",), ("truncate",), ("read",)]
    if way == "descriptor":
        await compare(opened, mode, steps)
        return
    for buffering in (-1, 0) if "b" in mode else (-1,):
        found = []
        for opening in (open_builtin, open_ours):

            async def open_it(target, mode, buffering, opening=opening):
                return await opening(target, mode, buffering, opener=opened)

            found.append(await outcomes(open_it, lambda: path, mode, buffering, steps))
        assert found[1] == found[0]


@pytest.mark.parametrize(
    "path",
    [
        "/proc/version",
        "/proc/self/comm",
        "/proc/self/oom_score_adj",
        "/proc/sys/kernel/ostype",
        "/proc/self/clear_refs",
        "/proc/self/attr/current",
        "/proc/self/attr/exec",
        "/proc/self/loginuid",
    ],
)
@pytest.mark.parametrize("mode", ["wb", "rb+", "w"])
async def test_writing_to_files_of_the_kernel(path, mode):
    """Most take no offset: a write with one is refused although one without it is accepted, or fails differently."""
    try:
        os.close(os.open(path, os.O_RDWR if "+" in mode else os.O_WRONLY))
    except OSError as error:
        pytest.skip(f"{path}: {error}")
    with open("/proc/self/comm") as comm:
        before = comm.read()
    data = [b"nonsense", b"more"] if "b" in mode else ["nonsense", "more"]
    steps = [step for some in data for step in (("write", some), ("flush",))]
    if "b" in mode or path == "/proc/self/comm":
        steps.append(("tell",))  # io's text files write the rest again in each call
    try:
        await compare(lambda: path, mode, steps)
    finally:
        with open("/proc/self/comm", "w") as comm:
            comm.write(before)


@pytest.mark.parametrize(
    "path", ["/proc/self/fdinfo/0", "/proc/self/mounts", "/proc/sys/kernel/ostype", "/proc/self/mem"]
)
async def test_reading_files_of_the_kernel(path):
    steps = [
        ("seek", 3),
        ("read", 2),
        ("tell",),
        ("seek", 1, 1),
        ("tell",),
        ("seek", 0, 2),
        ("seek", -1, 2),
        ("tell",),
    ]
    await compare(lambda: path, "rb", [*steps, ("seek", 1 << 63), ("seek", 0), ("read", 3)])


@pytest.mark.parametrize("path", ["/dev/null", "/dev/zero", "/dev/full"])
@pytest.mark.parametrize("mode", ["rb+", "wb", "ab"])
async def test_devices(path, mode):
    steps = [("seek", 5), ("tell",), ("seek", 0, 2), ("seek", -1), ("seek", 1 << 63), ("seek", (1 << 63) - 1)]
    if path != "/dev/full":
        steps += [("write", b"x"), ("flush",), ("tell",), ("truncate",)]
    await compare(lambda: path, mode, steps)


def epoll_fd():
    with select.epoll() as epoll:
        return os.dup(epoll.fileno())


def pipe_end(is_reading):
    def make():
        ends = os.pipe()
        make.kept.append(ends[is_reading])
        return ends[not is_reading]

    make.kept = []
    return make


def sealed(seals):
    def make():
        fd = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
        os.write(fd, b"hello")
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        return fd

    return make


def listener():
    return socket.create_server(("127.0.0.1", 0)).detach()


@pytest.mark.parametrize(
    ("kind", "make_fd"),
    [
        ("epoll", epoll_fd),
        ("pidfd", lambda: os.pidfd_open(os.getpid())),
        ("listener", listener),
        ("unconnected", lambda: socket.socket().detach()),
        ("wrong end", None),
    ],
)
async def test_descriptors_that_cannot_be_read_or_written_do_not_wait(kind, make_fd):
    reading, writing = (pipe_end(False), pipe_end(True)) if make_fd is None else (make_fd, make_fd)
    try:
        if kind != "listener":
            await compare(writing, "wb", [("write", b"x"), ("flush",)])
        await compare(reading, "rb", [("read", 3), ("read",), ("readline",)])
    finally:
        for fd in (*getattr(reading, "kept", ()), *getattr(writing, "kept", ())):
            os.close(fd)


async def test_eventfds():
    await compare(lambda: os.eventfd(3), "rb", [("read", 8), ("tell",), ("seek", 0)])
    await compare(lambda: os.eventfd(3), "wb", [("write", b"\0" * 8), ("flush",), ("tell",)])
    await compare(lambda: os.eventfd(3), "wb", [("write", b"\0" * 4), ("flush",)])


@pytest.mark.parametrize("seals", [fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_GROW, fcntl.F_SEAL_WRITE])
async def test_sealed_memory(seals):
    steps = [
        ("seek", 0),
        ("read",),
        ("seek", 3),
        ("write", b"abc"),
        ("flush",),
        ("truncate", 100),
        ("truncate", 1),
    ]
    await compare(sealed(seals), "rb+", steps)


@pytest.mark.parametrize("mode", ["ab", "wb", "rb+", "ab+"])
@pytest.mark.parametrize("flags", [0, os.O_APPEND])
async def test_writes_to_an_fd_follow_its_own_flags(make, mode, flags):
    """Mode "a" seeks to the end of an fd without O_APPEND; an fd with O_APPEND appends in every mode."""
    contents = []

    def opened():
        path = make()
        contents.append(path)
        return os.open(path, os.O_RDWR | flags)

    steps = [
        ("tell",),
        ("write", b"one"),
        ("flush",),
        ("tell",),
        ("seek", 3),
        ("write", b"two"),
        ("flush",),
        ("tell",),
    ]
    for buffering in (-1, 0):
        theirs = await outcomes(open_builtin, opened, mode, buffering, steps)
        expected = contents[-1].read_bytes()
        assert await outcomes(open_ours, opened, mode, buffering, steps) == theirs
        assert contents[-1].read_bytes() == expected


# Forgotten with unwritten data in the buffer


async def forget(target, data, mode="wb", **kwargs):
    file = await files.open(target, mode, **kwargs)
    await file.write(data)
    del file
    gc.collect()


@pytest.mark.parametrize("mode", ["wb", "w"])
async def test_a_forgotten_file_of_a_pipe_writes_its_buffer(mode):
    reading, writing = os.pipe()
    with pytest.warns(ResourceWarning, match="unclosed file"):
        await forget(writing, b"last words" if mode == "wb" else "last words", mode)
    with open(reading, "rb") as file:
        assert file.read() == b"last words"


async def test_a_forgotten_file_of_a_full_pipe_does_not_stop_its_reader():
    reading, writing = os.pipe()
    room = fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    data = bytes(range(256)) * (room // 64)
    with pytest.warns(ResourceWarning, match="unclosed file"):
        await forget(writing, data, buffering=len(data))
    async with files.open(reading, "rb") as file:  # this loop is the reader
        assert await file.read() == data
    await until(
        lambda: (
            threading.active_count() == 1
            or not [t for t in threading.enumerate() if "_write_and_close" in t.name]
        )
    )


async def test_a_forgotten_file_without_closefd_writes_and_leaves_the_fd(tmp_path):
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    await forget(fd, b"written", closefd=False)
    assert os.pread(fd, 100, 0) == b"written"
    os.close(fd)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_forgotten_file_is_written_although_its_warning_is_an_error(tmp_path):
    file = await files.open(tmp_path / "file", "wb")
    fd = file.fileno()
    await file.write(b"written")
    del file  # pytest turns warnings into errors
    gc.collect()
    assert (tmp_path / "file").read_bytes() == b"written"
    with pytest.raises(OSError):
        os.fstat(fd)

"""add_sqe() checks known lengths and kinds of memory: otherwise the kernel could write beyond the end."""

import asyncio
import mmap
import os

import pytest

from uringloop.liburing import ffi, lib

from .common import NOP

READ = lib.io_uring_prep_read
WRITE = lib.io_uring_prep_write


def reading(memory, count):
    """A prep function of the user: its memory is not among the arguments."""
    return lambda sqe: READ(sqe, 0, memory, count, 0)


VIEW = ffi.from_buffer(bytearray(64))
BYTES = b"0123456789"
VECTORS = ffi.new("struct iovec[2]")


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize(
    ("call", "keepalive", "words"),
    [
        ((READ, 0, VIEW, 4096, 0), None, "4096 bytes of a bytearray object of 64"),
        ((READ, 0, VIEW, 65, 0), None, "65 bytes of"),
        ((WRITE, 1, VIEW, 65, 0), None, "65 bytes of"),
        ((WRITE, 1, BYTES, 11, 0), None, "11 bytes of a bytes object of 10"),
        ((lib.io_uring_prep_send, 1, VIEW, 65, 0), None, "65 bytes of"),
        ((lib.io_uring_prep_recv, 1, VIEW, 65, 0), None, "65 bytes of"),
        ((lib.io_uring_prep_send_zc, 1, VIEW, 65, 0, 0), None, "65 bytes of"),
        ((lib.io_uring_prep_read_fixed, 1, VIEW, 65, 0, 0), None, "65 bytes of"),
        ((lib.io_uring_prep_provide_buffers, VIEW, 16, 5, 1, 0), None, "80 bytes of"),
        ((READ, 0, ffi.new("char[64]"), 65, 0), None, "65 bytes of a cffi array of 64"),
        ((READ, 0, ffi.new("struct iovec *"), 17, 0), None, "17 bytes of a cffi array of 16"),
        ((READ, 0, ffi.from_buffer("struct iovec *", bytearray(64)), 65, 0), None, "65 bytes of"),
        ((READ, 0, VIEW + 60, 5, 0), VIEW, "5 bytes from offset 60 on of a bytearray object of 64"),
        ((reading(VIEW, 65),), VIEW, "65 bytes of"),
        ((reading(VIEW, 65),), (1, [], VIEW), "65 bytes of"),
        ((lib.io_uring_prep_readv, 0, VECTORS, 3, 0), None, "48 bytes of a cffi array of 32"),
        (
            (lib.io_uring_prep_writev2, 0, VECTORS + 1, 2, 0, 0),
            VECTORS,
            "32 bytes from offset 16 on of a cffi",
        ),
        ((READ, 0, ffi.from_buffer(BYTES), 10, 0), None, "immutable bytes object"),
        ((READ, 0, ffi.from_buffer(memoryview(BYTES)), 10, 0), None, "immutable memoryview object"),
        ((lib.io_uring_prep_recv, 0, ffi.from_buffer(BYTES), 10, 0), None, "immutable bytes object"),
        ((lib.io_uring_prep_read_fixed, 0, ffi.from_buffer(BYTES), 10, 0, 0), None, "immutable bytes object"),
        ((lib.io_uring_prep_provide_buffers, ffi.from_buffer(BYTES), 10, 1, 1, 0), None, "immutable bytes"),
        ((reading(ffi.from_buffer(BYTES), 10),), BYTES, "immutable bytes object"),
    ],
)
async def test_memory_that_the_kernel_must_not_touch_is_refused(call, keepalive, words, debug):
    loop = asyncio.get_running_loop()
    loop.set_debug(debug)
    before = loop.statistics()["in_flight"]
    with pytest.raises(ValueError, match=words):
        loop.add_sqe(*call, keepalive=keepalive)
    with pytest.raises(ValueError, match=words):
        loop.add_sqes([(NOP,), call], keepalive=keepalive)
    assert loop.statistics()["in_flight"] == before
    assert VIEW[0] == b"\0"
    assert BYTES == b"0123456789"


async def test_lengths_that_fit_are_accepted(tmp_path):
    loop = asyncio.get_running_loop()
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    memory = bytearray(b"x" * 64)
    view = ffi.from_buffer(memory)
    array = ffi.new("char[]", b"y" * 63)
    anonymous = mmap.mmap(-1, 4096)
    half = memoryview(memory)[32:]
    try:
        assert await loop.add_sqe(WRITE, fd, view, 64, 0) == 64
        assert await loop.add_sqe(WRITE, fd, view + 60, 4, 64, keepalive=view) == 4
        assert await loop.add_sqe(WRITE, fd, BYTES, 10, 0) == 10
        assert await loop.add_sqe(WRITE, fd, ffi.from_buffer(BYTES), 10, 0) == 10
        assert await loop.add_sqe(WRITE, fd, ffi.from_buffer(BYTES), 0, 0) == 0
        assert await loop.add_sqe(READ, fd, array, 64, 0) == 64
        assert await loop.add_sqe(READ, fd, ffi.from_buffer(anonymous), 4096, 0) == 68
        assert await loop.add_sqe(READ, fd, ffi.from_buffer(half), 32, 0) == 32
        vectors = ffi.new(
            "struct iovec[]", [{"iov_base": view, "iov_len": 4}, {"iov_base": array, "iov_len": 4}]
        )
        assert await loop.add_sqe(lib.io_uring_prep_readv, fd, vectors, 2, 0, keepalive=[view, array]) == 8
        # unknown memory is not checked
        assert await loop.add_sqe(READ, fd, view + 32, 32, 0, keepalive=(memory, half)) == 32
        assert (
            await loop.add_sqe(READ, fd, ffi.cast("void *", view), 64, 0, keepalive=[object(), "text"]) == 64
        )
    finally:
        os.close(fd)
    assert memory.startswith(BYTES)
    del view, half
    memory.append(1)  # no check has left an export behind


async def test_a_keepalive_without_accessible_memory_is_only_kept(tmp_path):
    loop = asyncio.get_running_loop()
    released = memoryview(b"gone")
    released.release()
    in_pieces = memoryview(bytearray(8))[::2]
    memory = ffi.new("char[8]")
    fd = os.open("/dev/zero", os.O_RDONLY)
    try:
        assert await loop.add_sqe(READ, fd, memory, 8, 0, keepalive=(released, in_pieces)) == 8
    finally:
        os.close(fd)

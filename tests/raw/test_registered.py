"""Registered buffers and files."""

import asyncio
import contextlib
import gc
import os
import weakref

import pytest
from support.helpers import LINUX, make_loop, turns

from uringloop.liburing import ffi, lib

from .common import Buffer, open_fds

UNREGISTERS_AT_ONCE = pytest.mark.skipif(
    LINUX < (6, 13), reason="before Linux 6.13 unregistering waits for the requests that use the table"
)


async def test_registered_buffers_serve_fixed_reads_and_writes(tmp_path):
    loop = asyncio.get_running_loop()
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    first, second = bytearray(b"fixed"), bytearray(5)
    registered = loop.register_buffers([first, second])
    assert len(registered) == 2
    with pytest.raises(RuntimeError, match="already"):
        loop.register_buffers([first])
    assert await loop.add_sqe(lib.io_uring_prep_write_fixed, fd, registered[0], 5, 0, 0) == 5
    assert await loop.add_sqe(lib.io_uring_prep_read_fixed, fd, registered[1], 5, 0, 1) == 5
    assert second == b"fixed"
    registered.close()
    registered.close()
    with pytest.raises(OSError):
        await loop.add_sqe(lib.io_uring_prep_read_fixed, fd, registered[1], 5, 0, 1)
    loop.register_buffers([first]).close()
    with pytest.raises(ValueError, match="no buffers"):
        loop.register_buffers([])
    os.close(fd)


@UNREGISTERS_AT_ONCE
async def test_registered_memory_outlives_its_owner_while_requests_use_it(pipe):
    loop = asyncio.get_running_loop()
    buffer = Buffer(4)
    registered = loop.register_buffers([buffer])
    request = loop.add_sqe(lib.io_uring_prep_read_fixed, pipe[0], registered[0], 4, 0, 0)
    await turns(2)
    registered.close()
    watched = weakref.ref(buffer)
    del buffer, registered
    gc.collect()
    assert watched() is not None
    os.write(pipe[1], b"data")
    assert await request == 4
    del request
    gc.collect()
    assert watched() is None


@UNREGISTERS_AT_ONCE
async def test_memory_that_the_prep_function_registers_outlives_its_owner_too(pipe):
    loop = asyncio.get_running_loop()
    watched = None

    def prep(sqe):
        nonlocal watched
        buffer = Buffer(4)
        watched = weakref.ref(buffer)
        lib.io_uring_prep_read_fixed(sqe, pipe[0], loop.register_buffers([buffer])[0], 4, 0, 0)

    request = loop.add_sqe(prep)
    await turns(2)
    loop._registered_buffers.close()
    gc.collect()
    assert watched() is not None
    os.write(pipe[1], b"data")
    assert await request == 4
    del request
    gc.collect()
    assert watched() is None


async def test_registered_files_are_opened_read_and_closed_in_the_table():
    loop = asyncio.get_running_loop()
    before = open_fds()
    files = loop.register_files(4)
    buffer = bytearray(8)

    def read_slot(sqe):
        lib.io_uring_prep_read(sqe, 2, ffi.from_buffer(buffer), 8, 0)
        sqe.flags |= lib.IOSQE_FIXED_FILE

    opened, read, closed = loop.add_sqes(
        [
            (lib.io_uring_prep_openat_direct, lib.AT_FDCWD, b"/dev/zero", os.O_RDONLY, 0, 2),
            (read_slot,),
            (lib.io_uring_prep_close_direct, 2),
        ],
        keepalive=buffer,
    )
    assert (await opened, await read, await closed) == (0, 8, 0)
    with open("/dev/zero", "rb") as zero:
        await files.update(2, zero.fileno())
    assert await loop.add_sqe(read_slot, keepalive=buffer) == 8
    await files.update(2, -1)
    with pytest.raises(OSError):
        await loop.add_sqe(read_slot, keepalive=buffer)
    files.close()
    with pytest.raises(RuntimeError, match="not registered"):
        await files.update(0, -1)
    assert open_fds() == before


def test_tables_do_not_reach_the_next_loop():
    loop = make_loop("io_uring")
    loop.register_files(2)
    buffer = Buffer(4)
    watched = weakref.ref(buffer)
    loop.register_buffers([buffer])
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    del loop, buffer
    gc.collect()
    assert watched() is None
    with contextlib.closing(make_loop("io_uring")) as following:
        following.register_files(2)

"""Small requests that many tests make, and helpers to find what is alive."""

import os

from uringloop.liburing import ffi, lib

NOP = lib.io_uring_prep_nop


class Buffer(bytearray):
    """A bytearray with weak references."""


def poll_of(loop, fd, **kwargs):
    return loop.add_sqe(lib.io_uring_prep_poll_add, fd, 1, **kwargs)


def read_of(loop, fd, buffer, **kwargs):
    """A read that cannot complete while the pipe is empty."""
    return loop.add_sqe(lib.io_uring_prep_read, fd, ffi.from_buffer(buffer), len(buffer), 0, **kwargs)


def polls_of(loop, fd, **kwargs):
    """A multishot poll."""
    return loop.add_sqe(lib.io_uring_prep_poll_multishot, fd, 1, multishot=True, **kwargs)


def accepts_of(loop, listener, **kwargs):
    """A multishot accept."""
    return loop.add_sqe(
        lib.io_uring_prep_multishot_accept, listener.fileno(), ffi.NULL, ffi.NULL, 0, multishot=True, **kwargs
    )


def open_fds():
    return set(os.listdir("/proc/self/fd"))

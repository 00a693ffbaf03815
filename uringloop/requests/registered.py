"""Registered buffers and files of a loop's ring: tables that fixed requests name by index.

A ring has one table of each.  The kernel pins registered memory and holds registered files until they are
unregistered, and charges the memory against RLIMIT_MEMLOCK.

Source: io_uring_register(2).  Thread: the loop's.
"""

import weakref
from collections.abc import Iterable, Sequence
from typing import Any

from ..support.errors import os_error


class RegisteredBuffers:
    """Memory that the kernel has pinned, for io_uring_prep_read_fixed, write_fixed and send_zc_fixed.

    Made by loop.register_buffers(buffers); `registered[i]` is a cffi pointer to the i-th.  Requests that are made while
    they are registered keep the memory alive themselves.
    """

    def __init__(self, loop: Any, buffers: Iterable[Any]) -> None:
        from ..liburing import ffi, lib

        self._pointers = [ffi.from_buffer(buffer) for buffer in buffers]
        if not self._pointers:
            raise ValueError("no buffers to register")
        vectors = ffi.new("struct iovec[]", len(self._pointers))
        for vector, pointer in zip(vectors, self._pointers, strict=True):
            vector.iov_base, vector.iov_len = pointer, len(pointer)
        _check(lib.io_uring_register_buffers(loop._ring_pointer(), vectors, len(self._pointers)), "BUFFERS")
        self._loop = weakref.ref(loop)

    def __len__(self) -> int:
        return len(self._pointers)

    def __getitem__(self, index: int) -> Any:
        return self._pointers[index]

    def close(self) -> None:
        """Unregister.  Idempotent; requests in flight finish with the memory they have.

        Before Linux 6.13 the kernel waits for requests that use the table, and blocks the thread: end these first.
        """
        from ..liburing import lib

        loop = self._loop()
        if loop is not None and loop._registered_buffers is self:
            if not loop.is_closed():
                _check(lib.io_uring_unregister_buffers(loop._ring_pointer()), "unregister BUFFERS")
            loop._registered_buffers = None
            loop._follow_tables()


class RegisteredFiles:
    """A table of files for requests with IOSQE_FIXED_FILE, or those that put their result there (openat_direct ...).

    Made by loop.register_files(files): a number of empty slots, or a list of fds, -1 for an empty slot.
    """

    def __init__(self, loop: Any, files: int | Sequence[int]) -> None:
        from ..liburing import ffi, lib

        numbers = [-1] * files if isinstance(files, int) else [int(fd) for fd in files]
        if not numbers:
            raise ValueError("no slots to register")
        table = ffi.new("int[]", numbers)
        _check(lib.io_uring_register_files(loop._ring_pointer(), table, len(numbers)), "FILES")
        self._n_slots = len(numbers)
        self._loop = weakref.ref(loop)

    def __len__(self) -> int:
        return self._n_slots

    async def update(self, index: int, fd: int) -> None:
        """Put fd into a slot; -1 empties it.  The table itself holds the file: fd may be closed afterwards."""
        from ..liburing import ffi, lib

        loop = self._loop()
        if loop is None or loop._registered_files is not self:
            raise RuntimeError("these files are not registered any more")
        await loop.add_sqe(lib.io_uring_prep_files_update, ffi.new("int[1]", [fd]), 1, index)

    def close(self) -> None:
        """Unregister and release the files.  Idempotent; requests in flight finish with the file they have.

        Before Linux 6.13 the kernel waits for requests that use the table, and blocks the thread: end these first.
        """
        from ..liburing import lib

        loop = self._loop()
        if loop is not None and loop._registered_files is self:
            if not loop.is_closed():
                _check(lib.io_uring_unregister_files(loop._ring_pointer()), "unregister FILES")
            loop._registered_files = None
            loop._follow_tables()


def _check(result: int, what: str) -> None:
    if result < 0:
        raise os_error(-result, f"io_uring_register({what})")

"""The requests that files make most often, filled in C: read, write, openat, close.

How it works:
1. The kernel reads straight into a `Block`, which will become a bytes object, or is the caller's memory.
2. `RingFiles` makes the requests; they are add_sqe()'s RawRequests, and are awaited like those.
3. Data that reaches the page cache after `page_cache` has missed it is read while the requests are submitted, that is,
   in the loop's own time. A turn reads INLINE_MOST_BYTES in this way; larger amounts are left to the kernel's workers
   (IOSQE_ASYNC), so that nothing else waits for them.

Invariant: `keepalive` of a request holds what its SQE points to until the final completion: the Block, the bytes
object, a memoryview (whose export forbids resizing its object), the path.

Thread: the loop's.
Not here: everything that is needed less often (`ring_backend`, by add_sqe() and cffi).
"""


from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memset
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING

from ..eventloop.raw cimport RawCore
from ..liburing.liburing cimport io_uring_sqe
from ..liburing.numbers cimport IOSQE_ASYNC, OP_CLOSE, OP_OPENAT, OP_READ, OP_WRITE
from ..requests.awaiting cimport RawRequest
from ..requests.submit cimport start
from ..support.system cimport (AT_EMPTY_PATH, AT_FDCWD, AT_REMOVEDIR, AT_STATX_DONT_SYNC, AT_SYMLINK_FOLLOW,
                               AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS)
from .page_cache cimport Block

import os

cdef extern from "../support/statx.h" nogil:
    struct statx_answer "statx":
        uint16_t stx_mode
        uint64_t stx_size
        uint32_t stx_blksize
    int ul_statx(int, const char *, int, unsigned, statx_answer *)

cdef extern from "../support/openat2.h" nogil:
    int ul_open_cached(int folder, const char *path, int flags)

cdef enum:
    LENGTH_MOST = 0x7FFFF000           # MAX_RW_COUNT of the kernel, in bytes
    INLINE_MOST_BYTES = 1 << 20

# The system's numbers, for ring_backend.
FDCWD = AT_FDCWD
EMPTY_PATH = AT_EMPTY_PATH
REMOVEDIR = AT_REMOVEDIR
SYMLINK_FOLLOW = AT_SYMLINK_FOLLOW
SYMLINK_NOFOLLOW = AT_SYMLINK_NOFOLLOW
BASIC_STATS = STATX_BASIC_STATS


cdef class RingFiles:
    """Makes requests on the ring of one loop."""

    cdef RawCore loop

    def __cinit__(self, RawCore loop not None):
        self.loop = loop

    def read(self, int fd, Block block not None, Py_ssize_t count, int64_t offset):
        """A request that reads the next `count` bytes of a block; offset -1 for a file without positions."""
        block.make()
        if not 0 <= count <= block.size - block.filled:
            raise ValueError("outside of the block")
        return self.transfer(OP_READ, fd, block.memory + block.filled, count, offset, block)

    def write(self, int fd, object data, int64_t offset):
        """A request that writes; offset -1 for the kernel's own position, or a file without one."""
        cdef object view
        cdef Py_buffer memory
        if type(data) is bytes:
            return self.transfer(OP_WRITE, fd, PyBytes_AS_STRING(data), len(data), offset, data)
        view = memoryview(data)
        PyObject_GetBuffer(view, &memory, PyBUF_SIMPLE)
        try:
            return self.transfer(OP_WRITE, fd, <char *>memory.buf, memory.len, offset, view)
        finally:
            PyBuffer_Release(&memory)

    def open_cached(self, int dir_fd, bytes path not None, int flags):
        """Open an existing file whose name is cached, at once; -1 if that fails: openat() does it, or reports why.

        The kernel does the same while an openat request is submitted, in the same thread; so this waits no more than
        that, and spares the request.
        """
        return ul_open_cached(dir_fd, PyBytes_AS_STRING(path), flags)

    def openat(self, int dir_fd, bytes path not None, int flags, unsigned mode):
        """A request that opens a file."""
        cdef io_uring_sqe sqe
        memset(&sqe, 0, sizeof(sqe))
        sqe.opcode = OP_OPENAT
        sqe.fd = dir_fd
        sqe.addr = <uint64_t><uintptr_t>PyBytes_AS_STRING(path)
        sqe.len = mode
        sqe.timeout_flags = <uint32_t>flags  # open_flags
        return self.submit(&sqe, path, True)

    def close(self, int fd, bint is_async):
        """A request that closes; by a worker if `is_async`."""
        cdef io_uring_sqe sqe
        memset(&sqe, 0, sizeof(sqe))
        sqe.opcode = OP_CLOSE
        sqe.fd = fd
        if is_async:
            sqe.flags = IOSQE_ASYNC
        return self.submit(&sqe, None, False)

    cdef object transfer(self, unsigned char opcode, int fd, char *memory, Py_ssize_t count, int64_t offset,
                         object keepalive):
        cdef io_uring_sqe sqe
        memset(&sqe, 0, sizeof(sqe))
        sqe.opcode = opcode
        sqe.fd = fd
        sqe.off = <uint64_t>offset
        sqe.addr = <uint64_t><uintptr_t>memory
        sqe.len = <uint32_t>min(count, <Py_ssize_t>LENGTH_MOST)
        if opcode == OP_READ and offset >= 0:
            if self.loop.file_turn != self.loop.aio_context.n_turns:
                self.loop.file_turn = self.loop.aio_context.n_turns
                self.loop.file_bytes = 0
            if self.loop.file_bytes >= INLINE_MOST_BYTES:
                sqe.flags = IOSQE_ASYNC
            self.loop.file_bytes += sqe.len
        return self.submit(&sqe, keepalive, False)

    cdef object submit(self, io_uring_sqe *sqe, object keepalive, bint makes_fds):
        """`keepalive` is held until the final completion."""
        cdef RawRequest request
        self.loop.check_ready()
        request = RawRequest.__new__(RawRequest)
        request.loop = self.loop
        request.guard = self.loop.guard
        request.opcode = sqe.opcode
        request.fd = sqe.fd
        request.makes_fds = makes_fds
        start(request, sqe, keepalive)
        return request


def describe_now(int fd):
    """(mode, size, block size) of an open file, as far as they are known without asking a server: never waits."""
    cdef statx_answer seen
    if ul_statx(fd, b"", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_BASIC_STATS, &seen) != 0:
        status = os.fstat(fd)  # a sandbox may refuse statx(2), with any errno; else this raises the error again
        return status.st_mode, status.st_size, status.st_blksize
    return seen.stx_mode, seen.stx_size, seen.stx_blksize

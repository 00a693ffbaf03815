"""Reads of data in the page cache, made at once: without a request, a thread, or a turn of the loop.

How it works:
1. preadv2(2) with RWF_NOWAIT copies what is cached, and fails with EAGAIN instead of waiting for a disk. Whatever else
   it fails with (EOPNOTSUPP from a file system without it, EIO ...), the backend reads in its own way, and reports.
2. A turn of the loop copies TURN_BYTES in this way. Reads for which it has no room wait for a later turn, first come,
   first served: `grant` wakes as many as the next one has room for.
3. Memory is made when there is something to read into it, not before: reads that wait occupy none, and those of later
   turns use what earlier ones have released. A page that the process has not used before costs eight times as much as
   the copy of its contents.

Invariant: only regular files without O_DIRECT are read here: elsewhere RWF_NOWAIT may wait.

Thread: the loop's. The GIL is released for large copies; the block is not known to other code then, and the caller's
memory is exported.
Not here: data that is not cached (`ring_backend`, `thread_backend`).
Source: preadv2(2); RWF_NOWAIT since Linux 4.14, on tmpfs not supported.
"""

cimport cython
from libc.stdint cimport int64_t
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.ref cimport PyObject, Py_XDECREF

from ..aio.owner cimport ContextOwner

from collections import deque

cdef extern from "Python.h":
    PyObject *PyBytes_FromStringAndSize(const char *, Py_ssize_t)
    int _PyBytes_Resize(PyObject **, Py_ssize_t)
    char *UL_BYTES "PyBytes_AS_STRING" (PyObject *)

cdef extern from "../support/preadv2.h" nogil:
    Py_ssize_t ul_read_cached(int fd, void *memory, size_t count, int64_t offset)

cdef enum:
    TURN_BYTES = 1 << 20
    END_BYTES = 1 << 12         # a read may exceed TURN_BYTES by these: the byte that shows where a file ends
    CALL_BYTES = 1 << 10        # what a call costs besides its bytes, as bytes
    WITHOUT_GIL_BYTES = 1 << 16

    # How a read has ended.
    IS_DONE = 1     # the block is full, or the file has ended
    IS_MISSING = 2  # what follows is not cached, or cannot be read in this way
    IS_LATER = 3    # what follows is for a later turn

# The same for the backends.
DONE = IS_DONE
LATER = IS_LATER


cdef class Block:
    """Memory that is filled by reads: for `size` bytes that become a bytes object, or the caller's."""

    def __cinit__(self, Py_ssize_t size, view=None):
        if size < 0:
            raise ValueError("a negative size")
        self.size = size
        self.view = view
        self.state = IS_MISSING

    def __dealloc__(self):
        Py_XDECREF(self.data)

    @staticmethod
    def over(buffer):
        """A block in the caller's memory."""
        cdef object view = memoryview(buffer)
        return Block.__new__(Block, view.nbytes, view)

    cdef int make(self) except -1:
        """Make the memory, if there is none yet."""
        cdef Py_buffer memory
        if self.memory != NULL:
            return 0
        if self.is_taken:
            raise ValueError("the block was taken")
        if self.view is not None:
            PyObject_GetBuffer(self.view, &memory, PyBUF_WRITABLE)
            self.memory = <char *>memory.buf  # it stays where it is as long as the memoryview exists
            PyBuffer_Release(&memory)
            return 0
        self.data = PyBytes_FromStringAndSize(NULL, self.size)
        if self.data == NULL:
            raise MemoryError()
        self.memory = UL_BYTES(self.data)
        return 0

    # The rest, for a call that reads into it in a thread; that call holds the block.
    def __getbuffer__(self, Py_buffer *buffer, int flags):
        self.make()
        PyBuffer_FillInfo(buffer, self, self.memory + self.filled, self.size - self.filled, False, flags)

    def add(self, Py_ssize_t count):
        """The kernel has read so many more; no request is in flight that reads into it."""
        if not 0 <= count <= self.size - self.filled:
            raise ValueError("more than the block has room for")
        self.filled += count

    def take(self):
        """The bytes that were read, once, when no request is in flight that reads into it."""
        cdef PyObject *data = self.data
        if self.is_taken or self.view is not None:
            raise ValueError("nothing to take")
        if data == NULL:
            self.is_taken = True
            return b""
        self.is_taken = True
        self.data = NULL
        self.memory = NULL
        if self.filled != self.size and _PyBytes_Resize(&data, self.filled) < 0:
            raise MemoryError()
        result = <bytes>data
        Py_XDECREF(data)  # `result` has its own reference
        return result


@cython.final  # its methods are called directly
cdef class CachedReads:
    """The reads of one loop."""

    def __cinit__(self, ContextOwner loop not None):
        self.aio_context = loop.aio_context
        self.waiting = deque()
        self.left = TURN_BYTES

    def read(self, int fd, Py_ssize_t count, int64_t offset):
        """Read from a regular file. Returns: bytes, fewer at the end of the file; or a Block with what could be read.

        Such a block is for the backend's fill().
        """
        cdef Block block = Block.__new__(Block, count)
        if self.fill(fd, block, offset, False) == IS_DONE:
            return block.take()
        return block

    def read_now(self, int fd, Py_ssize_t count, int64_t offset):
        """The same; None if not all of it can be read at once."""
        return self.read_cached(fd, count, offset)

    cdef bytes read_cached(self, int fd, Py_ssize_t count, int64_t offset):
        cdef Block block
        if count > TURN_BYTES + END_BYTES or not self.has_room(count):
            return None
        block = Block.__new__(Block, count)
        return block.take() if self.fill(fd, block, offset, False) == IS_DONE else None

    def go_on(self, int fd, Block block not None, int64_t offset, bint is_granted=False):
        """Read the rest of a block, whose beginning is at `offset`. Returns: its state.

        is_granted: it has waited for a later turn.
        """
        return self.fill(fd, block, offset, is_granted)

    def later(self, loop, Block block not None):
        """A future that is done when a turn has room for the next read of this block."""
        future = loop.create_future()
        self.waiting.append((future, next_bytes(block)))
        if not self.is_due:
            try:
                loop.call_soon(self.grant, loop)
            except BaseException:
                self.waiting.pop()
                raise
            self.is_due = True
        return future

    def grant(self, loop):
        """Wake the reads for which the next turn has room, and come back for the others."""
        cdef Py_ssize_t wanted, granted = 0
        cdef bint is_last = False
        self.begin_turn()
        try:
            if len(self.waiting) > 1:
                loop.call_soon(self.grant, loop)
        except MemoryError:
            is_last = True  # nothing would wake the others: they try, and wait again
        self.is_due = len(self.waiting) > 1 and not is_last
        while self.waiting:
            future, wanted = self.waiting[0]
            if not future.done():
                if granted and granted + wanted > TURN_BYTES and not is_last:
                    break
                granted += wanted
                try:
                    future.set_result(None)
                except MemoryError:
                    loop._after_memory_error()  # it is done, but asyncio has dropped the task's wake-up
            self.waiting.popleft()
        self.promised = granted
        self.promised_turn = self.aio_context.n_turns + 1

    cdef int begin_turn(self) except -1:
        if self.turn != self.aio_context.n_turns:
            self.turn = self.aio_context.n_turns
            self.left = TURN_BYTES - (self.promised if self.promised_turn == self.turn else 0)
        return 0

    cdef bint has_room(self, Py_ssize_t wanted) except -1:
        """Whether a read may be made now that has not waited. The first one of a turn always may."""
        self.begin_turn()
        return not self.waiting and (self.left == TURN_BYTES or self.left >= wanted)

    cdef int fill(self, int fd, Block block, int64_t offset, bint is_granted) except -1:
        """Read into a block until it is full, the file ends, or there is nothing to read at once; returns its state."""
        cdef Py_ssize_t wanted, n
        cdef char probe
        block.is_cacheable = True
        while block.filled < block.size:
            wanted = next_bytes(block)
            if not is_granted and not self.has_room(wanted):
                # What is not cached does not wait here: the sooner a disk knows of it, the better.
                n = ul_read_cached(fd, &probe, 1, offset + block.filled)
                block.state = IS_LATER if n >= 0 else IS_MISSING
                return block.state
            block.make()
            n = read_some(fd, block, wanted, offset + block.filled)
            if n < 0:
                block.state = IS_MISSING
                return block.state
            block.filled += n
            if not is_granted:
                self.left -= n + CALL_BYTES
            if n == 0:
                break
            is_granted = n < wanted  # the file's end, or that of what is cached: which of them costs no copy
        block.state = IS_DONE
        return block.state


cdef inline Py_ssize_t next_bytes(Block block) noexcept:
    """How much the next read of a block copies at most."""
    return min(block.size - block.filled, <Py_ssize_t>(TURN_BYTES + END_BYTES))


cdef Py_ssize_t read_some(int fd, Block block, Py_ssize_t count, int64_t offset) noexcept:
    """Returns: the number of bytes; -1 if nothing can be read in this way."""
    cdef void *memory = block.memory + block.filled
    cdef Py_ssize_t n
    if count < WITHOUT_GIL_BYTES:
        return ul_read_cached(fd, memory, <size_t>count, offset)
    with nogil:
        n = ul_read_cached(fd, memory, <size_t>count, offset)
    return n

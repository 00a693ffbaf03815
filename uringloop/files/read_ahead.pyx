"""What a BufferedFile has read ahead, and the reads and seeks that need neither a lock nor a wait.

buffered.py describes the state and keeps it, under its lock.  A call here finds the lock idle, and never waits: it
either does all that was requested, and leaves the state as a call with the lock would, or nothing.

After a jump a read of some size is exact: who reads here and there would pay for bytes ahead without using them, and a
copy of the result out of them.  Small reads fill a chunk, and so does the second of two in sequence.

Thread: the loop's.  Not here: data that is not cached, writing (buffered.py).
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.long cimport PyLong_AsLongAndOverflow
from libc.stdint cimport int64_t

from asyncio.events import _get_running_loop

cdef enum:
    ALWAYS_BYTES = 0x7FFFFFFF      # the least that a file system of Linux takes for a file's size (MAX_NON_LFS)
    EXACT_FROM_BYTES = 1 << 11

cdef object get_running_loop = _get_running_loop


cdef class ReadAhead:
    """The state of a file's reads."""

    def __cinit__(self, *args, **kwargs):
        self._fd = -1
        self._ahead = b""
        self._dirty = bytearray()
        self._chunk_end = -1

    cdef bint is_idle(self) except -1:
        """Whether nothing holds the lock, and nothing waits for it."""
        return not self._is_closing and not self._lock._locked and not self._lock._waiters

    def _read_now(self, size):
        """What read() returns, without waiting.  Returns: bytes; None: it has to wait, or to refuse."""
        cdef Py_ssize_t wanted, have
        cdef int64_t position
        cdef int overflow = 0
        if type(size) is not int or not self.is_idle():
            return None
        wanted = PyLong_AsLongAndOverflow(size, &overflow)
        if overflow:
            return None
        have = PyBytes_GET_SIZE(self._ahead) - self._at
        if 0 < wanted <= have:
            return self.take_ahead(wanted)
        if (self._cached is None or len(self._dirty) or self._read_errno or not wanted
                or not -1 <= wanted <= ALWAYS_BYTES or not self._is_readable or get_running_loop() is not self._loop):
            return None
        position = self._position + have
        if wanted < 0:
            return self.read_rest(position)
        if wanted >= self._chunk_most_bytes or wanted >= EXACT_FROM_BYTES and position != self._chunk_end:
            return self.read_exactly(position, wanted)
        return self.read_chunk(position, wanted)

    cdef object take_ahead(self, Py_ssize_t size):
        """Bytes that were read already."""
        cdef bytes data = self._ahead
        if self._at or size != PyBytes_GET_SIZE(data):
            data = PyBytes_FromStringAndSize(PyBytes_AS_STRING(data) + self._at, size)
        self._at += size
        self._position += size
        return data

    cdef object read_rest(self, int64_t position):
        """All to the end; None where the file has grown, or has no size."""
        cdef int64_t count = self._size_hint_bytes - position + 1
        cdef bytes data
        if count <= 1:
            return None
        data = self._cached.read_cached(self._fd, count, position)
        if data is None or PyBytes_GET_SIZE(data) == count:
            return None
        if self._at < PyBytes_GET_SIZE(self._ahead):
            data = self._ahead[self._at:] + data
        self._ahead, self._at = b"", 0
        self._position += PyBytes_GET_SIZE(data)
        self._chunk_end = self._position
        return data

    cdef object read_exactly(self, int64_t position, Py_ssize_t size):
        """What is ahead, and the rest of `size` bytes without more."""
        cdef bytes data = self._cached.read_cached(self._fd, size - <Py_ssize_t>(position - self._position), position)
        if data is None:
            return None
        if self._at < PyBytes_GET_SIZE(self._ahead):
            data = self._ahead[self._at:] + data
        if position != self._chunk_end:
            self._chunk_bytes = self._chunk_first_bytes
        self._ahead, self._at = b"", 0
        self._position += PyBytes_GET_SIZE(data)
        self._chunk_end = self._position
        return data

    cdef object read_chunk(self, int64_t position, Py_ssize_t size):
        """`size` bytes, from a chunk that has more."""
        cdef Py_ssize_t have = PyBytes_GET_SIZE(self._ahead) - self._at
        cdef Py_ssize_t chunk_bytes = self._chunk_first_bytes
        cdef bytes data
        if position == self._chunk_end:
            chunk_bytes = min(2 * self._chunk_bytes, self._chunk_most_bytes)
        data = self._cached.read_cached(self._fd, max(chunk_bytes, size - have), position)
        if data is None:
            return None
        if have:
            data = self._ahead[self._at:] + data
        self._chunk_bytes = chunk_bytes
        self._chunk_end = self._position + PyBytes_GET_SIZE(data)
        if PyBytes_GET_SIZE(data) <= size:
            self._ahead, self._at = b"", 0
            self._position += PyBytes_GET_SIZE(data)
            return data
        self._ahead, self._at = data, 0
        return self.take_ahead(size)

    def _seek_now(self, offset, whence):
        """What seek() returns for a place in a file, without waiting; None: it has to wait, or to refuse."""
        cdef Py_ssize_t target
        cdef int overflow = 0
        if (type(offset) is not int or whence != 0 or self._cached is None or not self._size_hint_bytes
                or len(self._dirty) or not self.is_idle()):
            return None
        target = PyLong_AsLongAndOverflow(offset, &overflow)  # -1 where it is too large
        if not 0 <= target <= ALWAYS_BYTES:
            return None
        self._move(target)
        return offset

    def _move(self, int64_t position):
        """Go to a position, with nothing to write; bytes ahead stay if it is among them."""
        cdef int64_t at = self._at + position - self._position
        if 0 <= at <= PyBytes_GET_SIZE(self._ahead):
            self._at = at
        else:
            self._ahead, self._at = b"", 0
        self._position = position
        return position

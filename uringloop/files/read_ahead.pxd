# What a BufferedFile has read ahead, and reads of it that need not wait.
from libc.stdint cimport int64_t

from .page_cache cimport CachedReads

cdef class ReadAhead:
    cdef public CachedReads _cached  # None where reads could wait
    cdef public object _loop
    cdef public object _lock         # asyncio's, with is_idle()
    cdef public bytes _ahead
    cdef public bytearray _dirty
    cdef public int64_t _position
    cdef public int64_t _chunk_end   # where the last chunk ended: the next one begins there if reading is sequential
    cdef public int64_t _size_hint_bytes
    cdef public Py_ssize_t _at
    cdef public Py_ssize_t _chunk_bytes
    cdef public Py_ssize_t _chunk_first_bytes
    cdef public Py_ssize_t _chunk_most_bytes
    cdef public int _fd
    cdef public int _read_errno
    cdef public bint _is_closing
    cdef public bint _is_readable
    cdef bint is_idle(self) except -1
    cdef object take_ahead(self, Py_ssize_t size)
    cdef object read_rest(self, int64_t position)
    cdef object read_exactly(self, int64_t position, Py_ssize_t size)
    cdef object read_chunk(self, int64_t position, Py_ssize_t size)

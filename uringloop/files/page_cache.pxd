# Reads of data in the page cache, made at once.
from libc.stdint cimport int64_t
from cpython.ref cimport PyObject

from ..aio.context_core cimport ContextCore

cdef class Block:
    cdef PyObject *data             # a bytes object that no other code knows; NULL: not made yet, or taken
    cdef object view                # of the caller's memory, whose export keeps it in place; None: `data` is filled
    cdef char *memory               # of either; NULL: not made yet, or taken
    cdef bint is_taken
    cdef readonly bint is_cacheable  # of a file that CachedReads may read
    cdef readonly Py_ssize_t size
    cdef readonly Py_ssize_t filled  # bytes from the beginning that are read
    cdef readonly int state         # IS_DONE, IS_MISSING or IS_LATER
    cdef int make(self) except -1

cdef class CachedReads:
    cdef ContextCore aio_context
    cdef object waiting             # deque of (future, bytes): reads for which this turn has no room
    cdef bint is_due                # grant() will run
    cdef unsigned long long turn    # the turn that `left` is of
    cdef Py_ssize_t left            # bytes that reads may copy in it
    cdef unsigned long long promised_turn
    cdef Py_ssize_t promised        # bytes of that turn for reads that have waited
    cdef bytes read_cached(self, int fd, Py_ssize_t count, int64_t offset)
    cdef int begin_turn(self) except -1
    cdef bint has_room(self, Py_ssize_t wanted) except -1
    cdef int fill(self, int fd, Block block, int64_t offset, bint is_granted) except -1

# add_sqe(): the loop's ring, open to everybody.
from ..fdmon.io_uring cimport IoUringMonitor
from ..liburing.liburing cimport io_uring_sqe
from .core cimport LoopCore
from .raw_request cimport RawRequest

cdef class Scratch:
    cdef object pointer                # cffi `struct io_uring_sqe *` that owns its memory
    cdef io_uring_sqe *sqe             # the same address

cdef class RawCore(LoopCore):
    cdef list spare_scratches          # Scratches that no prep function has in its hands
    cdef public object _registered_buffers  # RegisteredBuffers, or None
    cdef public object _registered_files    # RegisteredFiles, or None
    cdef int check_ready(self) except -1
    cdef IoUringMonitor ring_monitor(self)
    cdef Scratch take_scratch(self)
    cdef int put_back(self, Scratch scratch) except -1
    cdef RawRequest add_one(self, tuple call, object keepalive, object callback, bint is_multishot)
    cdef RawRequest prepare(self, Scratch scratch, tuple call, bint is_multishot, bint is_linked)

# add_sqe(): the loop's ring, open to everybody.
from ..requests.awaiting cimport RawRequest
from ..requests.submit cimport Scratch
from .base.loop_core cimport LoopCore

cdef class RawCore(LoopCore):
    cdef public object _registered_buffers  # RegisteredBuffers, or None
    cdef public object _registered_files    # RegisteredFiles, or None
    cdef int check_ready(self) except -1
    cdef RawRequest add_one(self, tuple call, object keepalive, object callback, bint is_multishot)
    cdef RawRequest prepare(self, Scratch scratch, tuple call, object keepalive, bint is_multishot, bint is_linked,
                            bint is_debug)

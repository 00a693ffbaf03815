# The part of Loop that makes raw requests.
from ..requests.awaiting cimport RawRequest
from .base.loop_core cimport LoopCore

cdef class RawCore(LoopCore):
    cdef public object _registered_files    # RegisteredFiles, or None
    cdef unsigned long long file_turn       # the last turn that read files, and how much (files/ring_requests)
    cdef size_t file_bytes
    cdef int check_ready(self) except -1
    cdef RawRequest add_one(self, tuple call, object keepalive, object callback, bint is_multishot)

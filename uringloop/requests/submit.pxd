# SQEs that the user's prep function fills.
from ..liburing.liburing cimport io_uring_sqe
from .request cimport SqeRequest

cdef class Scratch:
    cdef object pointer                # cffi `struct io_uring_sqe *` that owns its memory
    cdef io_uring_sqe *sqe             # the same address
    cdef bint is_taken                 # from take_scratch to put_back

cdef Scratch take_scratch(bint is_debug)
cdef int put_back(Scratch scratch, bint is_debug) except -1
cdef int set_callback(SqeRequest request, object callback) except -1

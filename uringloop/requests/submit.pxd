# SQEs that the user's prep function fills.
from ..liburing.liburing cimport io_uring_sqe
from .request cimport SqeRequest

cdef class Scratch:
    cdef object pointer                # cffi `struct io_uring_sqe *` that owns its memory
    cdef io_uring_sqe *sqe             # the same address
    cdef bint is_taken                 # from take_scratch to put_back

cdef Scratch take_scratch(bint is_debug)
cdef int put_back(Scratch scratch, bint is_debug) except -1
cdef int prepare(SqeRequest request, Scratch scratch, tuple call, object keepalive, bint is_linked,
                 bint is_debug) except -1
cdef int start(SqeRequest request, const io_uring_sqe *sqe, object kept) except -1
cdef int submit(SqeRequest request, tuple call, object keepalive, object callback, bint is_debug) except -1

cdef inline object what_lives(tuple call, object keepalive, object tables):
    """All objects that must live until the final completion."""
    if keepalive is not None:
        call = (call, keepalive)
    # a fixed request may use them: they live on when they are unregistered meanwhile
    return call if tables is None else (call, tables)

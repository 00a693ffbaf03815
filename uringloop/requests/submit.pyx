"""add_sqe(): SQEs that the user's prep function fills, on the ring of a context.

How it works:
 1. The user's prep function fills an SQE of ours in ordinary memory, never a slot of the ring: it may raise, run a
    nested turn or make other requests, and the kernel still sees only what is whole and was checked.
 2. `checks` refuses what would break the loop's own requests.
 3. The SQE is copied into the ring, and the request held (uring/request).  It goes out with the next wait, which comes
    at the end of the turn; a full SQ is submitted at once.

What an SQE points to is the user's; `keepalive` holds prep, its arguments and what the user names until the final
completion, so that cffi's objects and Python buffers among them live as long as the kernel may touch them.

Thread: the context's; before the first turn any one thread.
Not here: what a completion becomes (`request`), asyncio's side of it (`eventloop/raw`).
"""

from libc.stdint cimport uintptr_t
from libc.string cimport memset
from cpython.ref cimport PyObject

from ..aio.context_core cimport ContextCore
from ..liburing.liburing cimport io_uring_sqe
from ..support.assertions cimport must, must_not
from ..uring.engine cimport Engine
from ..uring.request cimport IN_FLIGHT
from .checks cimport check_callback, fill_sqe
from .request cimport ContextRequest, SqeRequest

cdef extern from "Python.h":
    object PyContext_CopyCurrent()

cdef enum:
    POISON = 0xDB

# Scratches that no prep function has in its hands.
cdef list spare_scratches = []


cdef class Scratch:
    """Memory of one SQE that a prep function fills."""

    def __cinit__(self):
        from ..liburing import ffi
        self.pointer = ffi.new("struct io_uring_sqe *")
        self.sqe = <io_uring_sqe *><uintptr_t>int(ffi.cast("uintptr_t", self.pointer))

    def was_touched(self):
        """Debug mode: it was written to after it was poisoned."""
        cdef const unsigned char *at = <const unsigned char *>self.sqe
        cdef size_t i
        for i in range(sizeof(io_uring_sqe)):
            if at[i] != POISON:
                return True
        return False


cdef Scratch take_scratch(bint is_debug):
    """Memory for one SQE.  In debug mode it is used once, so that a later write to it can be detected."""
    cdef Scratch scratch
    if spare_scratches and not is_debug:
        scratch = <Scratch>spare_scratches.pop()
    else:
        scratch = Scratch()
    must_not(scratch.is_taken, "a prep function has its scratch to itself")
    scratch.is_taken = True
    return scratch


cdef int put_back(Scratch scratch, bint is_debug) except -1:
    must(scratch.is_taken, "a scratch is put back once")
    scratch.is_taken = False
    if not is_debug:
        spare_scratches.append(scratch)
    else:
        memset(scratch.sqe, POISON, sizeof(io_uring_sqe))
    return 0


cdef int set_callback(SqeRequest request, object callback) except -1:
    request.callback = callback
    request.callback_context = PyContext_CopyCurrent()
    return 0


def add_sqe(ContextCore context not None, tuple call, callback, keepalive, bint is_multishot):
    """AioContext.add_sqe(); `call` is (prep, *args)."""
    cdef ContextRequest request
    cdef Scratch scratch
    cdef PyObject *borrowed
    check_callback(callback)
    scratch = take_scratch(False)
    try:
        request = ContextRequest.__new__(ContextRequest)
        request.aio_context = context
        request.is_multishot = is_multishot
        fill_sqe(request, scratch.sqe, scratch.pointer, call, keepalive, False)
        if context.monitor.is_closed:
            raise RuntimeError("the AioContext is closed")
        set_callback(request, callback)
        request.keepalive = call if keepalive is None else (call, keepalive)
        borrowed = <PyObject *>request
        (<Engine>context.engine).add_raw(&borrowed, 1, scratch.sqe)
        must(request.state == IN_FLIGHT, "a request that add_sqe() returns is in flight")
    finally:
        put_back(scratch, False)
    return request

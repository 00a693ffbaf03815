"""add_sqe(): SQEs that the user's prep function fills, on the ring of a context.  The only entry point of raw requests.

How it works:
 1. The user's prep function fills our SQE in ordinary memory, never a slot of the ring: it may raise, run a nested
    turn or make other requests, and the kernel still sees only complete SQEs that were checked.
 2. `checks` refuses SQEs that would break the loop's own requests.
 3. The SQE is copied into the ring, and the request held (uring/request).  It is submitted with the next wait, at the
    end of the turn; a full SQ is submitted at once.

The memory to which an SQE points is the user's; `keepalive` holds prep, its arguments and the objects that the user
names until the final completion, so that cffi's objects and Python buffers among them live as long as the kernel may
touch them.

Thread: the context's; before the first turn any one thread.
Not here: what a completion becomes (`request`, `awaiting`); chains and tables (`eventloop/raw`).
"""

cimport cython
from libc.stdint cimport uintptr_t
from libc.string cimport memset
from cpython.contextvars cimport PyContext_CopyCurrent
from cpython.ref cimport PyObject

from ..aio.context_core cimport ContextCore
from ..liburing.liburing cimport io_uring_sqe
from ..support.assertions cimport must, must_not
from ..uring.engine cimport Engine
from ..uring.request cimport IN_FLIGHT, Request
from .checks cimport check_callback, fill_sqe
from .request cimport ContextRequest, SqeRequest

cdef enum:
    POISON = 0xDB

# Scratches that no prep function uses at the moment.
cdef list spare_scratches = []
cdef object of_spares = object()  # of the critical section: the list itself is locked by its own methods


cdef class Scratch:
    """Memory of one SQE that a prep function fills."""

    def __cinit__(self):
        from ..liburing import ffi
        self.pointer = ffi.new("struct io_uring_sqe *")
        self.sqe = <io_uring_sqe *><uintptr_t>int(ffi.cast("uintptr_t", self.pointer))

    def was_touched(self):
        """Debug mode: whether it was written to after it was poisoned."""
        cdef const unsigned char *at = <const unsigned char *>self.sqe
        cdef size_t i
        for i in range(sizeof(io_uring_sqe)):
            if at[i] != POISON:
                return True
        return False


cdef Scratch take_scratch(bint is_debug):
    """Memory for one SQE.  In debug mode it is used once, so that a later write to it can be detected."""
    cdef Scratch scratch = None
    if not is_debug:
        with cython.critical_section(of_spares):
            if spare_scratches:
                scratch = <Scratch>spare_scratches.pop()
    if scratch is None:
        scratch = Scratch()
    must_not(scratch.is_taken, "a prep function has its scratch to itself")
    scratch.is_taken = True
    return scratch


cdef int put_back(Scratch scratch, bint is_debug) except -1:
    must(scratch.is_taken, "a scratch is put back once")
    scratch.is_taken = False
    if not is_debug:
        try:
            spare_scratches.append(scratch)
        except MemoryError:
            pass  # it is freed, and the next request makes another; raising would deny a request that was made
    else:
        memset(scratch.sqe, POISON, sizeof(io_uring_sqe))
    return 0


cdef int set_callback(SqeRequest request, object callback) except -1:
    request.callback = callback
    request.callback_context = PyContext_CopyCurrent()
    return 0


cdef int prepare(SqeRequest request, Scratch scratch, tuple call, object keepalive, bint is_linked,
                 bint is_debug) except -1:
    """Have prep fill an SQE and check it.  `request` is new; then it waits to be started."""
    fill_sqe(request, scratch.sqe, scratch.pointer, call, keepalive, is_linked)
    request.check_open()  # prep may have closed it
    if is_debug:
        request.touched = scratch.was_touched
    return 0


cdef int start(SqeRequest request, const io_uring_sqe *sqe, object kept) except -1:
    """Give a request to the ring, which copies the SQE; `kept` lives until the final completion."""
    cdef Request held = request.in_kernel()
    cdef PyObject *borrowed = <PyObject *>held
    held.keepalive = kept
    (<Engine>request.its_context().engine).add_raw(&borrowed, 1, sqe)
    must(held.state == IN_FLIGHT, "a request that was started is in flight")
    return 0


cdef int submit(SqeRequest request, tuple call, object keepalive, object callback, bint is_debug) except -1:
    """Make one request: have its SQE filled and checked, and give it to the ring.

    Parameters:
        request: new; its context and is_multishot are set.
        call: (prep, *args).
        callback: gets each completion; None: the request is awaited or iterated.
    """
    cdef Scratch scratch = take_scratch(is_debug)
    try:
        prepare(request, scratch, call, keepalive, False, is_debug)
        if callback is not None:
            set_callback(request, callback)
        elif request.is_multishot:
            request.iterate()
        start(request, scratch.sqe, what_lives(call, keepalive, request.tables()))
    finally:
        put_back(scratch, is_debug)
    return 0


def add_sqe(ContextCore context not None, tuple call, callback, keepalive, bint is_multishot):
    """AioContext.add_sqe(); `call` is (prep, *args)."""
    cdef ContextRequest request
    check_callback(callback)
    request = ContextRequest.__new__(ContextRequest)
    request.aio_context = context
    request.guard = context.guard
    request.is_multishot = is_multishot
    submit(request, call, keepalive, callback, False)
    return request

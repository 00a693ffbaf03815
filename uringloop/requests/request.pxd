# One request that add_sqe() made, reported to a callback; what a loop adds to it is requests/awaiting.
from libc.stdint cimport int32_t, uint32_t

from ..aio.context_core cimport ContextCore
from ..aio.handles cimport Handle, TimerHandle
from ..uring.request cimport Request

cdef class Cqe:
    cdef readonly int32_t res          # the result: a count, an fd, ..., or a negated errno
    cdef readonly uint32_t flags       # IORING_CQE_F_*

cdef class SqeRequest(Request):
    cdef object guard                  # of its context; see support/guard.h
    cdef object callback               # of the callback form, or None
    cdef object callback_context       # contextvars.Context to call it in
    cdef Cqe last_cqe                  # the result; of a multishot request and with a callback the newest one
    cdef object touched                # debug mode: whether the SQE was touched after prep, a callable; or None
    cdef TimerHandle retry             # of the next cancel, if the kernel missed the last one; or None
    cdef int32_t fd                    # as in the SQE, for repr
    cdef unsigned char opcode
    cdef unsigned short group          # as in the SQE: of the buffers that it selects, provides or removes
    cdef unsigned short first_id       # as in the SQE: of the buffers that it provides
    cdef bint is_forced_async          # IOSQE_ASYNC: completes in another order than it is executed in
    cdef bint is_multishot
    cdef bint makes_fds                # a result that is not negative is a file descriptor
    cdef bint is_over                  # the final completion was delivered
    cdef bint is_seen                  # user code has read last_cqe, or got it by a callback
    cdef object __weakref__
    cdef ContextCore its_context(self)
    cdef int check_open(self) except -1
    cdef object tables(self)
    cdef object reporter(self)
    cdef Request in_kernel(self)
    cdef int iterate(self) except -1
    cdef int ask_again_in(self, double delay_s) except -1
    cdef int schedule_retry(self, TimerHandle handle, double delay_s) except -1
    cdef int arrive(self, Cqe cqe) except -1
    cdef int wake(self) except -1
    cdef int finish(self) except -1
    cdef int detach(self) except -1
    cdef int report_touched(self, object reporter) except -1
    cdef int run_callback(self, Cqe cqe, Handle handle) except -1
    cdef object count_buffers(self, int32_t res, uint32_t flags)

cdef class ContextRequest(SqeRequest):
    cdef ContextCore aio_context        # None once it is over

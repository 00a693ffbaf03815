# One raw request, and what its completions become.
from libc.stdint cimport int32_t, uint32_t

from ..uring.request cimport Request
from .core cimport LoopCore

cdef class Cqe:
    cdef readonly int32_t res          # the result: a count, an fd ..., or a negated errno
    cdef readonly uint32_t flags       # IORING_CQE_F_*

cdef class RawRequest(Request):
    cdef LoopCore loop                 # None once it is over
    cdef object callback               # of the callback form, or None
    cdef object callback_context       # contextvars.Context to call it in
    cdef Cqe last_cqe                  # the result; of a multishot request and with a callback the newest one
    cdef object arrived                # deque of Cqes that nobody took yet; multishot without a callback only
    cdef object waiter                 # the asyncio.Future that somebody waits for in RequestWait, or None
    cdef object touched                # debug mode: callable that says whether the SQE was touched after prep; or None
    cdef object retry                  # TimerHandle of the next cancel, if the kernel missed the last one; or None
    cdef int32_t fd                    # as in the SQE, for repr
    cdef unsigned char opcode
    cdef bint is_multishot
    cdef bint makes_fds                # a result that is not negative is a file descriptor
    cdef bint is_over                  # the final completion was delivered
    cdef bint is_seen                  # somebody has looked at last_cqe, or was told of it
    cdef LoopCore untold               # whose exception handler hears of a failure that nobody looks at; or None
    cdef object __weakref__
    cdef int wake(self) except -1
    cdef int finish(self) except -1
    cdef int tell(self, Cqe cqe) except -1

cdef object os_error(int32_t res)

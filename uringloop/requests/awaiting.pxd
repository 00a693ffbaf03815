# One raw request of a loop: awaited or iterated, or reported to a callback.
from libc.stdint cimport int32_t

from ..aio.owner cimport ContextOwner
from ..uring.request cimport Request
from .request cimport SqeRequest

cdef class RawRequest(SqeRequest):
    cdef ContextOwner loop             # None once it is over
    cdef object arrived                # deque of Cqes that were not taken yet; multishot without a callback only
    cdef object waiter                 # the asyncio.Future that a task waits for in RequestWait, or None
    cdef list closers                  # Futures that wait for the end in aclose(), or None
    cdef RequestProxy proxy            # the kernel has this in its place, if it is iterated; or None
    cdef bint is_closing               # further completions are dropped
    cdef ContextOwner reports_to       # its exception handler gets a failure that is never retrieved; or None
    cdef int set_waiter(self, object waiter) except -1
    cdef int resolve(self, object waiter) except -1
    cdef int discard(self, object cqe) except -1
    cdef int discard_arrived(self) except -1
    cdef int drop_in_flight(self) except -1

cdef class RequestProxy(Request):
    cdef object request                # the RawRequest, a weak reference; None when it is gone
    cdef RawRequest kept               # the same, owned, while a task waits for it or its end is coming
    cdef bint makes_fds
    cdef RawRequest known(self)

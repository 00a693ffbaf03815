# Requests in flight.  Only this module holds and releases requests.
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from cpython.ref cimport PyObject

from ..liburing.liburing cimport io_uring_sqe
from ..support.flag cimport flag

cdef enum RequestState:
    IDLE = 0        # the kernel knows nothing of it
    IN_FLIGHT = 1   # from hold to the final completion
    CANCELLING = 2  # in flight, and a cancel was queued
    DONE = 3        # the final completion was harvested

cdef enum RequestKind:
    KIND_COMPLETION = 0  # delivered by dispatch, through complete()
    KIND_INTERNAL = 1    # the monitor's own: each CQE goes to reported(), inside of the wait, no user code
    KIND_SKIP_SEND = 2   # a SEND that posts a CQE only on failure: settled inside of the wait, no user code
    KIND_RAW = 3         # the user's, by add_sqe: delivered like KIND_COMPLETION, also when the loop closes

cdef class InFlight:
    cdef object collected              # always None: an object field makes the class garbage-collected
    cdef readonly Py_ssize_t count     # requests from hold to release
    cdef PyObject *head                # newest first; borrowed, each request holds itself while in flight
    cdef list snapshot(self)
    cdef int release_all(self) except -1

cdef class Request:
    cdef unsigned char state           # a RequestState
    cdef unsigned char kind            # a RequestKind
    cdef flag may_notify_late          # a zero-copy send behind a link: see end()
    cdef unsigned used_at              # of a MovableRequest: see fdmon/io_uring
    cdef object keepalive              # everything the kernel may touch; set before hold, dropped by its owner
    cdef InFlight owner                # the one whose list it is on; None unless in flight
    cdef PyObject *before              # neighbours on that list; borrowed
    cdef PyObject *after
    cdef object polled                 # fdmon/adaptive_polling's PolledEvent, of the maker of the request; or None
    cdef int complete(self, int32_t res, uint32_t flags, char *data) except -1
    cdef object subject(self)
    cdef int reported(self, int32_t res, bint has_more) except -1
    cdef void settle(self, int32_t res) noexcept
    cdef void drop(self, int32_t res, uint32_t flags) noexcept

cdef enum:
    ALL_SENT = 0x7FFFFFFF  # argument of settle() for a KIND_SKIP_SEND that posted no CQE

cdef uint64_t encode(Request request) noexcept
cdef Request decode(uint64_t user_data)
cdef int hold(Request request, InFlight owner, io_uring_sqe *sqe) except -1
cdef bint note_sqe(Request request, const io_uring_sqe *sqe, bint is_behind_link) noexcept
cdef int release(Request request) except -1
cdef int end(Request request, uint32_t flags, InFlight late) except -1

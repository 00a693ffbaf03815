# The FDMonitor interface and what every monitor shares.
from libc.stdint cimport int64_t

from ..support.flag cimport flag
from ..support.references cimport References
from .adaptive_polling cimport PolledEvent, PollList

cdef extern from "../support/clock.h" nogil:
    int64_t ul_monotonic_ns() noexcept
    bint ul_is_clock_faked() noexcept

# Frames that call user code.
#
# User code may do anything, turns of the loop among it.  In such a turn a connection ends, a handler is replaced, and
# objects held only by attributes are freed, under the frames further down on the stack.  A cdef method does not hold
# `self`; the caller's reference does.  So the one rule: a method that may run user code is called on an argument or on
# a local variable, which hold a reference until the frame returns, never on an attribute:
#
#     cdef WireEnd end = self.end
#     end.bytes_arrived(data)
#
# The first frames, which take requests, handlers and callbacks off the context's lists, own what they took.  So `self`
# lives in each frame above them.  A frame also keeps other objects that it uses after the call in local variables, or
# reads them anew and finds None.  tests/repository/test_frames.py checks the sources; `check_held(self)` after the call
# checks the running program, in builds with URINGLOOP_DEBUG.
cdef extern from "../support/assertions.h":
    """
    #define ul_check_held(object) \\
        ul_must(Py_REFCNT(object) > 0, "an object lives while a frame of it calls user code")
    """
    void check_held "ul_check_held"(object) noexcept

cdef class FdHandler:
    cdef int fd
    cdef short events    # POLLIN | POLLOUT: the interest
    cdef short revents            # what the last wait reported; valid while is_queued
    cdef flag is_removed          # never reported again, even if already queued
    cdef flag is_queued           # on the ready list
    cdef flag may_be_closed       # the fd is the program's, which may close it while it is watched
    cdef flag is_brief            # with may_be_closed: most waits for it are short, and many
    cdef unsigned armed_at        # io_uring only: the sweep after which its POLL_ADD was made
    cdef unsigned registration    # epoll only: what its events carry, not those of a file that had the number before
    cdef object file_id           # io_uring only: identity() of its file, once it was needed; else None
    cdef object arming            # io_uring only: the PollRequest that watches for it, or None
    cdef PolledEvent polled       # how long polling for it pays; None until polling is on and it came
    cdef int on_ready(self, short revents) except -1
    cdef object subject(self)
    cdef bint is_closed_by_program(self) except -1

cdef class ReadyList(References):
    cdef int append(self, FdHandler handler, short revents) except -1
    cdef FdHandler pop(self)

cdef class Subject:
    cdef object recorded_as(self)

# Kinds of callbacks.
cdef enum:
    OF_CALLBACK    # call_soon()
    OF_TIMER
    OF_FD          # a ready fd
    OF_COMPLETION  # a completion of a request
    OF_TASK        # a step of a task, whichever of these made it
    N_KINDS

cdef extern from "<stdint.h>" nogil:
    int64_t NEVER_NS "INT64_MAX"

cdef class Stopwatch:
    cdef object report            # called with the slow object and the seconds; or None
    cdef int64_t limit_ns         # from this time on it is slow
    cdef int follow(self, object report, int64_t limit_ns) except -1
    cdef int64_t begin(self, int kind, object what) except? -1
    cdef int end(self, object what, int64_t began_ns) except -1
    cdef int check(self, object what, int64_t took_ns) except -1
    cdef int passed(self) noexcept

cdef class FDMonitor:
    cdef readonly bint is_closed
    cdef dict handlers               # fd -> FdHandler with interest
    cdef dict left_files             # fd -> (device, inode) at the fork, from `leave` until `renew`; else None
    cdef unsigned long long n_syscalls
    cdef unsigned long long n_interests  # how often the interests changed; counted where fileno() is -1
    cdef Stopwatch stopwatch         # times callbacks to report slow ones, or None
    cdef PollList polling            # the context's, None while adaptive polling is off
    cdef long long n_bytes           # received by system calls of stream transports; see received_bytes
    cdef long long n_other_bytes     # what other transports received costs as much as so many bytes
    cdef object get_engine(self)
    cdef int update(self, FdHandler old, FdHandler new) except -1
    cdef int wait(self, ReadyList ready_list, int64_t timeout_ns) except -1
    cdef bint need_wait(self) noexcept
    cdef bint spin(self, ReadyList ready_list, const int *notified, int64_t until_ns) except -1
    cdef bint may_poll_by_default(self) noexcept
    cdef bint spin_with_calls(self, ReadyList ready_list, const int *notified, int64_t until_ns) except -1
    cdef long long received_bytes(self) noexcept
    cdef bint has_undispatched(self) noexcept
    cdef int dispatch(self) except -1
    cdef int submit(self) except -1
    cdef int begin_run(self) except -1
    cdef int settle(self) except -1
    cdef int make_pollable(self) except -1
    cdef bint gsource_prepare(self, ReadyList ready_list) except -1
    cdef bint gsource_check(self, bint is_fd_ready) except -1
    cdef int count_into(self, dict numbers) except -1
    cdef dict in_flight_kinds(self)
    cdef dict ring_facts(self)
    cdef int fileno(self) noexcept
    cdef int close(self) except -1
    cdef int deliver_last(self) except -1
    cdef int forget(self) except -1
    cdef bint can_leave(self) except -1
    cdef int leave(self) except -1
    cdef int renew(self) except -1

cdef object identity(int fd)

cdef int check_pollable(int fd) except -1

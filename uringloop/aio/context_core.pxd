# What an AioContext runs: its queues, its monitor, and the turn.
cimport cython
from libc.stdint cimport int64_t

from ..fdmon.adaptive_polling cimport PollList
from ..fdmon.base cimport FDMonitor, FdHandler, ReadyList, Stopwatch, Subject
from ..support.flag cimport flag
from ..support.references cimport References
from .bottom_halves cimport BottomHalves
from .handles cimport Handle
from .measured_polling cimport MeasuredPolling
from .notifier cimport Notifier
from .poll_handlers cimport PollHandlers
from .program cimport Program
from .ready cimport ReadyQueue
from .recorder cimport Recorder
from .timers cimport Timers

cdef extern from "../support/clock.h" nogil:
    int64_t ul_monotonic_ns() noexcept

cdef enum:
    MOST_CALLERS = 8

cdef class Resumable(Subject):
    cdef int go_on(self) except -1

cdef class Flushable(Resumable):
    cdef flag is_dirty                # on the context's dirty list
    cdef int flush(self) except -1
    cdef int flush_last(self) except -1

cdef class IdleWork:
    cdef bint before_wait(self, int64_t timeout_ns) except -1
    cdef int end(self) except -1

cdef class ContextCore:
    cdef object __weakref__
    cdef object guard                 # see support/guard.h
    cdef FDMonitor monitor            # owned; closed by close()
    cdef object engine                # the monitor's uring Engine; None: there are no requests of the ring
    cdef Notifier notifier
    cdef ReadyQueue ready             # callbacks, FIFO
    cdef Timers timers
    cdef Program program              # what sets the next two; None without a loop
    cdef bint has_own_clock           # timers follow program.time(), not CLOCK_MONOTONIC
    cdef bint has_own_select          # program.select() waits
    cdef BottomHalves bottom_halves   # what is scheduled from any thread, and what reports
    cdef PollHandlers pollers         # handlers with io_poll; None until there is one
    cdef unsigned long thread         # the one that made turns last; 0 for none yet
    cdef bint is_forgotten            # closed, because this process is a fork
    cdef ReadyQueue due               # timers that are due and not run yet, in the order of their times
    cdef ReadyList ready_list         # handlers found ready, not dispatched yet
    cdef References dirty             # Flushables with data to write
    cdef Py_ssize_t dirty_bytes       # bytes that they hold together, at least
    cdef bint is_flushing             # flush_dirty is at work
    cdef Resumable in_delivery        # whose frame calls user code and may have more for it: see resume_below
    cdef object run_handle_debug      # debug mode: called with each Handle instead of running it; or None
    cdef Stopwatch stopwatch          # times callbacks, to report slow ones or to record all; or None
    cdef Recorder recorder            # the same one, while it records; or None
    cdef PollList polling             # adaptive polling: what is worth polling before blocking; None while off
    cdef MeasuredPolling measured     # polling that is on by default; None while off, or while the program says
    cdef public IdleWork _idle_work   # what to do before a wait; None while there is nothing
    cdef object around_turn           # poll() calls it, and afterwards what it returned; it and that may be None
    cdef bint is_foreign              # a foreign loop drives it (foreign_turns)
    cdef readonly object fdmon_reason  # why this monitor is used; None when io_uring was chosen freely
    cdef int n_polls                  # calls of poll() and runs of a loop on the stack: other threads keep out
    cdef void *callers[MOST_CALLERS]  # the Python frames that made these calls: what they run is above them
    cdef bint wants_return            # stop() was called: this turn does not block
    cdef unsigned long long n_turns
    cdef unsigned long long n_connections  # of stream transports, made so far
    cdef unsigned long long n_written      # bytes that stream transports were given
    cdef unsigned long long n_write_pauses  # calls of pause_writing
    cdef unsigned long long n_dispatched  # callbacks, fds and timers, and turns that had completions: shows progress
    cdef int check_open(self) except -1
    cdef int poll_if_cheap(self) except -1
    cdef object report_to(self, object reporter)
    cdef int64_t now_ns(self) except? -1
    cdef int set_handler(self, FdHandler old, FdHandler new) except -1
    cdef int exchange_handler(self, FdHandler old, object old_file, FdHandler new, object new_file) except -1
    cdef int turn(self, bint blocking) except -1
    cdef int resume_below(self) except -1
    cdef int64_t timeout_ns(self, bint blocking) except? -2
    cdef int wait_for(self, int64_t timeout_ns) except -1
    cdef int block(self, int64_t timeout_ns) except -1
    cdef int64_t wait(self, int64_t timeout_ns) except -1
    cdef int64_t use_idle_time(self, int64_t timeout_ns) except? -2
    cdef int64_t spin_recorded(self, int64_t started_ns, int64_t timeout_ns) except? -2
    cdef int64_t spin(self, int64_t started_ns, int64_t timeout_ns) except? -2
    cdef int64_t spin_for(self, int64_t started_ns, int64_t spin_ns, int64_t timeout_ns, bint with_calls,
                          bint *is_hit) except? -2
    cdef int measured_wait(self, int64_t timeout_ns) except -1
    cdef int sleep(self, int64_t timeout_ns) except -1
    cdef int take(self) except -1
    cdef int block_recorded(self, int64_t timeout_ns) except -1
    cdef int64_t wait_recorded(self, int64_t timeout_ns) except -1
    cdef int flush_turn(self) except -1
    cdef int64_t spin_asking(self, int64_t started_ns, int64_t spin_ns, int64_t timeout_ns) except? -2
    cdef bint poll_once(self, int64_t now_ns, int64_t *next_wait_ns) except -1
    cdef int begin_run(self) except -1
    cdef bint is_elsewhere(self) noexcept
    cdef bint is_other_thread(self) noexcept
    cdef int refuse_others(self) except -1
    cdef int run_ready(self, size_t count) except -1
    cdef int run_handle(self, int kind, Handle handle) except -1
    cdef int run_timed(self, int kind, Handle handle) except -1
    cdef int report_slow(self, object report, int64_t limit_ns) except -1
    cdef int end_recording(self) except -1
    cdef int begin_turns(self) except -1
    cdef int end_turns(self) except -1
    cdef int dispatch_fds(self) except -1
    cdef int schedule(self, object callback, object loop) except -1
    cdef int take_due_timers(self) except -1
    cdef int run_due_timers(self) except -1
    cdef int mark_dirty(self, Flushable flushable, Py_ssize_t n_bytes) except -1
    cdef Flushable pop_dirty(self)
    cdef int flush_dirty(self) except -1
    cdef int send_dirty(self) except -1
    cdef int send_all(self) except -1
    cdef int settle(self) except -1
    cdef int count_into(self, dict numbers) except -1
    cdef int end(self) except -1
    cdef int forget(self) except -1
    cdef bint is_left(self) noexcept
    cdef bint leave(self) except -1
    cdef int renew(self) except -1

    @cython.final
    cdef bint may_block(self) noexcept

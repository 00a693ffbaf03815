# The parts of the asyncio loop that run once per callback.
from libc.stdint cimport uint64_t

from ...aio.handles cimport Handle, TimerHandle
from .watching cimport FdWatching

cdef class LoopCore(FdWatching):
    cdef bint is_stopping
    cdef bint is_debug
    cdef unsigned known_tag          # of the class when has_own_* were looked up; a different one: it has changed
    cdef unsigned known_view_tag     # of SelectorView at that time
    cdef uint64_t known_clock        # the version of asyncio's clock at that time
    cdef bint is_followed            # the context knows the result of that lookup
    cdef bint has_own_clock          # loop.time() is not CLOCK_MONOTONIC
    cdef bint has_own_timers         # a time for a timer is not simply CLOCK_MONOTONIC plus a delay
    cdef bint has_own_time           # loop.time is not ours: replaced or overridden, here or in a base
    cdef bint has_own_base_time      # BaseEventLoop.time is not asyncio's
    cdef bint has_own_call_at        # loop.call_at is not ours: call_later() calls it
    cdef bint has_own_turn           # loop._run_once is not ours
    cdef bint has_own_select         # loop._selector.select is not ours
    cdef object running_thread       # ident of the thread in run_forever, or None
    cdef double slow_s               # slow_callback_duration
    cdef object slow_hook            # slow_callback_hook, or None
    cdef object __weakref__
    cdef int run_turns(self) except -1
    cdef int look_up_again(self) except -1
    cdef int follow_program(self) except -1
    cdef int follow_slowness(self) except -1
    cdef int fill_plain(self, Handle handle, object callback, object args, object context) except -1
    cdef int call_own_soon(self, object callback, object first, object second, object context) except -1
    cdef int check_callback(self, object callback, str method) except -1
    cdef TimerHandle schedule(self, double when_s, object callback, object args, object context, str method)

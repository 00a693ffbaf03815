"""Program: turns with a clock, and a wait, with which a program has replaced the loop's.

Tests travel in time.  On their clock a turn does what asyncio's does, in seconds, and reads that clock as often: it may
move when it is read, or by the time that the wait would have taken, and has to arrive at a timer's time exactly.

All of this may run user code, which may close the context, or run a turn.  Thread: the context's.
Not here: how to find out what is the program's (eventloop/base/loop_core), the turn (aio/context_core).
"""

from libc.stdint cimport int64_t

from ..support.assertions cimport must
from .handles cimport TimerHandle
from .ready cimport ReadyQueue
from .timers cimport Timers

cdef extern from "<math.h>" nogil:
    double ceil(double)

cdef double LONGEST_SELECT_S = 86400.0  # asyncio's MAXIMUM_SELECT_TIMEOUT


cdef class Program:
    """The loop defines the first four methods."""

    cdef int begin_turn(self) except -1:
        """A turn is to begin: set the context's has_own_clock and has_own_select."""
        return 0

    cdef double now_s(self) except? -1.0:
        """The time in seconds."""
        raise NotImplementedError

    cdef double resolution(self) except? -1.0:
        """A timer is due when less than these seconds are left."""
        raise NotImplementedError

    cdef int select(self, object timeout_s) except -1:
        """Wait for that long at most, None: for ever; ContextCore.wait_for() may be called in it."""
        raise NotImplementedError

    cdef int64_t timeout_ns(self, Timers timers, double most_s) except? -2:
        """How long the wait may block, most_s at most (-1: as long as it likes), until the first timer; -1 for ever."""
        cdef TimerHandle first = timers.first()
        if first is None:
            if most_s < 0:
                return -1
            self.left_s = most_s
        else:
            self.left_s = min(max(first.when_s - self.now_s(), 0.0), LONGEST_SELECT_S)
            if most_s >= 0:
                self.left_s = min(self.left_s, most_s)
        return <int64_t>ceil(self.left_s * 1e9)

    cdef int wait(self, int64_t timeout_ns, bint is_exact) except -1:
        """Let the program's select wait; it decides how long the wait that it finally calls may take.

        Parameters:
            timeout_ns: at most, -1 for ever.
            is_exact: it is the last result of timeout_ns().
        """
        if timeout_ns < 0:
            return self.select(None)
        if timeout_ns == 0:
            return self.select(0)
        return self.select(self.left_s if is_exact else timeout_ns / 1e9)

    cdef int take_due(self, Timers timers, ReadyQueue due) except -1:
        """Move the timers that are due at one reading of the clock, the earliest first."""
        cdef double end_s = self.now_s() + self.resolution()
        cdef TimerHandle first = timers.first()
        while first is not None and not first.when_s >= end_s:
            must(timers.count > 0, "a timer that is due is on the heap")
            must(<void *>first.timers == <void *>timers, "a timer on the heap knows it")
            due.have_room()  # before it leaves the heap
            due.push(timers.pop())
            first = timers.first()
        return 0

"""Collector: garbage collections of the process when one context has nothing to do, and seldom at other times.

 1. A context calls before_wait() when nothing is ready and it is about to wait.  By then young objects are collected,
    if CPython would have collected them in the middle of the work since the last wait: the thresholds say so.
 2. CPython's own threshold is raised to the bound meanwhile.  So a context that never waits is interrupted, too, but
    less often: it costs nothing per turn, and needs no clock.
 3. A full collection takes as long as the process has objects that are not frozen.  It is due when these have grown by
    a quarter, as in CPython, which does not say by how much they have: it follows from the objects that collections of
    younger ones found and freed.  It begins when no timer is due before its expected end, and not so soon after the
    last that more than a tenth of the time would go there.  When they have grown by twice as much, it begins before any
    wait, and CPython may begin it.
 4. All collections of the process are measured, also those of others: it is in gc.callbacks.

Other code may call gc.collect(), gc.freeze(), gc.disable(), gc.enable() and gc.set_threshold() meanwhile: while the
collector is disabled nothing is collected, and thresholds of others are left alone.

Invariant: what was found is restored once, at the latest when the context ends, and in a fork child.

Thread: before_wait() in that of the context; the rest in any, with the GIL.  No byte code runs in __call__, in which an
exception, such as that of a signal, would be lost.
Not here: what users call (gcpolicy.py), the place of the call (context_core).
"""

import gc

from libc.stdint cimport int64_t

from ..support.assertions cimport must
from .context_core cimport IdleWork

cdef extern from "../support/clock.h" nogil:
    int64_t ul_monotonic_ns() noexcept

cdef enum:
    IN_WORK
    AT_IDLE
    REQUESTED                         # when this begins, and by freeze()

cdef enum:
    FULL_AFTER = 25_000               # new objects that make a full collection due at the earliest: about 5 ms
    FULL_PAUSE = 9                    # between two full collections, as a multiple of what one takes
    NEVER = 1_000_000_000             # a threshold
    FROZEN_BY_PYTHON = 1000           # by the start of some versions; gc.freeze() freezes more than that

cdef double FIRST_NS_PER_OBJECT = 200  # until a full collection was measured


cdef class Collector(IdleWork):
    """Collects for one context.  The process has one that is not closed.

    Parameters:
        bound: objects that may be made, beyond those that were freed, before work is interrupted; 0: 20 thresholds.
    """

    def __init__(self, Py_ssize_t bound):
        self.found = gc.get_threshold()
        self.was_enabled = gc.isenabled()
        self.was_frozen = gc.get_freeze_count() > FROZEN_BY_PYTHON
        self.young_limit = self.found[0] or 2000  # 0 is never
        self.middle_limit = self.found[1] or 10
        self.bound = bound or 20 * self.young_limit
        self.ns_per_object = FIRST_NS_PER_OBJECT
        gc.set_threshold(self.bound, self.middle_limit, NEVER)
        # Pythons that collect old objects in pieces have no third threshold.
        self.ours = gc.get_threshold()
        self.has_increments = self.ours[2] == 0
        self.n_old = len(gc.get_objects())
        gc.callbacks.append(self)
        gc.enable()

    def freeze(self):
        """Collect, and leave what is alive now out of all later collections.  Takes long with many objects."""
        if self.is_closed:
            raise RuntimeError("the garbage-collection policy is closed")
        self.collect(2, REQUESTED)
        gc.freeze()
        self.has_frozen = True
        self.n_old = self.n_grown = 0

    def close(self):
        """Restore what was found.  Idempotent."""
        if self.is_closed:
            return
        self.restore()
        if self.has_frozen and not self.was_frozen:
            gc.unfreeze()  # else their finalizers would not run when the process ends

    cdef int end(self) except -1:
        self.close()
        return 0

    def leave(self):
        """In a fork child: the same, but what is frozen stays so, and shares its memory with the parent."""
        if not self.is_closed:
            self.restore()

    def numbers(self):
        """(collections by generation, ns in all, longest ns) of IN_WORK, AT_IDLE and REQUESTED; postponed ones."""
        return (
            *((tuple([self.counts[kind][each] for each in range(3)]), self.pause_ns[kind], self.longest_ns[kind])
              for kind in range(3)),
            self.n_postponed,
        )

    cdef int restore(self) except -1:
        self.is_closed = True
        if self in gc.callbacks:
            gc.callbacks.remove(self)
        if gc.get_threshold() == self.ours:
            gc.set_threshold(*self.found)
        if not self.was_enabled:
            gc.disable()
        return 0

    cdef Py_ssize_t full_limit(self) noexcept:
        """Growth that makes a full collection due."""
        return max(self.n_old // 4, <Py_ssize_t>FULL_AFTER)

    cdef bint before_wait(self, int64_t timeout_ns) except -1:
        """Collect what is due; finalizers are user code."""
        cdef tuple counts
        cdef int generation
        cdef bint is_made = False
        if self.is_closed:
            return False
        counts = gc.get_count()
        if counts[0] > self.young_limit and gc.isenabled():
            generation = 1 if self.has_increments or counts[1] > self.middle_limit else 0
            if generation and 0 <= timeout_ns < self.expected_ns[1] and not self.has_increments:
                generation = 0  # better than nothing
            if 0 <= timeout_ns < self.expected_ns[generation]:
                self.n_postponed += 1  # CPython makes it at the bound
            else:
                is_made = self.collect(generation, AT_IDLE)
        if self.n_grown >= self.full_limit() and not (self.is_closed or self.has_increments) and gc.isenabled():
            is_made |= self.collect_full_if_quiet(timeout_ns)
        return is_made

    cdef bint collect_full_if_quiet(self, int64_t timeout_ns) except -1:
        cdef int64_t expected_ns = <int64_t>(self.ns_per_object * (self.n_old + self.n_grown))
        cdef int64_t since_ns = ul_monotonic_ns() - self.ended_ns
        if self.n_grown < 2 * self.full_limit() and (
                0 <= timeout_ns < expected_ns or since_ns < FULL_PAUSE * expected_ns):
            self.n_postponed += 1
            return False
        return self.collect(2, AT_IDLE)

    cdef bint collect(self, int generation, int kind) except -1:
        """Returns True."""
        self.kind = kind
        try:
            gc.collect(generation)
        finally:
            self.kind = IN_WORK
        return True

    # For gc.callbacks.
    def __call__(self, str phase, dict info):
        cdef int generation
        if phase == "start":
            self.n_young = gc.get_count()[0]
            self.started_ns = ul_monotonic_ns()
            return
        if self.started_ns == 0:
            return  # the end of the collection in which this was made
        generation = info["generation"]
        must(generation >= 0, "generations are counted from 0")
        must(generation < 3, "there are three generations")
        self.follow_growth(generation, info["collected"], ul_monotonic_ns() - self.started_ns)
        self.count_pause(generation, ul_monotonic_ns() - self.started_ns)
        self.started_ns = 0

    cdef int count_pause(self, int generation, int64_t took_ns) noexcept:
        self.counts[self.kind][generation] += 1
        self.pause_ns[self.kind] += took_ns
        self.longest_ns[self.kind] = max(self.longest_ns[self.kind], took_ns)
        return 0

    cdef int follow_growth(self, int generation, Py_ssize_t n_collected, int64_t took_ns) except -1:
        """A collection has ended: what do the next ones take, and when is a full one due?"""
        cdef Py_ssize_t n_before = self.n_old + self.n_grown
        if generation < 2:
            self.n_grown = max(self.n_grown + self.n_young - n_collected, <Py_ssize_t>0)
            if self.expected_ns[generation]:
                took_ns = self.expected_ns[generation] + (took_ns - self.expected_ns[generation]) // 4
            self.expected_ns[generation] = took_ns
        else:
            if n_before > FULL_AFTER // 4:  # of few objects it says little
                self.ns_per_object = <double>took_ns / n_before
            self.n_old, self.n_grown = len(gc.get_objects()), 0
            self.ended_ns = ul_monotonic_ns()
        return self.set_thresholds(self.n_grown >= 2 * self.full_limit())

    cdef int set_thresholds(self, bint full_may_interrupt) except -1:
        """Whether CPython may make a full collection at the bound; not if other code has set thresholds."""
        cdef Py_ssize_t old = (self.found[2] or 10) if full_may_interrupt else NEVER
        if self.has_increments or self.ours[2] == old or gc.get_threshold() != self.ours:
            return 0
        gc.set_threshold(self.ours[0], self.ours[1], old)
        self.ours = gc.get_threshold()
        return 0

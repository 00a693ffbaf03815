"""Timers: a 4-ary heap of (time, sequence, handle) in nanoseconds of CLOCK_MONOTONIC.

 1. Equal times keep the order of scheduling, as in asyncio: the sequence number decides.  Before that the time in
    seconds does: nanoseconds end at FARTHEST_NS and at 0, which times on a clock of the program's may be beyond.
 2. Cancelling is O(1): the handle is marked and stays in the heap until it comes up or until more than half
    of the heap is cancelled; then the heap is compacted, so that N timeouts cost O(N) in all.
 3. A 4-ary heap has half the levels of a binary one and its children share a cache line.

Invariant: handle.timers is this object exactly while the handle is in the heap; n_cancelled of those are cancelled.
"""

from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc, qsort, realloc
from libc.string cimport memcpy
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject

from ..support.assertions cimport is_none, must, must_if, must_not
from ..support.collect cimport ul_traverse_own, visitproc
from .handles cimport TimerHandle, TimerOwner

cdef enum:
    FIRST_CAPACITY = 64
    COMPACT_FROM = 64      # below this many cancelled ones a compaction is not worth it


ctypedef int (*Comparison)(const void *, const void *) noexcept nogil


cdef inline bint is_before(TimerEntry *left, TimerEntry *right) noexcept:
    if left.when_ns != right.when_ns:
        return left.when_ns < right.when_ns
    return is_before_in_seconds(left, right)


cdef bint is_before_in_seconds(TimerEntry *left, TimerEntry *right) noexcept:
    cdef double left_s = (<TimerHandle>left.handle).when_s
    cdef double right_s = (<TimerHandle>right.handle).when_s
    return left_s < right_s or (not left_s > right_s and left.sequence < right.sequence)


cdef int compare(const void *left, const void *right) noexcept:
    return -1 if is_before(<TimerEntry *>left, <TimerEntry *>right) else 1


cdef class Timers(TimerOwner):
    """Due times of TimerHandles."""

    def __cinit__(self):
        self.capacity = FIRST_CAPACITY
        self.heap = <TimerEntry *>malloc(FIRST_CAPACITY * sizeof(TimerEntry))
        if self.heap == NULL:
            raise MemoryError()

    def __dealloc__(self):
        if self.heap != NULL:
            self.clear()
            free(self.heap)

    def __len__(self):
        return self.count

    cdef int push(self, TimerHandle handle) except -1:
        """Schedule it for handle.when_ns."""
        cdef TimerEntry *grown
        cdef TimerEntry entry
        cdef size_t at, parent
        must(is_none(<void *>handle.timers), "a timer is on one heap, once")
        must_if(self.count > 1, not is_before(&self.heap[1], &self.heap[0]), "no timer is before its parent")
        if self.count == self.capacity:
            grown = <TimerEntry *>realloc(self.heap, 2 * self.capacity * sizeof(TimerEntry))
            if grown == NULL:
                raise MemoryError()
            self.heap = grown
            self.capacity *= 2
        self.sequence += 1
        entry.when_ns = handle.when_ns
        entry.sequence = self.sequence
        entry.handle = <PyObject *>handle
        Py_INCREF(handle)  # undone by pop, compact or clear
        handle.timers = self
        at = self.count
        self.count += 1
        while at:
            parent = (at - 1) >> 2
            if not is_before(&entry, &self.heap[parent]):
                break
            self.heap[at] = self.heap[parent]
            at = parent
        self.heap[at] = entry
        must_if(at != 0, not is_before(&self.heap[at], &self.heap[(at - 1) >> 2]), "no timer is before its parent")
        must(self.count <= self.capacity, "the heap holds no more than it has room for")
        return 0

    cdef TimerHandle pop(self):
        """The earliest handle, cancelled or not; the heap is not empty."""
        must_not(self.count == 0, "a timer that is taken is on the heap")
        cdef TimerHandle handle = <TimerHandle>self.heap[0].handle
        must(<void *>handle.timers == <void *>self, "a timer on the heap knows it")
        must_if(self.count > 1, not is_before(&self.heap[1], &self.heap[0]), "no timer is before its parent")
        self.count -= 1
        if self.count:
            self.sift_down(0, self.heap[self.count])
        handle.timers = None
        must_if(handle.is_cancelled, self.n_cancelled > 0, "cancelled timers on the heap are counted")
        if handle.is_cancelled:
            self.n_cancelled -= 1
        Py_DECREF(handle)  # taken by push
        return handle

    cdef list handles(self):
        """The scheduled handles, the earliest first, cancelled or not: a copy."""
        cdef list copy = []  # first: it may run user code, as nothing below does
        cdef size_t i
        cdef TimerEntry *entries = <TimerEntry *>malloc((self.count + 1) * sizeof(TimerEntry))
        if entries == NULL:
            raise MemoryError()
        memcpy(entries, self.heap, self.count * sizeof(TimerEntry))
        qsort(entries, self.count, sizeof(TimerEntry), <Comparison><void *>compare)  # the GIL is held meanwhile
        try:
            for i in range(self.count):
                copy.append(<object>entries[i].handle)
        finally:
            free(entries)
        return copy

    cdef int64_t next_when_ns(self) noexcept:
        """When the earliest live timer is due, -1 where there is none; drops cancelled ones on the way."""
        while self.count and (<TimerHandle>self.heap[0].handle).is_cancelled:
            self.pop()
        return self.heap[0].when_ns if self.count else -1

    cdef TimerHandle first(self):
        """The earliest live timer, None where there is none; drops cancelled ones on the way."""
        return <TimerHandle>self.heap[0].handle if self.next_when_ns() >= 0 else None

    cdef void sift_down(self, size_t at, TimerEntry entry) noexcept:
        cdef size_t child, best, end
        while True:
            child = (at << 2) + 1
            if child >= self.count:
                break
            best = child
            end = min(child + 4, self.count)
            child += 1
            while child < end:
                if is_before(&self.heap[child], &self.heap[best]):
                    best = child
                child += 1
            if not is_before(&self.heap[best], &entry):
                break
            self.heap[at] = self.heap[best]
            at = best
        self.heap[at] = entry

    cdef void handle_cancelled(self) noexcept:
        """A scheduled handle was just cancelled."""
        self.n_cancelled += 1
        must(self.n_cancelled <= self.count, "cancelled timers are on the heap")
        if self.n_cancelled >= COMPACT_FROM and self.n_cancelled * 2 > self.count + 1:
            self.compact()

    cdef void compact(self) noexcept:
        """Drop the cancelled ones and heapify what is left: O(count)."""
        cdef size_t i
        cdef size_t kept = 0
        cdef size_t n_dropped = 0
        cdef Py_ssize_t at
        cdef TimerHandle handle
        cdef PyObject **dropped = <PyObject **>malloc(self.count * sizeof(PyObject *))
        if dropped == NULL:
            return  # later, then
        for i in range(self.count):
            handle = <TimerHandle>self.heap[i].handle
            if handle.is_cancelled:
                handle.timers = None
                dropped[n_dropped] = self.heap[i].handle
                n_dropped += 1
            else:
                self.heap[kept] = self.heap[i]
                kept += 1
        must(n_dropped == self.n_cancelled, "cancelled timers on the heap are counted")
        self.count = kept
        self.n_cancelled = 0
        at = (<Py_ssize_t>kept - 2) >> 2
        while at >= 0 and kept > 1:
            self.sift_down(<size_t>at, self.heap[at])
            at -= 1
        # Last: releasing a handle may run user code (of its context variables), which may schedule timers.
        for i in range(n_dropped):
            Py_DECREF(<object>dropped[i])  # taken by push
        free(dropped)

    cdef void clear(self) noexcept:
        cdef TimerHandle handle
        while self.count:
            self.count -= 1
            handle = <TimerHandle>self.heap[self.count].handle
            handle.timers = None
            Py_DECREF(handle)  # taken by push
        self.n_cancelled = 0


# -- garbage collection: see support/collect.h ---------------------------------------------------------------

cdef extern from *:
    """
    UL_COLLECTED(Timers)
    """
    void ul_collect_Timers(object, ul_traverse_own)


cdef int traverse_own(PyObject *self, visitproc visit, void *arg) noexcept:
    cdef size_t at
    cdef int stop
    for at in range((<Timers>self).count):
        stop = visit((<Timers>self).heap[at].handle, arg)
        if stop:
            return stop
    return 0


ul_collect_Timers(Timers, traverse_own)

"""Adaptive polling: for how long a context busy-polls before it blocks.

How it works (QEMU: AioPolledEvent, poll_max_ns, poll_grow, poll_shrink):
 1. Each watched fd and each standing request has its own PolledEvent: how long polling for it pays.
 2. After a turn's dispatch, the events that were dispatched in it are adjusted by how long the wait took, without the
    handlers' own time (`next_ns`).  So polling for a fast peer continues although a slow one shares the loop.
 3. Before blocking the context polls for as long as the greediest event on the list wants.
 4. An event that did not come for `idle_ns` leaves the list, and returns when it comes again.
 5. A task that watches an fd only while it waits (sock_recv, one message after the other) reuses what was
    learned: the event of an fd is kept while no task waits for it, but is not polled for meanwhile (`part`, `rejoin`).

Invariant: an event is on the list exactly while its ns is not 0; it leaves when it is freed.

Thread: the loop's.  Not here: the polling itself (FDMonitor.spin), what a turn is (aio/context_core).
"""

cimport cython
from libc.stdint cimport int64_t
from posix.stat cimport fstat, struct_stat
from cpython.ref cimport PyObject
from cpython.weakref cimport PyWeakref_NewRef

from ..support.assertions cimport is_none, length_of_list, must, must_if

cdef enum:
    FIRST_NS = 4000                    # the first step up
    POLL_IDLE_INTERVAL_NS = 7_000_000_000  # 7 s


cpdef int64_t next_ns(int64_t ns, int64_t block_ns, int64_t max_ns, int64_t grow, int64_t shrink) noexcept:
    """How long to poll for an event from now on.

    Parameters, in nanoseconds where the name says so:
        ns: the time until now.
        block_ns: how long the wait took that ended with it, polling included.
        max_ns: the upper bound (poll_max_ns).
        grow, shrink: factor and divisor; grow 0 means 2, shrink 0 means "to 0".

    Source: QEMU, adjust_polling_time().
    """
    if block_ns <= ns:
        return ns  # it came while we polled
    if block_ns > max_ns:
        return ns // shrink if shrink else 0  # polling could not have helped
    if ns >= max_ns or block_ns == max_ns:
        return ns  # the second is QEMU's, which grows only below the limit
    if ns == 0:
        return min(FIRST_NS, max_ns)
    # a factor of 1 would never get there, and a product may not overflow
    return max_ns if ns > max_ns // max(grow or 2, 1) else min(max(ns * (grow or 2), ns + 1), max_ns)


@cython.no_gc_clear  # __dealloc__ takes it off the list: the list that it is on must be known until then
cdef class PolledEvent:
    """How long polling for one event pays.

    Its file is identified by the object that has the fd (sockets), without a system call; where there is only a
    number, by fstat(2), once for each time that it is watched anew.
    """

    cdef bint learn_file(self, int fd, object file) except -1:
        """Record its file; False where no file is open."""
        cdef struct_stat st
        if type(file) is not int:
            try:
                self.file = PyWeakref_NewRef(file, None)
            except TypeError:
                pass  # an object of a kind that takes no weak references: by its number
        if self.file is None:
            if fstat(fd, &st) < 0:
                return False
            self.device, self.inode = st.st_dev, st.st_ino
        self.is_known = True
        return True

    cdef bint is_of(self, int fd, object file) except -1:
        cdef struct_stat st
        if self.file is not None:
            return self.file() is file
        return fstat(fd, &st) == 0 and st.st_dev == self.device and st.st_ino == self.inode

    def __dealloc__(self):
        if self.guard is not None:
            with cython.critical_section(self.guard):  # where there is no GIL, any thread may drop the last reference
                if self.owner is not None:
                    self.owner.unlink(self)
        must(self.ns == 0, "an event that is freed is on no list")


cdef class PollList:
    """The events of one context that are worth polling for.

    Parameters: as AioContext.set_poll_params; idle_ns: nanoseconds until an event leaves, for tests.
    """

    def __cinit__(self, int64_t max_ns, int64_t grow=2, int64_t shrink=0, int64_t idle_ns=POLL_IDLE_INTERVAL_NS):
        self.max_ns, self.grow, self.shrink, self.idle_ns = max_ns, grow, shrink, idle_ns
        self.touched = []
        self.parted = {}
        self.guard = object()  # until its context says which

    def __dealloc__(self):
        # events hold their list while they are on it, so there are none
        must(self.head == NULL, "a list that is freed has no events")
        self.head = NULL

    def __len__(self):
        return self.n_events

    cdef int64_t spin_ns(self, int64_t now_ns) noexcept:
        """How long to poll now; 0 not at all."""
        cdef PyObject *at
        if self.head == NULL:
            return 0
        if now_ns >= self.next_expiry_ns:
            self.expire(now_ns)
        if self.is_stale:
            self.is_stale = False
            self.most_ns = 0
            at = self.head
            while at != NULL:
                self.most_ns = max(self.most_ns, (<PolledEvent>at).ns)
                at = (<PolledEvent>at).after
        return self.most_ns if self.head != NULL else 0

    cdef PolledEvent touch(self, PolledEvent event):
        """The event happened and is dispatched now; `event` may be None.  Returns it, for its handler to keep.

        Never fails: the dispatch has taken the completion, or the handler, from its list.
        """
        try:
            if event is None:
                event = PolledEvent()
            self.touched.append(event)
        except MemoryError:
            pass  # nothing is learned from it this time
        return event

    cdef int part(self, int fd, PolledEvent event, object file) except -1:
        """Nothing waits for this event of the fd any more, until rejoin(fd); `event` may be None.

        Parameters:
            file: the object that has the fd, or a number.
        """
        if event is None or not event.is_known and not event.learn_file(fd, file):
            return 0
        self.parted[fd] = event  # one for each number at most; the next file of that number does not get it
        event.kept_ns = event.ns
        event.is_parted = True
        if event.owner is not None:
            event.owner.unlink(event)
        return 0

    cdef PolledEvent rejoin(self, int fd, int64_t now_ns, object file):
        """A task waits for this fd again: return the event that was kept, or a new one if this file has none."""
        cdef PolledEvent event = self.parted.pop(fd, None)
        if event is None or not event.is_of(fd, file):
            event = PolledEvent()
            event.learn_file(fd, file)
            return event
        event.is_parted = False
        if now_ns - event.last_ns < self.idle_ns:
            self.set_ns(event, event.kept_ns)
        return event

    cdef int adjust(self, Py_ssize_t first, int64_t block_ns, int64_t now_ns) except -1:
        """A turn's dispatch is over: learn from it.  `first`: how many were touched before this turn (nested ones)."""
        cdef PolledEvent event
        cdef Py_ssize_t i
        cdef int64_t ns
        must(first <= length_of_list(<void *>self.touched), "a turn learns from what was dispatched in it")
        for i in range(first, len(self.touched)):
            event = <PolledEvent>self.touched[i]
            event.last_ns = now_ns
            ns = next_ns(event.kept_ns if event.is_parted else event.ns, block_ns, self.max_ns, self.grow, self.shrink)
            if event.is_parted:
                event.kept_ns = ns
            else:
                self.set_ns(event, ns)
        del self.touched[first:]
        return 0

    cdef void set_ns(self, PolledEvent event, int64_t ns) noexcept:
        must(ns >= 0, "no time is negative")
        must((event.ns == 0) == (is_none(<void *>event.owner)), "an event is on the list exactly while its ns is not 0")
        must_if(not is_none(<void *>event.owner), <void *>event.owner == <void *>self, "an event is never on two lists")
        if ns == event.ns:
            return
        if ns == 0:
            self.unlink(event)
            return
        if event.owner is None:
            event.owner = self
            event.guard = self.guard
            event.before = NULL
            event.after = self.head
            if self.head != NULL:
                (<PolledEvent>self.head).before = <PyObject *>event
            self.head = <PyObject *>event
            self.n_events += 1
        if event.ns == self.most_ns:
            self.is_stale = True
        event.ns = ns
        if ns > self.most_ns and not self.is_stale:
            self.most_ns = ns

    cdef void unlink(self, PolledEvent event) noexcept:
        must(<void *>event.owner == <void *>self, "an event leaves the list that it is on")
        must(self.n_events > 0, "the list that an event leaves counts it")
        must_if(event.before == NULL, self.head == <PyObject *>event, "the first event is the list's head")
        must_if(event.before != NULL, (<PolledEvent>event.before).after == <PyObject *>event, "neighbours agree")
        if event.before != NULL:
            (<PolledEvent>event.before).after = event.after
        else:
            self.head = event.after
        if event.after != NULL:
            (<PolledEvent>event.after).before = event.before
        event.before = event.after = NULL
        if event.ns == self.most_ns:
            self.is_stale = True
        event.ns = 0
        self.n_events -= 1
        must((self.head == NULL) == (self.n_events == 0), "a list without events counts none")
        event.owner = None  # last: it may be what keeps this list

    cdef void forget(self) noexcept:
        """Remove all, for another list to learn them anew: an event is never on two."""
        while self.head != NULL:
            self.unlink(<PolledEvent>self.head)

    cdef void expire(self, int64_t now_ns) noexcept:
        """Remove events that did not come for long, and set the time of the next check."""
        cdef PyObject *at = self.head
        cdef PyObject *after
        self.next_expiry_ns = now_ns + self.idle_ns // 8 + 1
        while at != NULL:
            after = (<PolledEvent>at).after
            if now_ns - (<PolledEvent>at).last_ns >= self.idle_ns:
                self.unlink(<PolledEvent>at)
            at = after

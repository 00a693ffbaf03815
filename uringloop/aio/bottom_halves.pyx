"""Bottom halves: callbacks that are made once, and that any thread schedules to run in the context's next turn.

How it works (QEMU: QEMUBH):
 1. A scheduled one is in the context's ready queue, behind everything scheduled earlier by any thread: first in,
    first out, where QEMU's are last in, first out.
 2. Scheduling it again before it ran does nothing: one run per schedule at most.  From its own callback it is scheduled
    for the next turn.
 3. A cancelled or deleted one keeps its place in the queue, and is skipped there; that is no progress
    (ReadyQueue.n_void).
 4. An idle one is on a separate list, which bounds the wait to 10 ms; the turn after that wait runs it.

Invariant: it is in the queue at most once (is_queued), and on the idle list at most once.

Thread: schedule, schedule_idle, cancel and delete from any; the callback runs in the context's.  Where there is no GIL
a lock of the context keeps the flags and the list together; no code of the program runs under it.
"""

cimport cython
from cpython.contextvars cimport PyContext_CopyCurrent

from ..support.assertions cimport is_none, length_of_list, must, must_if
from ..support.guard cimport acquire, poke_size, release
from .handles cimport Handle
from .notifier cimport Notifier
from .ready cimport ReadyQueue

from inspect import iscoroutinefunction

from .reporter import LOG_REPORTER


cdef int check_callback(object callback) except -1:
    """TypeError for an object that is not callable, or would only make a coroutine that is never awaited."""
    if not callable(callback):
        raise TypeError(f"a callable object was expected, got {callback!r}")
    if iscoroutinefunction(callback):
        raise TypeError(f"a plain function was expected, got the coroutine function {callback!r}: "
                        "an AioContext awaits nothing")
    return 0


cdef class Run(Handle):
    """The place of a bottom half in the ready queue."""

    cdef int run(self) except -1:
        cdef BottomHalf bottom_half = self.bottom_half
        cdef BottomHalves owner = bottom_half.owner
        acquire(&owner.lock)
        must(bottom_half.is_queued, "a bottom half is in the queue once")
        bottom_half.is_queued = False
        if not bottom_half.is_scheduled or bottom_half.is_idle:
            owner.ready.n_void += 1
        release(&owner.lock)
        return bottom_half.fire(self)


cdef class BottomHalves:
    """The bottom halves of one context, and the parts of it that they need."""

    def __cinit__(self, ReadyQueue ready, Notifier notifier, object guard):
        self.ready = ready
        self.notifier = notifier
        self.guard = guard
        self.idle = []

    cdef object who_reports(self):
        cdef object found = self.reporter() if self.reporter is not None else None
        return LOG_REPORTER if found is None else found

    cdef Handle new_handle(self, object callback, tuple args):
        """A Handle that reports where this context's callbacks do."""
        cdef Handle handle
        check_callback(callback)
        handle = Handle.__new__(Handle)
        handle.callback = callback
        handle.args = args
        handle.n_args = -1
        handle.loop = self.who_reports()
        handle.context = PyContext_CopyCurrent()
        return handle

    cdef int run_idle(self, size_t end) except -1:
        """Run the idle ones before position `end`; a nested turn may have taken some of them."""
        cdef Run run = None
        cdef BottomHalf bottom_half = None
        cdef bint is_queued
        while self.idle and <Py_ssize_t>(end - self.n_idle_taken) > 0:
            acquire(&self.lock)
            run = <Run>self.idle.pop(0)
            self.n_idle_taken += 1
            poke_size(&self.ready.n_idle, <size_t>len(self.idle))
            bottom_half = run.bottom_half
            must(bottom_half.is_idle_queued, "an idle bottom half stands on the list once")
            bottom_half.is_idle_queued = False
            is_queued = bottom_half.is_queued
            release(&self.lock)
            if not is_queued:  # else it has its own place in the queue
                bottom_half.fire(run)
            run = bottom_half = None  # not under the lock: that may run code of the program
        return 0

    cdef int close(self) except -1:
        cdef list left = []
        acquire(&self.lock)
        self.is_closed = True
        left, self.idle = self.idle, left  # released after the lock: that may run code of the program
        poke_size(&self.ready.n_idle, 0)
        release(&self.lock)
        return 0


cdef class BottomHalf:
    """A callback of a context; AioContext.new_bottom_half() makes them.

    Source: QEMU's aio_bh_new(), qemu_bh_schedule(), qemu_bh_schedule_idle(), qemu_bh_cancel(), qemu_bh_delete().
    """

    def __init__(self, *args, **kwargs):
        raise TypeError("bottom halves are made by AioContext.new_bottom_half()")

    def __repr__(self):
        state = ("deleted" if self.is_deleted else "idle" if self.is_idle
                 else "scheduled" if self.is_scheduled else "not scheduled")
        return f"<BottomHalf {state} {self.waiting.callback if self.waiting is not None else None!r}>"

    @property
    def scheduled(self):
        """Whether it will run."""
        return self.is_scheduled

    @property
    def deleted(self):
        return self.is_deleted

    def schedule(self):
        """Run it once in the next turn; no effect if it is scheduled already.

        Raises: RuntimeError when it was deleted or its context is closed.  Thread: any.
        """
        self.enqueue(False)

    def schedule_idle(self):
        """Run it in the next turn, which comes within 10 ms even if nothing else happens; not counted as progress."""
        self.enqueue(True)

    def cancel(self):
        """Do not run it, unless it is scheduled again.  Thread: any."""
        acquire(&self.owner.lock)
        self.is_scheduled = self.is_idle = False
        release(&self.owner.lock)

    def delete(self):
        """Never run it again, and release its callback.  Idempotent; also from that callback.  Thread: any."""
        acquire(&self.owner.lock)
        self.is_deleted = True
        self.is_scheduled = self.is_idle = False
        release(&self.owner.lock)
        with cython.critical_section(self.owner.guard):  # the context's thread may be about to call it
            if self.waiting is not None:
                self.waiting.callback = self.waiting.args = None  # a run in progress has its own references

    cdef int enqueue(self, bint idle) except -1:
        acquire(&self.owner.lock)
        try:
            problem = self.put_in_place(idle)
        finally:
            release(&self.owner.lock)
        if problem is not None:
            raise RuntimeError(problem)
        # An idle one only has to wake a thread that sleeps: awake, the context bounds its next wait, and looks at the
        # list once more when notify_me is set.
        if not idle or self.owner.notifier.may_sleep():
            self.owner.notifier.notify()
        return 0

    cdef object put_in_place(self, bint idle):
        """Under the lock.  Returns why it cannot be scheduled, or None."""
        if self.is_deleted:
            return "this bottom half was deleted"
        if self.owner.is_closed:
            return "the AioContext is closed"
        # one that is scheduled for the next turn stays so
        self.is_idle = idle and (self.is_idle or not self.is_scheduled)
        self.is_scheduled = True
        if self.is_idle:
            if not self.is_idle_queued and not self.is_queued:
                self.owner.idle.append(self.waiting)
                self.is_idle_queued = True
                poke_size(&self.owner.ready.n_idle, self.owner.ready.n_idle + 1)
        elif not self.is_queued:
            self.owner.ready.push_from_any(self.owner.guard, self.waiting)
            self.is_queued = True
        must(length_of_list(<void *>self.owner.idle) == <Py_ssize_t>self.owner.ready.n_idle,
             "the idle bottom halves that wait are counted")
        must_if(self.is_scheduled, not is_none(<void *>self.waiting), "a bottom half that is scheduled has its place")
        return None

    cdef int fire(self, Run run) except -1:
        """Its turn has come."""
        if not self.begins():
            return 0
        try:
            return Handle.run(run)
        finally:
            if self.is_one_shot:
                self.delete()
                if not self.is_queued and not self.is_idle_queued:
                    run.bottom_half = self.waiting = None  # they hold each other

    cdef bint begins(self) noexcept:
        """Whether it is to run now; from now on it may be scheduled again."""
        cdef bint is_scheduled
        acquire(&self.owner.lock)
        is_scheduled = self.is_scheduled
        must_if(is_scheduled, not self.is_deleted, "a bottom half that was deleted does not run")
        self.is_scheduled = self.is_idle = False
        if self.is_one_shot and is_scheduled:
            self.is_deleted = True
        release(&self.owner.lock)
        return is_scheduled


def new_bottom_half(BottomHalves owner not None, callback, tuple args not None, bint one_shot):
    """See AioContext.new_bottom_half and AioContext.schedule_one_shot."""
    cdef BottomHalf bottom_half = BottomHalf.__new__(BottomHalf)
    cdef Run run = Run.__new__(Run)
    check_callback(callback)
    bottom_half.owner = owner
    bottom_half.is_one_shot = one_shot
    bottom_half.waiting = run
    run.bottom_half = bottom_half
    run.callback = callback
    run.args = args
    run.n_args = -1
    run.loop = owner.who_reports()
    run.context = PyContext_CopyCurrent()
    return bottom_half

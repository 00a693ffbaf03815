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

Thread: schedule, schedule_idle, cancel and delete from any; the callback runs in the context's.
"""

from cpython.contextvars cimport PyContext_CopyCurrent

from ..support.assertions cimport is_none, length_of_list, must, must_if, must_not
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
        must(bottom_half.is_queued, "a bottom half is in the queue once")
        bottom_half.is_queued = False
        if not bottom_half.is_scheduled or bottom_half.is_idle:
            bottom_half.owner.ready.n_void += 1
        return bottom_half.fire(self)


cdef class BottomHalves:
    """The bottom halves of one context, and the parts of it that they need."""

    def __cinit__(self, ReadyQueue ready, Notifier notifier):
        self.ready = ready
        self.notifier = notifier
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
        cdef Run run
        cdef BottomHalf bottom_half
        while self.idle and <Py_ssize_t>(end - self.n_idle_taken) > 0:
            run = <Run>self.idle.pop(0)
            self.n_idle_taken += 1
            self.ready.n_idle = len(self.idle)
            bottom_half = run.bottom_half
            must(bottom_half.is_idle_queued, "an idle bottom half stands on the list once")
            bottom_half.is_idle_queued = False
            if not bottom_half.is_queued:  # else it has its own place in the queue
                bottom_half.fire(run)
        return 0

    cdef int close(self) except -1:
        self.is_closed = True
        self.idle = []
        self.ready.n_idle = 0
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
        self.is_scheduled = self.is_idle = False

    def delete(self):
        """Never run it again, and release its callback.  Idempotent; also from that callback.  Thread: any."""
        self.is_deleted = True
        self.is_scheduled = self.is_idle = False
        if self.waiting is not None:
            self.waiting.callback = self.waiting.args = None  # a run in progress has its own references

    cdef int enqueue(self, bint idle) except -1:
        if self.is_deleted:
            raise RuntimeError("this bottom half was deleted")
        if self.owner.is_closed:
            raise RuntimeError("the AioContext is closed")
        # one that is scheduled for the next turn stays so
        self.is_idle = idle and (self.is_idle or not self.is_scheduled)
        self.is_scheduled = True
        if self.is_idle:
            if not self.is_idle_queued and not self.is_queued:
                self.owner.idle.append(self.waiting)
                self.is_idle_queued = True
                self.owner.ready.n_idle += 1
        elif not self.is_queued:
            self.owner.ready.push(self.waiting)
            self.is_queued = True
        must(length_of_list(<void *>self.owner.idle) == <Py_ssize_t>self.owner.ready.n_idle,
             "the idle bottom halves that wait are counted")
        must_if(self.is_scheduled, not is_none(<void *>self.waiting), "a bottom half that is scheduled has its place")
        # An idle one only has to wake a thread that sleeps: awake, the context bounds its next wait.  It holds the
        # GIL from there until notify_me is set.
        if not self.is_idle or self.owner.notifier.notify_me:
            self.owner.notifier.notify()
        return 0

    cdef int fire(self, Run run) except -1:
        """Its turn has come."""
        if not self.is_scheduled:
            return 0
        must_not(self.is_deleted, "a bottom half that was deleted does not run")
        self.is_scheduled = self.is_idle = False
        if self.is_one_shot:
            self.is_deleted = True
        try:
            return Handle.run(run)
        finally:
            if self.is_one_shot:
                self.delete()
                if not self.is_queued and not self.is_idle_queued:
                    run.bottom_half = self.waiting = None  # they hold each other


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

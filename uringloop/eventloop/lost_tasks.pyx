"""Find tasks that would never be stepped again, because memory was short for a moment.

asyncio loses a task in two ways, on every loop:
 1. Its step: the coroutine waits for something, and the callback that wakes the task could not be made.  The step's
    callback raises a MemoryError, and nothing else happens.
 2. Its wake-up: the future it waits for is done, and call_soon() of its callbacks failed.  asyncio drops them.
The task, and all that wait for it, would hang.  Here a loop looks for such tasks when a MemoryError is reported to it:
 1. A MemoryError is raised in the coroutine, where it waits.
 2. A task whose future is done is woken, if everything that was scheduled until then has run and has not woken it.

Invariant: a task that something else also wakes, or steps, is not woken.

Not found: other callbacks of futures that asyncio drops (those of gather(), shield() and run_until_complete()).
Thread: the loop's.  Cost: none until there is a MemoryError.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.ref cimport PyObject

from .base.loop_core cimport LoopCore

from asyncio import events, futures, tasks
from contextvars import Context
from types import BuiltinFunctionType, MethodType

try:
    from _asyncio import Future as CFuture
    from _asyncio import Task as CTask
except ImportError:
    CFuture = CTask = None

cdef extern from "Python.h":
    """
    /* A bound function of the same definition. */
    static PyObject *ul_rebind(PyObject *function, PyObject *self)
    {
        return PyCFunction_New(((PyCFunctionObject *)function)->m_ml, self);
    }
    """
    object ul_rebind(object function, object self)

cdef double RETRY_S = 0.05
cdef enum:
    CHAIN_MOST = 16  # exceptions that led to each other

# Internals of C tasks, learned from a task made for the purpose when they are first needed.
cdef object some_wakeup = None     # the builtin function that a task adds to the future it waits for
cdef object step_type = None       # the type of the callback that it passes to call_soon()
cdef Py_ssize_t context_word = -1  # before Python 3.12: where its contextvars.Context is, in units of a pointer
cdef bint is_explored = False


def is_for_want_of_memory(error):
    """Whether an exception is a MemoryError, or a result of one (an InvalidStateError in its handler)."""
    for _ in range(CHAIN_MOST):
        if error is None:
            return False
        if isinstance(error, MemoryError):
            return True
        error = getattr(error, "__context__", None)
    return False


def after_memory_error(LoopCore loop not None, handle=None):
    """A MemoryError was reported to the loop.

    Parameters:
        handle: the one whose callback raised it, or None.

    Raises: MemoryError, if memory is still short; then nothing is done.
    """
    callback = getattr(handle, "_callback", None)
    if not loop.is_loop_closed and callback is not _recover and callback is not _wake:
        loop.call_soon(_recover, loop, callback)


def _recover(LoopCore loop not None, callback):
    """Find and wake lost tasks; `callback`: the one that raised a MemoryError, or None."""
    try:
        if not is_explored:
            explore()
        task = stepped_by(callback)
        if task is not None and not task.done() and task._fut_waiter is None:
            raise_in(loop, task)
        callback = None  # done; below there may be a MemoryError again
        waiters = [(one, getattr(one, "_fut_waiter", None)) for one in tasks.all_tasks(loop)]
        lost = [(one, waiter) for one, waiter in waiters if waiter is not None and waiter.done()]
        if lost:
            loop.call_soon(_wake, loop, lost)  # behind their wake-ups, if they have any
    except MemoryError:
        loop.call_later(RETRY_S, _recover, loop, callback)


def _wake(LoopCore loop not None, list lost):
    """Wake those that still wait."""
    try:
        for task, waiter in lost:
            if task._fut_waiter is waiter:
                wakeup = wakeup_of(task)
                if wakeup is not None:
                    loop.call_soon(wakeup, waiter, context=context_of(task))
    except MemoryError:
        loop.call_later(RETRY_S, _recover, loop, None)


cdef object stepped_by(callback):
    """The task that this callback steps or wakes; None for other callbacks."""
    owner = getattr(callback, "__self__", None)
    if not isinstance(owner, (tasks.Task, tasks._PyTask)):
        return None
    if type(callback) is step_type or is_wakeup(callback):
        return owner
    return owner if type(callback) is MethodType and callback.__name__ in ("__step", "__wakeup") else None


cdef bint is_wakeup(callback) except -1:
    return type(callback) is BuiltinFunctionType and callback.__name__ == "task_wakeup"


cdef int raise_in(LoopCore loop, task) except -1:
    """A MemoryError in the coroutine, where it waits: what it "waits for" has failed with it."""
    wakeup = wakeup_of(task)
    if wakeup is None:
        return 0
    failed = futures.Future(loop=loop)
    failed.set_exception(MemoryError())
    failed.exception()  # seen, also if the loop is closed before
    loop.call_soon(wakeup, failed, context=context_of(task))
    return 0


cdef object wakeup_of(task):
    """The callback that a task adds to the future it waits for; None where that is not known."""
    if isinstance(task, tasks._PyTask):
        return task._Task__wakeup
    if some_wakeup is None or not isinstance(task, CTask):
        return None  # another task type has a different memory layout from the one the function expects
    return ul_rebind(some_wakeup, task)


cdef object context_of(task):
    """The contextvars.Context in which the coroutine runs."""
    if hasattr(task, "get_context"):  # since Python 3.12
        return task.get_context()
    if isinstance(task, tasks._PyTask):
        return task._context
    return <object>(<PyObject **><PyObject *>task)[context_word]


class _Recorder:
    """As much of a loop as a task needs; it records the callback that it is given."""

    def __init__(self):
        self.called = []

    def get_debug(self):
        return False

    def call_soon(self, callback, *args, context=None):
        self.called.append(callback)


async def _wait_for(future):
    await future


cdef int explore() except -1:
    """Let a C task run until it waits, and inspect what it yields."""
    global some_wakeup, step_type, context_word, is_explored
    if CTask is not None:
        recorder = _Recorder()
        context = Context()
        future = CFuture(loop=recorder)
        coroutine = _wait_for(future)
        task = CTask(coroutine, loop=recorder, context=context)
        task._log_destroy_pending = False
        step = recorder.called[0]
        running = events._get_running_loop()
        events._set_running_loop(recorder)  # since Python 3.14 a task steps in its own loop only
        try:
            step()
        finally:
            events._set_running_loop(running)
        coroutine.close()
        wakeup = future._callbacks[0][0]
        if is_wakeup(wakeup) and wakeup.__self__ is task:
            words = memoryview(PyBytes_FromStringAndSize(
                <char *><PyObject *>task, type(task).__basicsize__ & ~7)).cast("N").tolist()
            if hasattr(task, "get_context") or words.count(id(context)) == 1:
                if not hasattr(task, "get_context"):
                    context_word = words.index(id(context))
                some_wakeup, step_type = ul_rebind(wakeup, None), type(step)
    is_explored = True
    return 0

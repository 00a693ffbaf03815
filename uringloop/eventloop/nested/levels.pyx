"""Nested runs: turns of a loop inside one of its own callbacks, until an awaitable is done.

How it works:
 1. The task that runs is set aside, as if it had returned to the loop: asyncio refuses to begin a step of one task
    inside of another's, and that step would be lost.  It is put back on every way out.
 2. Turns are made until the awaitable's done-callback ran; they deliver what the outer one has left (aio/context_core).
 3. A stop() meanwhile is meant for the run below: it is kept for that, since the turn that a stop ends is not over.
 4. Cancelling a task that was set aside cancels what it waits for, as with `await`.
 5. When the first Ctrl-C has ended the main task of an asyncio.Runner, the runs that are still on the stack keep the
    Runner from ending: what they wait for is cancelled, the innermost first.
 6. Before a turn may block: the awaited future must not wait for a task that is below on the stack.

Invariant: Loop._nested_level is the innermost level on the stack, and the frame that pushed a level
removes it; so the tasks that were set aside are put back in reverse order.

Thread: the loop's.  Not here: who may call this and when (mode.py).
"""

from libc.stdint cimport uint32_t
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.ref cimport PyObject

from ...aio.context_core cimport ContextCore
from ..base.loop_core cimport LoopCore

import signal
import sys
import threading
import weakref
from asyncio import CancelledError, TaskGroup, events, futures, runners, tasks
from functools import partial

try:
    from _asyncio import Task as CTask
except ImportError:
    CTask = ()  # nothing is an instance of it

cdef enum:
    CHECK_TURNS = 64  # a busy loop looks for deadlocks once in so many turns; one that would sleep, each time


cdef class Level:
    """One run on the stack."""

    cdef Level below            # the one that it interrupts, or None
    cdef object future          # what it waits for
    cdef object outer           # the task that runs it and was set aside, or None
    cdef bint is_done           # the future's callbacks were called
    cdef bint is_passed_on      # outer's cancellation was passed on, and its mark could not be taken away
    cdef bint is_cancelled      # outer was cancelled when the future had just been done
    cdef object message         # of that cancellation

    def _finish(self, future):
        """Done-callback of the future: as in run_until_complete those that were added before have been called."""
        self.is_done = True


def run_level(LoopCore loop not None, future, bint until_stop=False):
    """Make turns until `future` is done.

    Parameters:
        future: of this loop.
        until_stop: stop() ends this run, too.

    Returns: its result; None when it ended by stop().
    Raises: its exception; RuntimeError when it waits for a task below on the stack; KeyboardInterrupt and SystemExit
    of callbacks.
    """
    cdef Level level = Level.__new__(Level)
    cdef ContextCore aio_context = loop.aio_context
    cdef bint is_stopping = loop.is_stopping
    cdef unsigned n_turns = 0
    finish = level._finish
    level.below = loop._nested_level
    level.future = future
    future.add_done_callback(finish)
    aside = set_aside(loop)
    aio_context.begin_turns()
    try:
        level.outer = aside[0][1] if aside else None
        loop._nested_level = level
        loop._n_nested += 1
        loop.is_stopping = aio_context.wants_return = False
        while not level.is_done:
            n_turns += 1
            if aio_context.ready.count() == 0 or n_turns % CHECK_TURNS == 0:
                if aio_context.ready.count() == 0 and future.done():
                    break  # memory was short, and asyncio has dropped the callbacks, including ours
                refuse_deadlock(level)
            loop.follow_program()
            aio_context.turn(True)
            if loop.is_loop_closed:
                raise RuntimeError("Event loop is closed: this process is a fork of the one that runs it")
            pass_cancellations(level)
            if loop.is_stopping:
                loop.is_stopping = aio_context.wants_return = False
                if until_stop:
                    return None
                is_stopping = True
                if is_interrupted(loop):
                    future.cancel()
        if level.is_cancelled:
            raise CancelledError() if level.message is None else CancelledError(level.message)
        return future.result()
    finally:
        aio_context.end_turns()
        if loop._nested_level is level:
            loop._nested_level = level.below
            loop._n_nested -= 1
        loop.is_stopping = aio_context.wants_return = is_stopping
        _put_back(loop, aside)
        future.remove_done_callback(finish)


def watch_turns(LoopCore loop not None):
    """Make turns of AioContext.poll() set the current task aside, too."""
    known = weakref.ref(loop)  # as with the other hooks of a context: it must not keep its loop alive

    def around_turn():
        there = known()
        if there is None:
            return None
        aside = set_aside(there)
        there._n_nested += 1
        return partial(_turn_over, there, aside)

    loop.aio_context.around_turn = around_turn


def _turn_over(loop, aside):
    loop._n_nested -= 1
    _put_back(loop, aside)


# -- the current task ----------------------------------------------------------------------------------------
#
# Up to Python 3.13 the C and the Python task module share one dict; since 3.14 each has its own current task.

def _task_modules():
    """(current_task, leave, enter) of each."""
    if not hasattr(tasks, "_swap_current_task"):  # before Python 3.12
        return ((tasks.current_task, tasks._leave_task, tasks._enter_task),)
    swaps = [(getattr(tasks, f"_{name}_current_task", None), getattr(tasks, f"_{name}_swap_current_task", None))
             for name in ("c", "py")]
    return tuple([(current, lambda loop, task, swap=swap: swap(loop, None), swap)
                  for current, swap in swaps if swap is not None])


cdef tuple task_modules = _task_modules()
# The one that requires its loop to be the running one, which it is not in a fork child.
cdef object bound_enter = getattr(tasks, "_c_swap_current_task", None) if sys.version_info >= (3, 14) else None


cdef list set_aside(loop):
    """Leave the current task of this loop; returns the argument for _put_back, None when there is no task."""
    cdef list aside = None
    if events._get_running_loop() is not loop:
        return None  # no task runs, and 3.14 would look through all threads
    try:
        for current_task, leave, enter in task_modules:
            task = current_task(loop)
            if task is not None:
                aside = aside or []
                aside.append((enter, task))  # first: what was left must be known
                try:
                    leave(loop, task)
                except BaseException:
                    aside.pop()
                    raise
    except BaseException:  # out of memory: a task that is not put back ends with a RuntimeError
        _put_back(loop, aside)
        raise
    return aside


def _put_back(loop, aside):
    """Make the task current again."""
    for enter, task in aside or ():
        if enter is not bound_enter or events._get_running_loop() is loop:
            for is_last in (False, True):
                try:
                    enter(loop, task)
                    break
                except MemoryError:  # asyncio's dict of current tasks had to grow
                    if is_last:
                        raise


# -- cancellation --------------------------------------------------------------------------------------------

cdef int pass_cancellations(Level level) except -1:
    """Cancel what cancelled tasks on the stack wait for.

    From the bottom up: what one level waits for may be the task that the next one set aside.
    """
    if level.below is not None:
        pass_cancellations(level.below)
    if level.outer is None or level.is_passed_on or not getattr(level.outer, "_must_cancel", False):
        return 0
    message = getattr(level.outer, "_cancel_message", None)
    level.is_passed_on = not unmark(level.outer)
    if not level.future.cancel(msg=message):
        level.is_cancelled, level.message = True, message
    return 0


# A task that runs and is cancelled is marked, and gets a CancelledError at its next await.  Here run_nested() raises
# it, so the mark must go, or the next await, in a `finally` for instance, would be cancelled once more.  Tasks in
# Python have an attribute for it.  That of C tasks is read-only, so its bit is looked for, once, in a task made for
# the purpose.

cdef uint32_t mark_mask = 0       # 0: not found
cdef Py_ssize_t mark_word = -1    # index in units of 4 bytes; -1: not looked for yet


cdef bint unmark(task) except -1:
    """Clear the mark of a cancelled task; returns whether that worked.  The count of cancelling() stays."""
    if not isinstance(task, CTask):
        try:
            task._must_cancel = False
        except AttributeError:
            pass
        return not getattr(task, "_must_cancel", True)
    if mark_word < 0:
        find_mark()
    if mark_mask == 0:
        return False
    (<uint32_t *><PyObject *>task)[mark_word] &= ~mark_mask
    return not task._must_cancel


class _TaskMaker:
    """As much of a loop as a task needs that never runs."""

    def get_debug(self):
        return False

    def call_soon(self, callback, *args, context=None):
        pass


async def _nothing():
    pass


cdef object words_of(task):
    return memoryview(PyBytes_FromStringAndSize(<char *><PyObject *>task, type(task).__basicsize__ & ~3)).cast("I")


cdef int find_mark() except -1:
    """The one bit that the first cancel() sets and the second leaves alone."""
    global mark_mask, mark_word
    mark_word = 0
    coroutine = _nothing()
    task = CTask(coroutine, loop=_TaskMaker())
    task._log_destroy_pending = False
    task._cancel_message = None
    before = words_of(task)
    task.cancel()
    once = words_of(task)
    task.cancel()
    twice = words_of(task)
    coroutine.close()
    found = [(i, before[i] ^ once[i]) for i in range(len(before))
             if once[i] == twice[i] and (before[i] ^ once[i]).bit_count() == 1]
    if len(found) != 1 or not task._must_cancel:
        return 0
    mark_word, mark_mask = found[0]
    (<uint32_t *><PyObject *>task)[mark_word] &= ~mark_mask
    if task._must_cancel or task.cancelling() != 2:
        mark_mask = 0
    return 0


cdef bint is_interrupted(loop) except -1:
    """Whether this loop's Runner was interrupted, and its main task is over: the Runner cancelled that, and would
    cancel all others next if the stack let it.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    handler = signal.getsignal(signal.SIGINT)
    runner = getattr(getattr(handler, "func", None), "__self__", None)
    return (isinstance(runner, runners.Runner) and runner._loop is loop and runner._interrupt_count > 0
            and handler.keywords["main_task"].done())


# -- waiting for oneself -------------------------------------------------------------------------------------

cdef int refuse_deadlock(Level level) except -1:
    """RuntimeError if level.future cannot be done before this stack unwinds, as far as asyncio's state shows that."""
    cdef Level each = level
    below = awaited_running_task(level.future)
    while below is None and each is not None:
        if each.outer is not None and is_reached(each.outer, level.future):
            below = each.outer
        each = each.below
    if below is not None:
        raise RuntimeError(
            f"a nested run would wait for ever: {level.future!r} waits for {below!r}, which is below on the stack"
        )
    return 0


cdef object awaited_running_task(future):
    """The task in the middle of its step that `future` is, or waits for; None if there is none.

    This also finds tasks that were not set aside: the parents of a task that is started eagerly.
    """
    cdef list found = [future]
    cdef set seen = set()
    while found:
        one = found.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        coroutine = one.get_coro() if hasattr(one, "get_coro") else None
        if getattr(coroutine, "cr_running", False):
            return one
        found.append(getattr(one, "_fut_waiter", None))
        found.extend(getattr(one, "_children", ()))  # of gather()
    return None


cdef bint is_reached(task, future) except -1:
    """Whether `future` is, or waits for, the task: followed from the task, through those that wait for it."""
    cdef list found = [task]
    cdef set seen = set()
    while found:
        one = found.pop()
        if one is future:
            return True
        if id(one) in seen:
            continue
        seen.add(id(one))
        for callback, _ in getattr(one, "_callbacks", None) or ():
            waiting = who_waits(callback)
            if waiting is not None and not waiting.done():
                found.append(waiting)
    return False


cdef object who_waits(callback):
    """The future that is not done before this done-callback is called; None where that is not known."""
    owner = getattr(callback, "__self__", None)
    if futures.isfuture(owner):
        return owner if callback.__name__ in ("task_wakeup", "__wakeup") else None  # `await`
    if isinstance(owner, TaskGroup):
        return owner._on_completed_fut
    if getattr(callback, "__module__", None) != "asyncio.tasks" or not hasattr(callback, "__code__"):
        return None
    names = callback.__code__.co_freevars
    kept = {name: cell.cell_contents for name, cell in zip(names, callback.__closure__ or ())}
    if callback.__qualname__ in ("gather.<locals>._done_callback", "shield.<locals>._inner_done_callback"):
        return kept.get("outer")
    if callback.__qualname__ == "_wait.<locals>._on_completion":
        if kept.get("return_when") == tasks.ALL_COMPLETED and kept.get("timeout_handle") is None:
            return kept.get("waiter")
    return None

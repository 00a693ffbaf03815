"""Allocations that fail, one after the other, in a process of its own (CPython's _testcapi).
Whatever a loop does when an allocation fails, a MemoryError that reaches a caller is fine; a lost file descriptor, a
crash, or a loop that no longer works is not. Debug mode is left out: the tracebacks that it makes crash CPython
itself (3.13.0, MAKE_FUNCTION) if an allocation fails in them.
"""

import _testcapi
import concurrent.futures
import concurrent.futures.thread
import gc
import logging
import socket
import warnings

from support import helpers
from support.helpers import open_fds

CLEAN_RUNS = 30  # so many runs in a row without any effect show that there are no further allocations
SECONDS = 20.0

logging.disable(logging.CRITICAL)
warnings.simplefilter(
    "ignore"
)  # objects left by a failing allocation may be closed by their finalizers, which warn


class Faults:
    """Lets one allocation of a loop fail.

    Parameters:
        loop: not running; exceptions passed to its exception handler are in `errors`.
        number: of the allocation, counted from 0.
    """

    def __init__(self, loop, number):
        self.loop = loop
        self.number = number
        self.errors = []
        loop.set_exception_handler(lambda loop, details: self.errors.append(details.get("exception")))

    def run(self, action=None, *, seconds=0.004):
        """Run action() and then the loop for this long, with the fault; return True if an allocation failed."""
        begin = self.loop.call_soon(self._begin, action)
        end = self.loop.call_later(seconds, self._end)
        try:
            self.loop.run_forever()
        except MemoryError as error:
            self.errors.append(error)
        finally:
            _testcapi.remove_mem_hooks()
            begin.cancel()
            end.cancel()
        unexpected = [error for error in self.errors if not isinstance(error, MemoryError | OSError)]
        assert not unexpected, unexpected
        return bool(self.errors)

    def _begin(self, action):
        _testcapi.set_nomemory(self.number, self.number + 1)
        if action is not None:
            action()

    def _end(self):
        _testcapi.remove_mem_hooks()
        self.loop.stop()


def each_allocation(scenario):
    """Call scenario(number) for each allocation, counted from 0; it returns whether the failure had an effect."""
    clean = number = 0
    while clean < CLEAN_RUNS:
        try:
            has_failed = scenario(number)
        except BaseException as error:
            error.add_note(f"allocation {number}")
            raise
        clean = 0 if has_failed else clean + 1
        number += 1
    print(number)


def sweep(scenario, monitor):
    """Call scenario(loop, faults) for each allocation; it returns whether the failure had an effect."""

    def run_once(number):
        loop = helpers.make_loop(monitor)
        try:
            return scenario(loop, Faults(loop, number))
        finally:
            loop.close()

    each_allocation(run_once)


def nothing_stays_open(loop, before):
    """Wait until all fds opened since `before`, a set of fds, are closed."""
    gc.collect()
    helpers.turn_until(loop, lambda: gc.collect() >= 0 and not open_fds() - before, seconds=SECONDS)


def answered(sock, data):
    """Whether a non-blocking client has received its echo, or was disconnected."""
    try:
        return sock.recv(len(data)) in (b"", data)
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def client(address, data=b""):
    """A connected non-blocking socket that has sent `data`."""
    family = (
        socket.AF_UNIX
        if isinstance(address, str)
        else socket.AF_INET6
        if len(address) == 4
        else socket.AF_INET
    )
    sock = socket.socket(family)
    sock.connect(address)
    sock.send(data)
    sock.setblocking(False)
    return sock


class InlineExecutor(concurrent.futures.ThreadPoolExecutor):
    """Calls at once: in threads a random thread's allocation would fail, and some failures stop CPython's threads."""

    def submit(self, function, *args):
        future = concurrent.futures.Future()
        try:
            result = function(*args)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(result)
        return future


def end_of(loop, task):
    """Run the loop until the task is done; run it again if a turn ended with MemoryError.
    Returns: whether a turn did.
    """
    task.add_done_callback(lambda _: loop.stop())
    guard = loop.call_later(SECONDS, loop.stop)
    was_ended = False
    while not task.done() and not guard.cancelled() and guard.when() > loop.time():
        try:
            loop.run_forever()
        except MemoryError:
            was_ended = True
    _testcapi.remove_mem_hooks()
    guard.cancel()
    assert task.done(), f"{task!r} waits forever"
    return was_ended


def sweep_task(make_coroutine, monitor):
    """Let each allocation of a task fail, and check that the task ends with its result or a MemoryError.

    Parameters:
        make_coroutine: called with arm(), which starts the count of allocations; the coroutine that it returns removes
            the hooks before it allocates for itself.
    """

    def run_once(number):
        loop = helpers.make_loop(monitor)
        loop.set_default_executor(InlineExecutor())
        errors = []
        loop.set_exception_handler(lambda loop, details: errors.append(details.get("message")))
        try:
            # without a failure, for the one-time allocations of the loop
            loop.run_until_complete(make_coroutine(lambda: None))
            gc.collect()
            before = open_fds()
            task = loop.create_task(make_coroutine(lambda: _testcapi.set_nomemory(number, number + 1)))
            has_failed = end_of(loop, task)
            error = task.exception()
            # raised by CPython's threading if there is no memory for a lock
            if error is not None and "allocate lock" not in str(error) and not isinstance(error, MemoryError):
                raise error
            has_failed = has_failed or error is not None or bool(errors)
            del task, error
            nothing_stays_open(loop, before)
        except BaseException as error:
            error.add_note(f"the exception handler got: {errors}")
            raise
        finally:
            loop.close()
        return has_failed

    each_allocation(run_once)

"""Allocations that fail: one after the other, in a process of its own (CPython's _testcapi).

Whatever a loop does under a failing allocation, a MemoryError that reaches somebody is fine; a lost file descriptor, a
crash, or a loop that does its work no more is not.  Debug mode is left out: the tracebacks that it makes crash CPython
itself (3.13.0, MAKE_FUNCTION) as soon as an allocation fails in them.
"""

import _testcapi
import gc
import logging
import os
import socket
import warnings

import helpers

CLEAN_RUNS = 30  # so many in a row without any effect: there were fewer allocations than that
SECONDS = 5.0

logging.disable(logging.CRITICAL)
warnings.simplefilter(
    "ignore"
)  # what a failing allocation leaves behind may be closed by its finalizer, and warns


def open_fds():
    """Numbers of the open fds."""
    return {int(fd) for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")}


class Faults:
    """Lets one allocation of a loop fail.

    Parameters:
        loop: not running; what it was told of by its exception handler is in `errors`.
        number: of the allocation, counted from 0.
    """

    def __init__(self, loop, number):
        self.loop = loop
        self.number = number
        self.errors = []
        loop.set_exception_handler(lambda loop, details: self.errors.append(details.get("exception")))

    def run(self, action=None, *, seconds=0.004):
        """Run the loop for so long, and action() first, with the fault; True if somebody felt it."""
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


def sweep(scenario, monitor):
    """scenario(loop, faults) for each allocation; it returns whether anybody felt the fault."""
    clean = number = 0
    while clean < CLEAN_RUNS:
        loop = helpers.make_loop(monitor)
        faults = Faults(loop, number)
        try:
            is_felt = scenario(loop, faults)
        except BaseException as error:
            error.add_note(f"allocation {number}")
            raise
        finally:
            loop.close()
        clean = 0 if is_felt else clean + 1
        number += 1
    print(number)


def nothing_stays_open(loop, before):
    """What was opened since `before`, a set of fds, is closed within some turns."""
    gc.collect()
    helpers.turn_until(loop, lambda: gc.collect() >= 0 and not open_fds() - before, seconds=SECONDS)


def answered(sock, data):
    """Whether a non-blocking client got its echo, or was disconnected."""
    try:
        return sock.recv(len(data)) in (b"", data)
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def client(address, data=b""):
    """A non-blocking socket, connected, that has sent `data`."""
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

"""Each loop of this interpreter, those that exist and those that will: where exporters begin.

Invariant: two open loops have different numbers; the numbers of closed ones are used again, so that they stay small.
Thread: any.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..eventloop.loop import Loop, _observe_loops, _observe_loops_no_more
from .metrics import Reading
from .recording import Recording, Snapshot

_EVENTS = 4096  # of a recording that begins here
_numbers: dict[int, weakref.ref[Loop]] = {}
_lock = threading.Lock()  # of `_numbers`


def number_of(loop: Loop) -> int:
    """The smallest number that no other open loop has; the loop keeps it."""
    with _lock:
        for number, reference in _numbers.items():
            if reference() is loop:
                return number
        for number in itertools.count():
            owner = _numbers[number]() if number in _numbers else None
            if owner is None or owner.is_closed():
                _numbers[number] = weakref.ref(loop)
                return number
    raise AssertionError("numbers do not end")


def in_its_thread(loop: Loop, call: Callable[[Loop], object]) -> None:
    """Run call(loop) where the loop runs, soon; or here and now if it does not run, or runs here.

    Nothing happens if the loop is closed, or is closed before.
    """
    if loop.is_closed():
        return
    owner: Any = loop
    if owner._thread_id not in (None, threading.get_ident()):
        try:
            loop.call_soon_threadsafe(call, loop)
        except RuntimeError:  # closed meanwhile
            if not loop.is_closed():
                raise
        return
    call(loop)


class EachLoop:
    """Calls begin(loop) once for each loop, in its thread or before it runs; close() calls end(loop) for open ones.

    Exceptions of begin() go to the loop's exception handler.  It holds no loop.
    """

    def __init__(self, begin: Callable[[Loop], object], end: Callable[[Loop], object]) -> None:
        self._begin, self._end = begin, end
        self._begun: dict[weakref.ref[Loop], None] = {}
        self._is_closed = False
        self._observer = self._begin_once  # the same object each time
        for loop in _observe_loops(self._observer):
            in_its_thread(loop, self._observer)

    def _begin_once(self, loop: Loop) -> None:
        if self._is_closed or weakref.ref(loop) in self._begun:
            return
        self._begun[weakref.ref(loop, self._forget)] = None
        try:
            self._begin(loop)
        except Exception as error:
            message = "Exception when an exporter of uringloop began to watch the loop"
            loop.call_exception_handler({"message": message, "exception": error})

    def _forget(self, reference: weakref.ref[Loop]) -> None:
        self._begun.pop(reference, None)

    def loops(self) -> list[Loop]:
        """Those that are open and for which begin() was called.  Thread: any."""
        found = []
        for reference in list(self._begun):
            loop = reference()
            if loop is None or loop.is_closed():
                self._begun.pop(reference, None)
            else:
                found.append(loop)
        return found

    def close(self) -> None:
        """Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        _observe_loops_no_more(self._observer)
        for loop in self.loops():
            in_its_thread(loop, self._end)


@dataclass
class _Recorded:
    number: int
    recording: Recording
    before: Snapshot | None = None  # of the reading before


class RecordedLoops:
    """Records each loop, and reads what all of them did."""

    def __init__(self) -> None:
        self._loops = EachLoop(self._record, self._end)

    def _record(self, loop: Loop) -> None:
        _watched_by(loop)[self] = _Recorded(number_of(loop), Recording(loop, _EVENTS))

    def _end(self, loop: Loop) -> None:
        recorded = _watched_by(loop).pop(self, None)
        if recorded is not None:
            recorded.recording.close()

    def read(self) -> list[Reading]:
        """A reading of each loop that is open, by their numbers.  Thread: any."""
        readings = []
        for loop in self._loops.loops():
            recorded = _watched_by(loop).get(self)
            if recorded is not None:
                snapshot = recorded.recording.snapshot()
                readings.append(Reading(recorded.number, snapshot, recorded.before))
                recorded.before = snapshot
        return sorted(readings, key=lambda reading: reading.number)

    def close(self) -> None:
        """Record for this no more.  Idempotent."""
        self._loops.close()


def _watched_by(loop: Any) -> dict[RecordedLoops, _Recorded]:
    """In the loop: a recording refers to callbacks, which may refer to the loop."""
    found: dict[RecordedLoops, _Recorded] = loop._watched_by
    return found


def _renew_lock() -> None:
    """In a fork child: a thread that does not exist there may have it."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)

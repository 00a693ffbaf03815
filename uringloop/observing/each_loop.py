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

from ..eventloop.loop import Loop, observe_loops, observe_loops_no_more
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
    """Calls begin(loop) for each loop, in its thread or before it runs; at the end end(loop) for those still open.

    begin: called at least once for a loop, maybe twice.  Exceptions of it go to the loop's exception handler.
    """

    def __init__(self, begin: Callable[[Loop], object], end: Callable[[Loop], object]) -> None:
        self._end = end
        self._begun: weakref.WeakSet[Loop] = weakref.WeakSet()
        self._is_closed = False

        def begin_once(loop: Loop) -> None:
            if loop in self._begun or self._is_closed:
                return
            self._begun.add(loop)
            try:
                begin(loop)
            except Exception as error:
                message = "Exception when an exporter of uringloop began to watch the loop"
                loop.call_exception_handler({"message": message, "exception": error})

        self._observer = begin_once
        for loop in observe_loops(self._observer):
            in_its_thread(loop, self._observer)

    def close(self) -> None:
        """Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        observe_loops_no_more(self._observer)
        for loop in list(self._begun):
            in_its_thread(loop, self._end)


@dataclass
class _Recorded:
    number: int
    loop: weakref.ref[Loop]
    before: Snapshot | None = None  # of the reading before


class RecordedLoops:
    """Records each loop, and reads what all of them did."""

    def __init__(self) -> None:
        self._recordings: dict[Recording, _Recorded] = {}
        self._loops = EachLoop(self._record, self._end)

    def _record(self, loop: Loop) -> None:
        self._recordings[Recording(loop, _EVENTS)] = _Recorded(number_of(loop), weakref.ref(loop))

    def _end(self, loop: Loop) -> None:
        for recording, recorded in list(self._recordings.items()):
            if recorded.loop() is loop:
                recording.close()
                self._recordings.pop(recording, None)

    def read(self) -> list[Reading]:
        """A reading of each loop that is open, by their numbers.  Thread: any."""
        readings = []
        for recording, recorded in list(self._recordings.items()):
            loop = recorded.loop()
            if loop is None or loop.is_closed():
                self._recordings.pop(recording, None)
                continue
            snapshot = recording.snapshot()
            readings.append(Reading(recorded.number, snapshot, recorded.before))
            recorded.before = snapshot
        return sorted(readings, key=lambda reading: reading.number)

    def close(self) -> None:
        """Record for this no more.  Idempotent."""
        self._loops.close()


def _renew_lock() -> None:
    """In a fork child: a thread that does not exist there may have it."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)

"""watch_stalls(): which line blocks the loop, reported while it does; docs/observing.md.

A thread that never takes the GIL looks every quarter of the limit at what the loop's thread does (watchdog.h).  Once
that takes too long, it reads the stack of the loop's thread (peek.h), for a second thread that waits for the GIL to
report it.  If the loop's thread runs Python code its stack changes while it is read, and is read with the GIL instead.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import sysconfig
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ..eventloop.loop import Loop
from ..policy import get_running_loop
from .each_loop import EachLoop, in_its_thread
from .recording import KINDS, described
from .watchdog import Watchdog

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from types import FrameType, TracebackType

logger = logging.getLogger("uringloop")

_MOST_FRAMES = 64
_MOST_STALLS = 100
_EVENTS = 4096
_LEAST_LIMIT_S, _MOST_LIMIT_S = 0.001, 3600

# Where installed packages are, this one among them, and where Python is.
_INSTALLED = tuple(
    os.path.join(one, "")
    for one in (*map(sysconfig.get_path, ("purelib", "platlib")), os.fspath(Path(__file__).parents[1]))
)
_PYTHON = tuple(os.path.join(sysconfig.get_path(one), "") for one in ("stdlib", "platstdlib"))

_watches: weakref.WeakSet[StallWatch] = weakref.WeakSet()  # those that are open


@dataclass(frozen=True, kw_only=True)
class StallFrame:
    """A line on the stack of the loop's thread."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}"


@dataclass(frozen=True, kw_only=True)
class Stall:
    """A callback that takes too long, as it was when it was noticed.

    Attributes:
        began: when the callback began, on the clock of time.monotonic().
        seconds: how long it took so far; once it is over, in all.
        is_over: whether it has ended.
        kind, name, where: of the callback, as in CallbackStatistics; kind is "loop" for the loop's own work.
        task: the name of the task that runs, or None.
        frames: the stack above the loop, the outermost first; empty if the callback is a function in C.
        thread: the name of the loop's thread.
    """

    began: float
    seconds: float
    is_over: bool
    kind: str
    name: str
    where: str
    task: str | None
    frames: tuple[StallFrame, ...] = field(repr=False)
    thread: str

    @property
    def frame(self) -> StallFrame | None:
        """The innermost line of the program; if there is none, that of an installed package, or else of Python."""
        for is_foreign in (_is_installed, _is_of_python):
            for one in reversed(self.frames):
                if not is_foreign(one.file):
                    return one
        return self.frames[-1] if self.frames else None

    @property
    def file(self) -> str:
        """The file of `frame`, or "" without one."""
        return self.frame.file if self.frame is not None else ""

    @property
    def line(self) -> int:
        """The line of `frame`, or 0 without one."""
        return self.frame.line if self.frame is not None else 0

    def __str__(self) -> str:
        where = f" at {self.frame}" if self.frame is not None else f" ({self.where})" if self.where else ""
        what = (
            f"task {self.task!r}, {self.name}"
            if self.task is not None
            else f"{self.kind} {self.name}".rstrip()
        )
        verb = "was" if self.is_over else "is"
        return f"event loop of {self.thread} {verb} blocked for {self.seconds:.3f} s by {what}{where}"


class StallWatch:
    """Made by watch_stalls(); a context manager that closes it.

    Attributes:
        n_stalls: how many there were so far.
        seconds: how long those that are over took, together.

    Thread: any, close() included.
    """

    def __init__(
        self,
        loop: Any,
        limit_s: float,
        on_stall: Callable[[Stall], object] | None,
        on_end: Callable[[Stall], object] | None,
        file: str | os.PathLike[str] | None,
    ) -> None:
        self._loop: weakref.ref[Loop] = weakref.ref(loop)
        self._context = loop.aio_context
        self._limit_ns = round(limit_s * 1e9)
        self._on_stall, self._on_end, self._file = on_stall, on_end, file
        self._stalls: deque[Stall] = deque(maxlen=_MOST_STALLS)
        self.n_stalls = 0
        self.seconds = 0.0
        self._is_closed = False
        self._recorder = self._context._record(_EVENTS)
        self._begin()
        _watches.add(self)

    def _begin(self) -> None:
        self._watchdog = Watchdog(self._context, self._recorder, self._limit_ns)
        try:
            self._thread = threading.Thread(target=self._run, name="uringloop-stalls", daemon=True)
        except RuntimeError:  # a sub-interpreter without daemon threads: it joins this one at its end
            self._thread = threading.Thread(target=self._run, name="uringloop-stalls")
            threading._register_atexit(self._watchdog.stop)  # type: ignore[attr-defined]
        self._thread.start()

    @property
    def stalls(self) -> tuple[Stall, ...]:
        """The last 100 stalls, the oldest first; the one that goes on is the last."""
        return tuple(self._stalls)

    @property
    def is_closed(self) -> bool:
        """Whether it has ended: by close(), or with its loop."""
        return self._is_closed or bool(self._recorder.is_closed)

    def close(self) -> None:
        """Watch no more; returns when no hook runs any more, except in a hook.  Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        _watches.discard(self)
        self._watchdog.stop()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        loop = self._loop()
        if loop is not None:
            in_its_thread(loop, lambda _: self._context._end_recording(self._recorder))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- in the watching thread ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        watchdog = self._watchdog
        while (noticed := watchdog.wait()) is not None:
            self._noticed(*noticed)

    def _noticed(
        self,
        is_over: bool,
        since_ns: int,
        entry: int,
        lasted_ns: int,
        goes_on: bool,
        stack: list[tuple[str, int, str]],
    ) -> None:
        if not is_over:
            stall = self._look(since_ns, entry, lasted_ns, goes_on, stack)
            self.n_stalls += 1
            self._stalls.append(stall)
            self._report(stall)
            return
        took_ns = self._recorder.took_ns(since_ns)
        stall = replace(
            self._stalls[-1], seconds=(took_ns if took_ns >= 0 else lasted_ns) / 1e9, is_over=True
        )
        self._stalls[-1] = stall
        self.seconds += stall.seconds
        self._report(stall)

    def _look(
        self, since_ns: int, entry: int, lasted_ns: int, goes_on: bool, stack: list[tuple[str, int, str]]
    ) -> Stall:
        """Which line it is; if it goes on, the loop's thread stands still while this one has the GIL."""
        loop, ident = self._loop(), self._recorder.thread_ident()
        frames = tuple(StallFrame(file=file, line=line, function=function) for file, line, function in stack)
        if not frames and goes_on:
            frames = _frames_above(sys._current_frames().get(ident), self._context._caller_id())
        task = asyncio.current_task(loop) if goes_on and loop is not None else None
        kind, name, where = "loop", "its own work", ""
        if entry >= 0:
            number, key = self._recorder.key_of(entry)
            kind = KINDS[number]
            name, where = described(key)
        return Stall(
            began=since_ns / 1e9,
            seconds=(time.monotonic_ns() - since_ns if goes_on else lasted_ns) / 1e9,
            is_over=False,
            kind=kind,
            name=name,
            where=where,
            task=task.get_name() if task is not None else None,
            frames=frames,
            thread=next((one.name for one in threading.enumerate() if one.ident == ident), f"thread {ident}"),
        )

    def _report(self, stall: Stall) -> None:
        """To the hook, or else the log; and to the file.  None of them may end the watch."""
        hook = self._on_end if stall.is_over else self._on_stall
        try:
            if self._file is not None:
                with open(self._file, "a", encoding="utf-8") as file:
                    file.write(_as_line(stall))
            if hook is not None:
                hook(stall)
            elif self._on_stall is None:
                _log(stall)
        except BaseException:  # SystemExit, too, would end this thread
            logger.exception("a stall was not reported: %s", stall)


def watch_stalls(
    loop: AbstractEventLoop | None = None,
    *,
    limit_s: float = 0.25,
    on_stall: Callable[[Stall], object] | None = None,
    on_end: Callable[[Stall], object] | None = None,
    file: str | os.PathLike[str] | None = None,
) -> StallWatch:
    """Report callbacks that block a loop, with the line, while they do.

    A thread looks four times per limit.  The loop is recorded meanwhile, as by record().

    Parameters:
        loop: None for the running loop.
        limit_s: seconds that a callback may take; time for which its thread had no CPU does not count.
        on_stall: called with a Stall, in the watching thread, once per stall, while it goes on; None: it is logged.
        on_end: called with the same Stall when it is over, with its whole duration.
        file: each of both is also appended to it, as a line of JSON.

    Returns: a StallWatch, which ends by close(), or with the loop.

    Raises: RuntimeError if no loop runs and none is given, or for a loop that is closed or that another thread runs;
    TypeError for loops that are not of uringloop; ValueError for less than a millisecond.
    """
    if loop is None:
        loop = get_running_loop()
    if not isinstance(loop, Loop):
        raise TypeError(f"only loops of uringloop can be watched, not {loop!r}")
    if loop.is_closed():
        raise RuntimeError("Event loop is closed")
    _check_limit(limit_s)
    return StallWatch(loop, limit_s, on_stall, on_end, file)


def _check_limit(limit_s: float) -> None:
    if not _LEAST_LIMIT_S <= limit_s <= _MOST_LIMIT_S:
        raise ValueError(f"limit_s must be from {_LEAST_LIMIT_S} to {_MOST_LIMIT_S} seconds, not {limit_s}")


def _frames_above(frame: FrameType | None, caller_id: int | None) -> tuple[StallFrame, ...]:
    found: list[StallFrame] = []
    while frame is not None and id(frame) != caller_id and len(found) < _MOST_FRAMES:
        code = frame.f_code
        found.append(StallFrame(file=code.co_filename, line=frame.f_lineno or 0, function=code.co_qualname))
        frame = frame.f_back
    return tuple(reversed(found))


def _is_of_python(file: str) -> bool:
    return file.startswith("<frozen ") or (file.startswith(_PYTHON) and not file.startswith(_INSTALLED))


def _is_installed(file: str) -> bool:
    return _is_of_python(file) or file.startswith(_INSTALLED)


def _as_line(stall: Stall) -> str:
    values = {
        "time": time.time(),
        "pid": os.getpid(),
        "thread": stall.thread,
        "is_over": stall.is_over,
        "seconds": round(stall.seconds, 6),
        "kind": stall.kind,
        "name": stall.name,
        "where": stall.where,
        "task": stall.task,
        "file": stall.file,
        "line": stall.line,
        "frames": [str(one) for one in stall.frames],
    }
    return json.dumps(values) + "\n"


def _log(stall: Stall) -> None:
    if stall.is_over:
        logger.warning("%s", stall)
    else:
        logger.warning("%s%s", stall, "".join(f"\n  {one}" for one in stall.frames))


def _after_fork_in_child() -> None:
    """The watching threads are the parent's; a loop that goes on here is watched by a new one."""
    for watch in list(_watches):
        loop = watch._loop()
        if loop is None or loop.is_closed() or watch._recorder.is_closed:
            watch._is_closed = True
            _watches.discard(watch)
        else:
            watch._begin()


os.register_at_fork(after_in_child=_after_fork_in_child)


def watch_as_environment_says() -> None:
    """URINGLOOP_STALLS: watch each new loop, with that limit in seconds.

    Raises: ValueError.
    """
    text = os.environ.get("URINGLOOP_STALLS", "")
    if text in ("", "0"):
        return
    try:
        limit_s = float(text)
        _check_limit(limit_s)
    except ValueError as error:
        raise ValueError(f"URINGLOOP_STALLS must be seconds, from 0.001 to 3600, not {text!r}") from error
    EachLoop(lambda loop: watch_stalls(loop, limit_s=limit_s), lambda loop: None)

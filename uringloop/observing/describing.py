"""What the live view shows of a process and its loops, as plain dicts, lists, texts and numbers.

It runs in a thread of its own, beside loops that may be blocked.  So it only reads: it takes no lock that a loop has
while its callbacks run, and waits for no loop.

Invariant: everything has a largest size, whatever names the program gives and however many tasks it has.

Times are in seconds; `*_at` and `began` are on the clock of time.monotonic().
"""

from __future__ import annotations

import asyncio
import os
import platform
import resource
import stat
import sys
import threading
import time
from collections.abc import Iterator
from types import AsyncGeneratorType, CodeType, CoroutineType, FrameType, GeneratorType
from typing import Any

from .. import _version
from .recording import KINDS, Histogram, Recording, Snapshot, described

BLOCKED_S = 0.1  # a loop that does the same for so long counts as blocked
MOST_TEXT = 200  # characters of a name
MOST_CALLBACKS = 40
MOST_TASKS = 200  # of a loop that are described
MOST_TASKS_OF_ALL = 1000  # the same of all loops, but for a few of each
MOST_COUNTED_TASKS = 20_000
MOST_CHAIN = 25
MOST_STACK = 50
MOST_FDS = 4096


def clipped(text: object) -> str:
    """A text of bounded length."""
    text = str(text)
    return text if len(text) <= MOST_TEXT else text[: MOST_TEXT - 1] + "…"


def process() -> dict[str, Any]:
    """Of the process as a whole."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "pid": os.getpid(),
        "command": clipped(" ".join(sys.orig_argv)),
        "python": platform.python_version(),
        "has_gil": has_gil(),
        "kernel": os.uname().release,
        "uringloop": _version.__version__,
        "threads": threading.active_count(),
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "max_rss_bytes": usage.ru_maxrss * 1024,
        "fds": _fds(),
        "now": time.monotonic(),
    }


def has_gil() -> bool:
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


def _fds() -> dict[str, Any]:
    """Open descriptors, by what they are."""
    numbers = os.listdir("/proc/self/fd")
    kinds: dict[str, int] = {}
    for number in numbers[:MOST_FDS]:
        try:
            kind = _kind_of_fd(int(number))
        except OSError:  # closed meanwhile, as that of listdir() is
            continue
        kinds[kind] = kinds.get(kind, 0) + 1
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return {
        "open": len(numbers),
        "limit": None if limit == resource.RLIM_INFINITY else limit,
        "kinds": kinds,
    }


def _kind_of_fd(fd: int) -> str:
    mode = os.fstat(fd).st_mode
    for is_kind, name in ((stat.S_ISSOCK, "socket"), (stat.S_ISFIFO, "pipe"), (stat.S_ISREG, "file")):
        if is_kind(mode):
            return name
    target = os.readlink(f"/proc/self/fd/{fd}")
    if target.startswith("anon_inode:"):
        return clipped(target.removeprefix("anon_inode:").strip("[]"))
    return "device" if stat.S_ISCHR(mode) else "other"


# -- a loop ------------------------------------------------------------------------------------------------------


def loop(
    of: Any, number: int, recording: Recording | None, asked_s: float | None, most_tasks: int
) -> dict[str, Any]:
    """One loop, without what needs the guard of its context.

    Parameters:
        number: by which the user knows it.
        recording: None if it is not recorded.
        asked_s: for how long the loop has been asked to begin its recording; None: it has not been asked.
        most_tasks: how many are described, besides the running one.
    """
    thread = of._thread_id
    doing = _doing(of, recording, asked_s)
    return {
        "number": number,
        "name": type(of).__name__,
        "thread": _thread_name(thread),
        "native_id": _native_id(thread),
        "fdmon": of.fdmon,
        "fdmon_reason": None if of.fdmon_reason is None else clipped(of.fdmon_reason),
        "debug": of.get_debug(),
        **doing,
        "stack": _stack(thread) if doing["state"] in ("running", "blocked") else [],
        "is_recorded": recording is not None,
        "tasks": _tasks(of, most_tasks),
    }


def _doing(of: Any, recording: Recording | None, asked_s: float | None) -> dict[str, Any]:
    """What the loop does now, and for how long."""
    if not of.is_running():
        return {"state": "stopped", "since_s": None, "does": None}
    if recording is None:
        # since then at least: it would have begun its recording
        is_blocked = asked_s is not None and asked_s >= BLOCKED_S
        return {"state": "blocked" if is_blocked else "unknown", "since_s": asked_s, "does": None}
    running = recording._recorder.running()
    if running is None:
        return {"state": "waiting", "since_s": None, "does": None}
    _, since_ns, entry = running
    since_s = max(time.monotonic() - since_ns / 1e9, 0.0)
    does = None
    if entry >= 0:
        kind, key = recording._recorder.key_of(entry)
        name, where = described(key)
        does = {"kind": KINDS[kind], "name": clipped(name), "where": clipped(where)}
    return {"state": "blocked" if since_s >= BLOCKED_S else "running", "since_s": since_s, "does": does}


def _thread_name(ident: int | None) -> str | None:
    for thread in threading.enumerate():
        if thread.ident == ident:
            return clipped(thread.name)
    return None


def _native_id(ident: int | None) -> int | None:
    return next((one.native_id for one in threading.enumerate() if one.ident == ident), None)


def _stack(thread: int | None) -> list[dict[str, Any]]:
    """What a thread does, the innermost call first."""
    frame: FrameType | None = sys._current_frames().get(thread) if thread is not None else None
    found: list[dict[str, Any]] = []
    while frame is not None and len(found) < MOST_STACK:
        found.append(_place(frame.f_code, frame.f_lineno))
        frame = frame.f_back
    return found


def _place(code: CodeType, line: int | None) -> dict[str, Any]:
    # CPython 3.11 sets line to None between two lines
    return {
        "function": clipped(code.co_qualname),
        "file": clipped(code.co_filename),
        "line": line or code.co_firstlineno,
    }


def numbers(of: Any, recording: Recording | None) -> dict[str, Any]:
    """Counters, and what was recorded.

    It takes the guard of the loop's context: without a GIL the caller is the loop's own thread (view.py).
    """
    snapshot = recording.snapshot() if recording is not None else None
    statistics = of.statistics() if snapshot is None else snapshot.statistics
    return {
        "statistics": dict(statistics),
        "ring": _ring(of.aio_context._ring_facts()),
        "recorded": None if snapshot is None else _recorded(snapshot),
    }


def _ring(facts: dict[str, Any]) -> dict[str, Any]:
    if not facts:
        return {}
    from ..liburing.enums import Feature, SetupFlag  # here, because a build without liburing has none

    return {
        **facts,
        "setup_flags": [flag.name for flag in SetupFlag if flag & facts["setup_flags"]],
        "features": [flag.name for flag in Feature if flag & facts["features"]],
    }


def _recorded(snapshot: Snapshot) -> dict[str, Any]:
    times = snapshot.time
    by_total = list(snapshot.callbacks)
    by_longest = sorted(by_total, key=lambda one: one.longest_s, reverse=True)
    shown = {id(one): one for one in [*by_total[:MOST_CALLBACKS], *by_longest[:MOST_CALLBACKS]]}
    return {
        "seconds": snapshot.seconds,
        "utilization": snapshot.utilization,
        "time": {name: getattr(times, name) for name in times.__dataclass_fields__},
        "callbacks": [
            {
                "kind": one.kind,
                "name": clipped(one.name),
                "where": clipped(one.where),
                "count": one.count,
                "total_s": one.total_s,
                "longest_s": one.longest_s,
                "longest_at": one.longest_at,
            }
            for one in shown.values()
        ],
        "queue_delay": _histogram(snapshot.queue_delay),
        "timer_lateness": _histogram(snapshot.timer_lateness),
        "callback_time": _histogram(snapshot.callback_time),
        "busy_time": _histogram(snapshot.busy_time),
        "collections": _histogram(snapshot.collections),
        "in_flight": {clipped(name): count for name, count in snapshot.in_flight.items()},
    }


def _histogram(of: Histogram) -> dict[str, Any]:
    return {
        "count": of.count,
        "total_s": of.total_s,
        "longest_s": of.longest_s,
        "p50_s": of.percentile(50),
        "p99_s": of.percentile(99),
        "buckets": of.buckets,
    }


# -- tasks -------------------------------------------------------------------------------------------------------


def _tasks(of: Any, most: int) -> dict[str, Any]:
    """How many tasks there are in each state, and what some of them await."""
    try:
        found = asyncio.all_tasks(of)
    except RuntimeError:  # they change too fast
        return {"total": None, "states": {}, "listed": []}
    current = asyncio.current_task(of) if of.is_running() else None
    states: dict[str, int] = {}
    listed: list[dict[str, Any]] = []
    for count, task in enumerate(found):
        if count == MOST_COUNTED_TASKS:
            break
        state = "running" if task is current else _state_of_task(task)
        states[state] = states.get(state, 0) + 1
        if state == "running" or len(listed) < most:
            listed.append(_task(task, state))
    return {"total": len(found), "states": states, "listed": listed}


def _state_of_task(task: asyncio.Task[Any]) -> str:
    return "waiting" if getattr(task, "_fut_waiter", None) is not None else "ready"


def _task(task: asyncio.Task[Any], state: str) -> dict[str, Any]:
    """No method of a subclass is called but those that asyncio calls, too."""
    coroutine = task.get_coro()
    waiter = getattr(task, "_fut_waiter", None)
    chain = list(_chain(coroutine))
    return {
        "name": clipped(task.get_name()),
        "coroutine": clipped(getattr(coroutine, "__qualname__", type(coroutine).__qualname__)),
        "state": state,
        "awaits": chain,
        "waits_for": None if waiter is None else _waited(waiter),
        "cancelling": task.cancelling(),
    }


def _chain(coroutine: object) -> Iterator[dict[str, Any]]:
    """Where a task is: its coroutine, what that awaits, and so on."""
    for _ in range(MOST_CHAIN):
        if isinstance(coroutine, CoroutineType):
            frame, code, inner = coroutine.cr_frame, coroutine.cr_code, coroutine.cr_await
        elif isinstance(coroutine, GeneratorType):
            frame, code, inner = coroutine.gi_frame, coroutine.gi_code, coroutine.gi_yieldfrom
        elif isinstance(coroutine, AsyncGeneratorType):
            frame, code, inner = coroutine.ag_frame, coroutine.ag_code, coroutine.ag_await
        else:
            return
        if frame is None:  # it has just ended
            return
        yield _place(code, frame.f_lineno)
        coroutine = inner


def _waited(waiter: object) -> str:
    if isinstance(waiter, asyncio.Task):
        return clipped(f"task {waiter.get_name()}")
    return clipped(type(waiter).__qualname__)

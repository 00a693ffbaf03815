"""Micro-benchmarks of the scheduling paths, run in a fresh process for one loop and one case.

Each function runs a fixed number of operations on the loop and returns (wall ns, CPU ns) for all of them. The
best of three repetitions counts, since noise only adds time. CPU time is that of all threads of the process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.children import CHILDREN
from benchmarks.files import FILES, measure_files
from benchmarks.imports import IMPORTS, measure_import
from benchmarks.loops import new_event_loop
from benchmarks.machine import settle_in
from benchmarks.memory import MEMORY, measure_memory
from benchmarks.polling import POLLING, measure_polling
from benchmarks.sendfile import measure_sendfile
from benchmarks.wakeups import WAKEUPS, measure_wakeups

Loop = asyncio.AbstractEventLoop
Elapsed = tuple[int, int]

REPETITIONS = 3
BATCH = 1000
TASKS = 100


def _now() -> Elapsed:
    return time.perf_counter_ns(), time.process_time_ns()


def _since(start: Elapsed) -> Elapsed:
    wall_ns, cpu_ns = _now()
    return wall_ns - start[0], cpu_ns - start[1]


def _nop(*_args: object) -> None:
    pass


def _timed(loop: Loop, body: Callable[[], Awaitable[Any]]) -> Elapsed:
    """Time *body* inside a running loop, so that starting and stopping the loop does not count."""

    async def measured() -> Elapsed:
        start = _now()
        await body()
        return _since(start)

    return loop.run_until_complete(measured())


def call_soon_chain(loop: Loop, n: int) -> Elapsed:
    """Each callback schedules the next: one turn of the loop per callback."""

    async def body() -> None:
        done = loop.create_future()
        call_soon = loop.call_soon
        n_left = n

        def step() -> None:
            nonlocal n_left
            n_left -= 1
            if n_left:
                call_soon(step)
            else:
                done.set_result(None)

        call_soon(step)
        await done

    return _timed(loop, body)


def call_soon_batch(loop: Loop, n: int) -> Elapsed:
    """1000 callbacks per turn: the cost of a callback without the cost of a turn."""

    async def body() -> None:
        done = loop.create_future()
        call_soon = loop.call_soon
        n_left = n

        def tick() -> None:
            nonlocal n_left
            if n_left <= 0:
                done.set_result(None)
                return
            for _ in range(BATCH):
                call_soon(_nop, 1)
            n_left -= BATCH
            call_soon(tick)

        call_soon(tick)
        await done

    return _timed(loop, body)


def sleep_zero(loop: Loop, n: int) -> Elapsed:
    """100 tasks that do nothing but yield to each other."""

    async def task() -> None:
        for _ in range(n // TASKS):
            await asyncio.sleep(0)

    async def body() -> None:
        await asyncio.gather(*[task() for _ in range(TASKS)])

    return _timed(loop, body)


def future_wakeup(loop: Loop, n: int) -> Elapsed:
    """A callback resolves the future that a task waits for."""

    async def body() -> None:
        for _ in range(n):
            future = loop.create_future()
            loop.call_soon(future.set_result, None)
            await future

    return _timed(loop, body)


def call_later_cancel(loop: Loop, n: int) -> Elapsed:
    """The pattern of a timeout that does not expire: armed and cancelled at once."""

    async def body() -> None:
        call_later = loop.call_later
        for i in range(n):
            call_later(30, _nop).cancel()
            if i % 100 == 99:
                await asyncio.sleep(0)

    return _timed(loop, body)


def timers_cancel_all(loop: Loop, n: int) -> Elapsed:
    """Many timers with mixed deadlines outstanding at once, then all cancelled."""
    n_outstanding = min(n, 10_000)
    delays_s = [10 + (i * 7919 % 1000) * 0.01 for i in range(n_outstanding)]

    async def body() -> None:
        call_later = loop.call_later
        for _ in range(n // n_outstanding):
            for handle in [call_later(delay_s, _nop) for delay_s in delays_s]:
                handle.cancel()
            await asyncio.sleep(0)

    return _timed(loop, body)


def _asynchronous(body: Callable[[int], Awaitable[Any]]) -> Callable[[Loop, int], Elapsed]:
    return lambda loop, n: _timed(loop, lambda: body(n))


# Operations per repetition, which take about 50 to 500 ms on the present loops.
OPERATIONS: dict[str, tuple[Callable[[Loop, int], Elapsed], int]] = {
    "call_soon_chain": (call_soon_chain, 200_000),
    "call_soon_batch": (call_soon_batch, 400_000),
    "sleep_zero": (sleep_zero, 200_000),
    "future_wakeup": (future_wakeup, 60_000),
    "call_later_cancel": (call_later_cancel, 100_000),
    "timers_cancel_all": (timers_cancel_all, 50_000),
    **{name: (_asynchronous(body), n) for name, (body, n) in CHILDREN.items()},
}


def measure_operations(loop_name: str, case: str, scale: float) -> dict[str, float]:
    """Nanoseconds per operation, best of three."""
    function, n = OPERATIONS[case]
    batch = min(n, BATCH)
    n = max(batch, round(n * scale / batch) * batch)
    loop = new_event_loop(loop_name)
    asyncio.set_event_loop(loop)
    try:
        function(loop, max(batch, n // 10 // batch * batch))  # warm caches and CPython's specialised bytecode
        results = [function(loop, n) for _ in range(REPETITIONS)]
    finally:
        loop.close()
    return {
        "operations": n,
        "wall_ns": min(wall_ns for wall_ns, _ in results) / n,
        "cpu_ns": min(cpu_ns for _, cpu_ns in results) / n,
    }


async def _nothing() -> None:
    pass


def measure_lifecycle(loop_name: str, is_run: bool, scale: float) -> dict[str, float]:
    """Nanoseconds to make and close a loop (and to run it once in between): the median over many loops."""
    n = max(20, round(100 * scale))
    samples: list[Elapsed] = []
    for _ in range(n + 10):
        start = _now()
        loop = new_event_loop(loop_name)
        if is_run:
            loop.run_until_complete(_nothing())
        loop.close()
        samples.append(_since(start))
        del loop
    samples = samples[10:]
    return {
        "operations": n,
        "wall_ns": statistics.median(wall_ns for wall_ns, _ in samples),
        "cpu_ns": statistics.median(cpu_ns for _, cpu_ns in samples),
    }


def measure_own(case: str, scale: float) -> dict[str, float]:
    """What only uringloop has; the modules import it, so they are imported for this alone."""
    if case == "nop":
        from benchmarks.raw_requests import measure_nop

        return measure_nop(scale)
    from benchmarks.idle_handlers import measure_idle_handlers

    return measure_idle_handlers(scale)


# name -> its group
OWN = {"nop": "raw", "idle_handlers": "aiocontext"}
SENDFILE = "100MiB"
LIFECYCLES = {"create_close": False, "create_run_close": True}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop", required=True)
    parser.add_argument(
        "--case",
        choices=[*OPERATIONS, *LIFECYCLES, *FILES, *POLLING, *WAKEUPS, *IMPORTS, *MEMORY, *OWN, SENDFILE],
        required=True,
    )
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--cpu", type=int, required=True)
    parser.add_argument("--lifetime-s", type=int, required=True)
    options = parser.parse_args()
    settle_in(options.cpu, options.lifetime_s)
    if options.case == SENDFILE:
        result = measure_sendfile(options.loop)
    elif options.case in IMPORTS:
        result = measure_import(options.loop, options.case, options.scale)
    elif options.case in OWN:
        result = measure_own(options.case, options.scale)
    elif options.case in MEMORY:
        result = measure_memory(options.loop, options.case, options.scale)
    elif options.case in POLLING:
        result = measure_polling(options.loop, options.case, options.scale)
    elif options.case in WAKEUPS:
        result = measure_wakeups(options.loop, options.case, options.scale)
    elif options.case in FILES:
        result = measure_files(options.loop, options.case, options.scale)
    elif options.case in LIFECYCLES:
        result = measure_lifecycle(options.loop, LIFECYCLES[options.case], options.scale)
    else:
        result = measure_operations(options.loop, options.case, options.scale)
    print(json.dumps(result))


if __name__ == "__main__":
    main()

"""Loops in two threads that wake each other by call_soon_threadsafe(), in turn; see micro.py, which runs this.

The second thread has the other CPUs, so that both can run at the same time where there is no GIL.  One operation is one
wake-up: half of a round trip.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import threading
import time

from benchmarks.loops import new_event_loop

# name -> round trips
WAKEUPS = {"wakeup": 10_000}
LEARN = 500
REPETITIONS = 3


class _Side:
    """One loop, which calls the other until both have done so `n_left` times."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.n_left = 0
        self.is_over: asyncio.Future[None] | None = None
        self.times_ns: list[int] = []
        self.called_ns = 0

    def called(self, other: _Side) -> None:
        now_ns = time.perf_counter_ns()
        if self.called_ns:
            self.times_ns.append(now_ns - self.called_ns)
        self.called_ns = now_ns
        self.n_left -= 1
        if self.n_left >= 0:
            other.loop.call_soon_threadsafe(other.called, self)
        elif self.is_over is not None:
            self.is_over.set_result(None)

    def start(self, n: int, other: _Side) -> asyncio.Future[None]:
        self.times_ns.clear()
        self.called_ns = 0
        self.n_left, other.n_left = n, n + 1
        self.is_over = self.loop.create_future()
        self.called(other)
        return self.is_over


def measure_wakeups(loop_name: str, case: str, scale: float) -> dict[str, float]:
    """Nanoseconds per wake-up, best of three."""
    n = max(LEARN, round(WAKEUPS[case] * scale))
    own, other = _Side(new_event_loop(loop_name)), _Side(new_event_loop(loop_name))

    def run_other() -> None:
        cpus = set(range(os.cpu_count() or 1)) - os.sched_getaffinity(0)
        os.sched_setaffinity(0, cpus or os.sched_getaffinity(0))  # of this thread
        other.loop.run_forever()

    async def measure() -> dict[str, float]:
        await own.start(LEARN, other)
        found = []
        for _ in range(REPETITIONS):
            start_ns, cpu_ns = time.perf_counter_ns(), time.process_time_ns()
            await own.start(n, other)
            found.append(
                {
                    "operations": 2 * n,
                    "wall_ns": (time.perf_counter_ns() - start_ns) / (2 * n),
                    "cpu_ns": (time.process_time_ns() - cpu_ns) / (2 * n),
                    "p50_us": statistics.median(own.times_ns) / 2000,
                }
            )
        return min(found, key=lambda one: one["wall_ns"])

    thread = threading.Thread(target=run_other)
    thread.start()
    try:
        return own.loop.run_until_complete(measure())
    finally:
        other.loop.call_soon_threadsafe(other.loop.stop)
        thread.join()
        own.loop.close()
        other.loop.close()

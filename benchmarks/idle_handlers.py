"""Many idle poll handlers and a busy one: the gain from removing idle ones from the poll list.

    python -m benchmarks.idle_handlers [--handlers 3200] [--seconds 2]

Each handler is an eventfd with an io_poll that reads a variable; all have had one event.  The busy one finds an item in
memory at every second poll.  `kept`: idle_ns is so long that none is removed; `removed`: 50 ms (the default is 7 s).
Both alternate three times in one process; medians.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time

import uringloop

HANDLERS = 3200
LONG_NS = 3_600_000_000_000
SHORT_NS = 50_000_000
MAX_NS = 100_000_000
REPETITIONS = 3


class Item:
    """Is found by every second poll."""

    def __init__(self) -> None:
        self.n_polls = self.n_found = 0

    def poll(self) -> bool:
        self.n_polls += 1
        return self.n_polls & 1 == 0

    def take(self) -> None:
        self.n_found += 1


def nothing() -> bool:
    return False


def rate_per_s(n_idle: int, seconds: float, idle_ns: int) -> tuple[float, float]:
    """Items of the busy handler per second, and CPU us for each."""
    context = uringloop.AioContext("io_uring")
    context.set_poll_params(MAX_NS, MAX_NS, idle_ns=idle_ns)
    notifiers = [uringloop.EventNotifier() for _ in range(n_idle)]
    for notifier in notifiers:
        context.set_event_notifier(notifier, notifier.test_and_clear, nothing, nothing)
        notifier.set()
    while context.poll(False):
        pass
    item = Item()
    context.add_poll_handler(item.poll, item.take)
    deadline = time.perf_counter() + max(0.5, 3 * SHORT_NS / 1e9)
    while time.perf_counter() < deadline:
        context.poll(True)
    item.n_found = 0
    cpu, started = time.process_time(), time.perf_counter()
    while time.perf_counter() < started + seconds:
        context.poll(True)
    elapsed, cpu = time.perf_counter() - started, time.process_time() - cpu
    for notifier in notifiers:
        context.set_event_notifier(notifier)
        notifier.close()
    context.close()
    return item.n_found / elapsed, cpu / item.n_found * 1e6


def raise_file_limit(n_handlers: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(n_handlers + 200, hard), hard))


def measure_idle_handlers(scale: float) -> dict[str, float]:
    """The case `aiocontext/idle_handlers` of `run`: per item with idle handlers removed, and the gain in rate."""
    raise_file_limit(HANDLERS)
    seconds = max(0.1, 0.5 * scale)
    kept_per_s, _ = rate_per_s(HANDLERS, seconds, LONG_NS)
    removed_per_s, cpu_us = rate_per_s(HANDLERS, seconds, SHORT_NS)
    return {
        "operations": removed_per_s * seconds,
        "wall_ns": 1e9 / removed_per_s,
        "cpu_ns": cpu_us * 1e3,
        "idle_gain": removed_per_s / kept_per_s,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--handlers", type=int, default=HANDLERS)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    raise_file_limit(options.handlers)
    kinds = {"kept": LONG_NS, "removed": SHORT_NS}
    results: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    for _ in range(REPETITIONS):
        for kind, idle_ns in kinds.items():
            results[kind].append(rate_per_s(options.handlers, options.seconds, idle_ns))
    rates = {kind: statistics.median(rate for rate, _ in result) for kind, result in results.items()}
    for kind, result in results.items():
        cpu_us = statistics.median(cpu for _, cpu in result)
        print(
            f"{options.handlers} idle handlers {kind}: {rates[kind]:,.0f} items/s, {cpu_us:.2f} us of CPU for each"
        )
    gain = rates["removed"] / rates["kept"]
    print(f"gain {gain:.1f}, at least 5 wanted")
    return 0 if gain >= 5 else 1


if __name__ == "__main__":
    raise SystemExit(main())

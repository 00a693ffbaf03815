"""The cost of a raw request: NOP through loop.add_sqe() from 64 tasks, compared with a bare future and call_soon.

    python -m benchmarks.raw_requests [--rounds 9]

Both alternate in one process; CPU time; medians.  The bar: at most 1.1 times the bare future plus 500 ns, and one
system call for 64 requests.  Exits with 1 if it is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import Awaitable, Callable

import uringloop
from uringloop.liburing import lib

TASKS = 64
ROUND_TRIPS = 1000
FACTOR = 1.1
EXTRA_NS = 500


async def nops(loop: uringloop.Loop) -> None:
    nop = lib.io_uring_prep_nop
    for _ in range(ROUND_TRIPS):
        await loop.add_sqe(nop)


async def futures(loop: uringloop.Loop) -> None:
    for _ in range(ROUND_TRIPS):
        future = loop.create_future()
        loop.call_soon(future.set_result, None)
        await future


async def cost_ns(loop: uringloop.Loop, body: Callable[[uringloop.Loop], Awaitable[None]]) -> float:
    """CPU nanoseconds per round trip."""
    start_ns = time.process_time_ns()
    await asyncio.gather(*[body(loop) for _ in range(TASKS)])
    return (time.process_time_ns() - start_ns) / (TASKS * ROUND_TRIPS)


async def syscalls_of_one_turn(loop: uringloop.Loop) -> int:
    await asyncio.sleep(0)
    before = int(loop.statistics()["syscalls"])
    await asyncio.gather(*[loop.add_sqe(lib.io_uring_prep_nop) for _ in range(TASKS)])
    return int(loop.statistics()["syscalls"]) - before


async def measure_costs(n_rounds: int) -> dict[str, float]:
    """Both costs, in the form of a sample of micro.py; `of_allowed`: the NOP's, divided by the bar."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, uringloop.Loop)
    started_ns = time.perf_counter_ns()
    pairs = [(await cost_ns(loop, nops), await cost_ns(loop, futures)) for _ in range(n_rounds)]
    wall_ns = (time.perf_counter_ns() - started_ns) / (2 * n_rounds * TASKS * ROUND_TRIPS)
    nop_ns = statistics.median(pair[0] for pair in pairs)
    future_ns = statistics.median(pair[1] for pair in pairs)
    return {
        "operations": n_rounds * TASKS * ROUND_TRIPS,
        "wall_ns": wall_ns,
        "cpu_ns": nop_ns,
        "future_ns": future_ns,
        "of_allowed": nop_ns / (FACTOR * future_ns + EXTRA_NS),
        "turn_syscalls": await syscalls_of_one_turn(loop),
    }


def measure_nop(scale: float) -> dict[str, float]:
    """The case `raw/nop` of `run`."""
    with contextlib.closing(uringloop.new_event_loop(fdmon="io_uring")) as loop:
        return loop.run_until_complete(measure_costs(max(1, round(3 * scale))))


async def measure(n_rounds: int) -> bool:
    found = await measure_costs(n_rounds)
    nop_ns, future_ns, n_syscalls = found["cpu_ns"], found["future_ns"], int(found["turn_syscalls"])
    limit_ns = FACTOR * future_ns + EXTRA_NS
    print(f"NOP by add_sqe   {nop_ns:7.0f} ns   ({TASKS} tasks, {n_rounds} rounds, CPU time)")
    print(f"bare future      {future_ns:7.0f} ns")
    print(f"limit            {limit_ns:7.0f} ns   {FACTOR} x future + {EXTRA_NS}")
    print(f"{TASKS} in one turn    {n_syscalls:7d} system calls")
    return nop_ns <= limit_ns and n_syscalls == 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=9, help="default: 9")
    rounds = parser.parse_args().rounds
    loop = uringloop.new_event_loop(fdmon="io_uring")
    try:
        return 0 if loop.run_until_complete(measure(rounds)) else 1
    finally:
        loop.close()


if __name__ == "__main__":
    sys.exit(main())

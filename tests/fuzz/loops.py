"""Loops that the targets with sockets share: a loop for each monitor, which lives as long as the process."""

import asyncio
import atexit
import contextlib
import functools
import time
from collections.abc import Callable

import uringloop
from uringloop.exceptions import MonitorUnavailable
from uringloop.fdmon.select import NAMES

SECONDS = 10.0


@functools.cache
def all_loops() -> list[uringloop.Loop]:
    made = []
    for name in NAMES:
        with contextlib.suppress(MonitorUnavailable):
            made.append(uringloop.new_event_loop(fdmon=name))
    atexit.register(close_all)
    return made


def close_all() -> None:
    if all_loops.cache_info().currsize:
        for loop in all_loops():
            loop.close()
        all_loops.cache_clear()


async def until(condition: Callable[[], object], what: str) -> None:
    """Let the loop run until it holds; what depends on the kernel only."""
    deadline = time.monotonic() + SECONDS
    n_turns = 0
    while not condition():
        assert time.monotonic() < deadline, f"{what} after {SECONDS} s"
        n_turns += 1
        await asyncio.sleep(0 if n_turns < 100 else 0.0005)

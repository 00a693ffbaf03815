"""A server with a large heap and garbage that only the collector frees; server.py runs it for the cases `gc/heap/*`.

At start there are a million objects.  Each request makes eight more, in a circle; they are dropped when 5,000 newer
requests have come.  So young collections find them alive, they grow old, and full collections are needed.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
from collections import deque

from benchmarks.loops import spec_of

N_OBJECTS = 1_000_000
N_OF_REQUEST = 8
N_KEPT = 5000

_kept: list[object] = []


class Handler(asyncio.Protocol):
    """Echoes, and keeps what a request has made for a while."""

    recent: deque[list] = deque(maxlen=N_KEPT)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        made: list[list] = [[] for _ in range(N_OF_REQUEST - 1)]
        made[0].append(made)
        self.recent.append(made)
        self.transport.write(data)  # type: ignore[attr-defined]


def start(loop_name: str, loop: asyncio.AbstractEventLoop) -> None:
    """Make the heap, and treat it as this loop's name says."""
    heap: list[list] = [[number] for number in range(N_OBJECTS)]
    _kept.append(heap)
    collects = spec_of(loop_name).collects
    if collects == "frozen":
        gc.collect()
        gc.freeze()
    elif collects == "policy":
        _kept.append(importlib.import_module("uringloop").gc_policy(loop))

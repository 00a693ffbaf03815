"""Raw requests that are cancelled while they complete."""

import asyncio
import contextlib
import errno
import gc
import random
import socket
import sys
import weakref

import pytest
from support.helpers import turns, until

import uringloop
from uringloop.liburing import ffi, lib

from .common import NOP


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_cancel_races_completion(loop, seed):
    """In 2,500 races every request ends exactly once, whichever is first."""
    chance = random.Random(seed)
    kept = weakref.WeakSet()
    ends = []

    async def race():
        inside, outside = socket.socketpair()
        with inside, outside:
            buffer = bytearray(8)
            how = chance.randrange(4)
            callback = ends.append if how == 3 else None
            request = loop.add_sqe(
                lib.io_uring_prep_recv, inside.fileno(), ffi.from_buffer(buffer), 8, 0, callback=callback
            )
            kept.add(request)
            task = asyncio.ensure_future(request) if callback is None else None
            for step in chance.sample(range(4), 4):
                if step == 0:
                    outside.send(b"x" * 8)
                elif step == 1 and how == 0:
                    request.cancel()
                elif step == 1 and task is not None and how == 1:
                    task.cancel()
                elif step == 2:
                    await turns(chance.randrange(3))
                elif step == 3 and how == 2:
                    request.cancel()
                    if task is not None:
                        task.cancel()
            if task is not None:
                with contextlib.suppress(asyncio.CancelledError, OSError):
                    await task  # if cancelled before its first step, it never awaited the request
                await until(request.done)
                assert request.cqe.res in (8, -errno.ECANCELED)
            else:
                await until(request.done)
                assert request.cqe == ends[-1]

    async def all_races():
        for _ in range(2500 // 50):
            await asyncio.gather(*[race() for _ in range(50)])

    loop.run_until_complete(all_races())
    gc.collect()
    assert not kept
    assert loop.statistics()["in_flight"] <= 2


def test_no_reference_is_lost(loop):
    """Neither to None nor to the parts of requests."""
    if not hasattr(sys, "getrefcount"):
        pytest.skip("no reference counts here")
    before = sys.getrefcount(NOP)

    async def work():
        for _ in range(200):
            request = loop.add_sqe(NOP)
            await request
            await request
            loop.add_sqe(NOP, callback=lambda cqe: None)
            with contextlib.suppress(ValueError):
                loop.add_sqe(lambda sqe: None)
        await turns(3)

    loop.run_until_complete(work())
    assert abs(sys.getrefcount(NOP) - before) < 5
    assert uringloop.Cqe(1, 2) == uringloop.Cqe(1, 2) != uringloop.Cqe(1, 3)
    assert hash(uringloop.Cqe(1, 2)) == hash(uringloop.Cqe(1, 2))
    assert tuple(uringloop.Cqe(1, 2)) == (1, 2)

"""Micro-benchmarks of child processes and pipes; see micro.py, which runs them.

CPU time is that of the parent's threads, without that of the child between fork and exec.
"""

from __future__ import annotations

import asyncio
from asyncio.subprocess import PIPE

PROGRAM = "/bin/true"
TOGETHER = 8
CHUNK = bytes(64 * 1024)


async def _spawn() -> None:
    process = await asyncio.create_subprocess_exec(PROGRAM)
    await process.wait()


async def spawn_sequential(n: int) -> None:
    """Start a child and wait for it, one after the other."""
    for _ in range(n):
        await _spawn()


async def spawn_together(n: int) -> None:
    """The same with eight at a time."""
    numbers = iter(range(n))

    async def worker() -> None:
        for _ in numbers:
            await _spawn()

    await asyncio.gather(*[worker() for _ in range(TOGETHER)])


async def spawn_communicate(n: int) -> None:
    """A line through `cat`: two pipes for each child."""
    for _ in range(n):
        process = await asyncio.create_subprocess_exec("/bin/cat", stdin=PIPE, stdout=PIPE)
        out, _ = await process.communicate(b"a line\n")
        if out != b"a line\n":
            raise RuntimeError(f"cat gave back {out!r}")


async def pipe_through_cat(n: int) -> None:
    """Chunks of 64 KiB through one `cat`, with a writer and a reader."""
    process = await asyncio.create_subprocess_exec("/bin/cat", stdin=PIPE, stdout=PIPE, limit=1 << 20)
    assert process.stdin is not None
    assert process.stdout is not None

    async def write() -> None:
        for _ in range(n):
            process.stdin.write(CHUNK)  # type: ignore[union-attr]
            await process.stdin.drain()  # type: ignore[union-attr]
        process.stdin.close()  # type: ignore[union-attr]

    writing = asyncio.ensure_future(write())
    n_left = n * len(CHUNK)
    while n_left:
        data = await process.stdout.read(1 << 20)
        if not data:
            raise RuntimeError(f"cat ended with {n_left} bytes to come")
        n_left -= len(data)
    await writing
    await process.wait()


# Operations per repetition.
CHILDREN = {
    "spawn_sequential": (spawn_sequential, 200),
    "spawn_together": (spawn_together, 200),
    "spawn_communicate": (spawn_communicate, 100),
    "pipe_through_cat": (pipe_through_cat, 3000),
}

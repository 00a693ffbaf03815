"""Benchmarks of files; see micro.py, which runs them.

Each loop is measured with its own files: `uringloop.open` (requests on io_uring, threads on the other monitors) and
`blazio.open`; loops without files of their own use aiofiles, and `asyncio-anyio` uses anyio.open_file.
TMPDIR chooses the folder; RESULTS names the file system. For writing, use the root of a file system from which few
files were removed recently: ext4 does not reuse their inodes for a minute, and checks each of them when it makes a file
near them, which then takes ten times as long for all loops.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.loops import LOOPS, new_event_loop

KIB = 1024
MIB = 1024 * KIB
BIG_MIB = 1024
BLOCK_BYTES = 4 * KIB
SMALL_BYTES = 64 * KIB
READ_FROM_MIB = 64
WORKERS = 16
CHUNK_BYTES = 1 * MIB
TICK_S = 0.001


class Library:
    """One way to open and read files."""

    def __init__(self, loop_name: str) -> None:
        spec = LOOPS[loop_name]
        self.has_pread = spec.module == "uringloop"
        if loop_name == "asyncio-anyio":
            self._open = importlib.import_module("anyio").open_file
            self._close_name = "aclose"
        else:
            name = spec.module if spec.module in ("uringloop", "blazio") else "aiofiles"
            self._open = importlib.import_module(name).open
            self._close_name = "close"

    async def open(self, path: str, mode: str) -> Any:
        return await self._open(path, mode)

    async def close(self, file: Any) -> None:
        await getattr(file, self._close_name)()

    def reader_at(self, file: Any) -> Callable[[int], Awaitable[bytes]]:
        """A function that reads BLOCK_BYTES at an offset, with pread() if the library has it."""
        if self.has_pread:
            pread = file.pread
            return lambda offset: pread(BLOCK_BYTES, offset)

        async def seek_and_read(offset: int) -> bytes:
            await file.seek(offset)
            return await file.read(BLOCK_BYTES)

        return seek_and_read


def _fill(path: Path, n_mib: int) -> None:
    piece = os.urandom(MIB)
    with open(path, "wb") as file:
        for _ in range(n_mib):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())  # otherwise it cannot be dropped from the page cache


def _make_files(folder: Path, n: int, size_bytes: int) -> list[str]:
    paths = [folder / str(number) for number in range(n)]
    for path in paths:
        path.write_bytes(os.urandom(size_bytes))
    return [*map(str, paths)]


async def _read_randomly(library: Library, path: Path, n: int, depth: int) -> None:
    """Read n blocks from the page cache, `depth` at a time, by tasks with a file each."""
    numbers = random.Random(1)
    last = READ_FROM_MIB * MIB // BLOCK_BYTES - 1
    offsets = [numbers.randint(0, last) * BLOCK_BYTES for _ in range(n)]
    files = [await library.open(str(path), "rb") for _ in range(depth)]

    async def worker(file: Any, own: list[int]) -> None:
        read = library.reader_at(file)
        for offset in own:
            if len(await read(offset)) != BLOCK_BYTES:
                raise RuntimeError("short read")

    await asyncio.gather(*[worker(file, offsets[i::depth]) for i, file in enumerate(files)])
    for file in files:
        await library.close(file)


async def _small_files(library: Library, folder: Path, n: int, is_writing: bool) -> None:
    """Open, read or write, and close n files of 64 KiB, 16 at a time."""
    data = os.urandom(SMALL_BYTES)
    paths = iter([str(folder / str(number)) for number in range(n)])

    async def worker() -> None:
        for path in paths:
            file = await library.open(path, "wb" if is_writing else "rb")
            if is_writing:
                await file.write(data)
            elif len(await file.read()) != SMALL_BYTES:
                raise RuntimeError("short read")
            await library.close(file)

    await asyncio.gather(*[worker() for _ in range(WORKERS)])


async def _whole_files(library: Library, paths: list[str], at_once: int) -> None:
    """Open, read to the end, and close each, so many at a time."""
    waiting = iter(paths)

    async def worker() -> None:
        for path in waiting:
            file = await library.open(path, "rb")
            if not await file.read():
                raise RuntimeError("an empty file")
            await library.close(file)

    await asyncio.gather(*[worker() for _ in range(at_once)])


async def _sequentially(library: Library, path: Path) -> None:
    file = await library.open(str(path), "rb")
    n_bytes = 0
    while data := await file.read(CHUNK_BYTES):
        n_bytes += len(data)
    await library.close(file)
    if n_bytes != BIG_MIB * MIB:
        raise RuntimeError(f"{n_bytes} bytes")


def _small_files_blocking(folder: Path, n: int, is_writing: bool) -> None:
    """The same without a loop, one file after the other: the cost of the file system itself."""
    data = os.urandom(SMALL_BYTES)
    for path in [str(folder / str(number)) for number in range(n)]:
        with open(path, "wb" if is_writing else "rb", 0) as file:
            if is_writing:
                file.write(data)
            elif len(file.read()) != SMALL_BYTES:
                raise RuntimeError("short read")


def _sequentially_blocking(path: Path) -> None:
    n_bytes = 0
    with open(path, "rb") as file:
        while data := file.read(CHUNK_BYTES):
            n_bytes += len(data)
    if n_bytes != BIG_MIB * MIB:
        raise RuntimeError(f"{n_bytes} bytes")


async def _lateness_us(work: Awaitable[Any]) -> list[float]:
    """The lateness of a 1 ms ticker while `work` is running."""
    late: list[float] = []
    task = asyncio.ensure_future(work)
    while not task.done():
        due = time.perf_counter() + TICK_S
        await asyncio.sleep(TICK_S)
        late.append((time.perf_counter() - due) * 1e6)
    await task
    return late


async def _write_slowly(library: Library, path: Path, data: bytes) -> None:
    """Several large writes, each followed by an fsync."""
    file = await library.open(str(path), "wb")
    loop = asyncio.get_running_loop()
    for _ in range(16):
        await file.write(data)
        await file.flush()
        if hasattr(file, "fsync"):
            await file.fsync()
        else:
            await loop.run_in_executor(None, os.fsync, file.fileno())
    await library.close(file)


def _drop_from_cache(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def _per(n: int, elapsed: list[tuple[int, int]]) -> dict[str, float]:
    """Nanoseconds per operation, the best of the repetitions."""
    return {
        "operations": n,
        "wall_ns": min(wall_ns for wall_ns, _ in elapsed) / n,
        "cpu_ns": min(cpu_ns for _, cpu_ns in elapsed) / n,
    }


def _time(function: Callable[[], Any]) -> tuple[int, int]:
    wall_ns, cpu_ns = time.perf_counter_ns(), time.process_time_ns()
    function()
    return time.perf_counter_ns() - wall_ns, time.process_time_ns() - cpu_ns


def _repeated(loop: asyncio.AbstractEventLoop, n: int, make: Callable[[], Any]) -> dict[str, float]:
    elapsed = []
    for _ in range(4):
        elapsed.append(_time(lambda: loop.run_until_complete(make())))
    return _per(n, elapsed[1:])


def _many_files(
    loop: asyncio.AbstractEventLoop, library: Library, folder: Path, n: int, is_writing: bool
) -> dict[str, float]:
    """Small files, alternating with blocking Python."""
    folders = [folder / "read"] * 8
    if is_writing:
        # Always into a new folder: reused names and blocks cost ext4 more than new ones.
        folders = [folder / f"written {number}" for number in range(8)]
    else:
        folders[0].mkdir()
        _small_files_blocking(folders[0], n, True)
    ours, plain = [], []

    def next_folder() -> Path:
        one = folders.pop()
        if is_writing:
            _prepare_to_write(one, n)
        return one

    while folders:
        one = next_folder()
        plain.append(_time(partial(_small_files_blocking, one, n, is_writing)))
        work = _small_files(library, next_folder(), n, is_writing)
        ours.append(_time(partial(loop.run_until_complete, work)))
    best = _per(n, ours[1:])
    return {**best, "gain": _per(n, plain[1:])["wall_ns"] / best["wall_ns"]}


def _prepare_to_write(folder: Path, n: int) -> None:
    """Make a new folder, write back everything, and make sure that memory was in use a moment ago.

    Memory of a virtual machine that has not been used recently is not present: its host takes 10 us to provide a page,
    more than everything else that is done with it.
    """
    folder.mkdir()
    scratch = folder.parent / "scratch"
    with open(scratch, "wb") as file:
        for _ in range(2 * n * SMALL_BYTES // MIB):
            file.write(bytes(MIB))
    scratch.unlink()
    os.sync()


def _against_blocking(loop: asyncio.AbstractEventLoop, library: Library, path: Path) -> dict[str, float]:
    _sequentially_blocking(path)
    ours, plain = [], []
    for _ in range(3):
        plain.append(_time(lambda: _sequentially_blocking(path)))
        ours.append(_time(lambda: loop.run_until_complete(_sequentially(library, path))))
    best = _per(BIG_MIB, ours)
    return {**best, "gain": _per(BIG_MIB, plain)["wall_ns"] / best["wall_ns"]}


def _ticking(
    loop: asyncio.AbstractEventLoop, make: Callable[[], Any], prepare: Callable[[], Any]
) -> dict[str, float]:
    late: list[float] = []
    elapsed = []
    for _ in range(3):
        prepare()
        elapsed.append(_time(lambda: late.extend(loop.run_until_complete(_lateness_us(make())))))
    return {
        **_per(BIG_MIB, elapsed),
        "p50_us": statistics.median(late),
        "p99_us": statistics.quantiles(late, n=100)[98],
        "most_us": max(late),
    }


# name -> size of each file, and how many are read at a time
WHOLE = {
    "whole4k_1": (BLOCK_BYTES, 1),
    "whole4k_16": (BLOCK_BYTES, 16),
    "whole1m_1": (MIB, 1),
    "whole1m_16": (MIB, 16),
}

# name -> operations per repetition
FILES = {
    "read4k_1": 3000,
    "read4k_64": 6000,
    "whole4k_1": 1000,
    "whole4k_16": 1000,
    "whole1m_1": 200,
    "whole1m_16": 200,
    "read_files": 1000,
    "write_files": 1000,
    "read_files_1cpu": 1000,
    "write_files_1cpu": 1000,
    "sequential": BIG_MIB,
    "ticker_hot": BIG_MIB,
    "ticker_cold": BIG_MIB,
    "ticker_fsync": 128,
}


def measure_files(loop_name: str, case: str, scale: float) -> dict[str, float]:
    """One case in a fresh process."""
    # Not on a single CPU like other cases: threads, and the kernel's workers, can use several.
    if not case.endswith("_1cpu"):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    library = Library(loop_name)
    loop = new_event_loop(loop_name)
    asyncio.set_event_loop(loop)
    folder = Path(tempfile.mkdtemp(prefix="files-"))
    big = folder / "big"
    n = max(WORKERS, round(FILES[case] * scale))
    try:
        if case.startswith("read4k"):
            _fill(big, READ_FROM_MIB)
            depth = int(case.rpartition("_")[2])
            return _repeated(loop, n, lambda: _read_randomly(library, big, n, depth))
        if case in WHOLE:
            size_bytes, at_once = WHOLE[case]
            paths = _make_files(folder, n, size_bytes)
            return _repeated(loop, n, lambda: _whole_files(library, paths, at_once))
        if case.startswith(("read_files", "write_files")):
            return _many_files(loop, library, folder, n, case.startswith("write"))
        if case == "ticker_fsync":
            data = os.urandom(8 * MIB)
            return _ticking(loop, lambda: _write_slowly(library, big, data), lambda: None)
        _fill(big, BIG_MIB)
        if case == "sequential":
            return _against_blocking(loop, library, big)
        is_cold = case == "ticker_cold"
        return _ticking(
            loop, lambda: _sequentially(library, big), lambda: _drop_from_cache(big) if is_cold else None
        )
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        shutil.rmtree(folder)

"""The event loops under test, by name.

A loop is imported only in the process that measures it: two loops in one process could change what the other
sees (hooks, policies, allocator state). The parent asks a child what can be imported.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.machine import REPOSITORY, child_environment


@dataclass(frozen=True)
class LoopSpec:
    """How one named loop is made. ``module`` None means the standard library.

    on_aiofastnet: with the transports of aiofastnet on top, which replace the loop's own.
    """

    name: str
    module: str | None
    options: dict[str, Any] = field(default_factory=dict)
    on_aiofastnet: bool = False


LOOPS = {
    spec.name: spec
    for spec in (
        LoopSpec("uringloop", "uringloop", {"fdmon": "io_uring"}),
        LoopSpec("uringloop-epoll", "uringloop", {"fdmon": "epoll"}),
        LoopSpec("uringloop-poll", "uringloop", {"fdmon": "poll"}),
        LoopSpec("asyncio", None),
        LoopSpec("asyncio-anyio", None),  # for files only, which are then anyio's
        LoopSpec("uvloop", "uvloop"),
        LoopSpec("rloop", "rloop"),
        LoopSpec("zuvloop", "zuvloop"),
        LoopSpec("rsloop", "rsloop"),
        LoopSpec("blazio", "blazio"),
        LoopSpec("uringloop-aiofastnet", "uringloop", {"fdmon": "io_uring"}, on_aiofastnet=True),
        LoopSpec("uvloop-aiofastnet", "uvloop", on_aiofastnet=True),
    )
}

BASELINE = "uvloop"


def new_event_loop(name: str) -> asyncio.AbstractEventLoop:
    """Make the loop called *name*; raises ImportError or whatever its constructor raises."""
    spec = LOOPS[name]
    if spec.module is None:
        return asyncio.new_event_loop()
    module = importlib.import_module(spec.module)
    loop = module.new_event_loop(**spec.options)
    wanted = spec.options.get("fdmon")
    if wanted is not None and loop.fdmon != wanted:
        # A silent fallback would publish epoll's figures under io_uring's name.
        raise RuntimeError(f"asked for fdmon={wanted!r} and got {loop.fdmon!r}")
    return importlib.import_module("aiofastnet").loop_factory(lambda: loop)() if spec.on_aiofastnet else loop


def version_of(spec: LoopSpec) -> str:
    """The version of the package behind *spec*."""
    if spec.module is None:
        return sys.version.split()[0]
    try:
        return importlib.metadata.version(spec.module)
    except importlib.metadata.PackageNotFoundError:
        return str(getattr(importlib.import_module(spec.module), "__version__", "unknown"))


def probe(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Try every named loop, each in its own process: name -> {"version": ...} or {"error": ...}."""
    found: dict[str, dict[str, str]] = {}
    for name in names:
        try:
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.loops", name],
                capture_output=True,
                text=True,
                timeout=30,
                cwd=REPOSITORY,
                env=child_environment(),
            )
        except subprocess.TimeoutExpired:
            found[name] = {"error": "did not run a coroutine within 30 s"}
            continue
        try:
            found[name] = json.loads(done.stdout.strip().splitlines()[-1])
        except (IndexError, ValueError):
            last = (done.stderr.strip().splitlines() or ["no output"])[-1]
            found[name] = {"error": f"exit status {done.returncode}: {last}"}
    return found


def _probe_here(name: str) -> dict[str, str]:
    try:
        loop = new_event_loop(name)
        try:
            loop.run_until_complete(asyncio.sleep(0))
        finally:
            loop.close()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {"version": version_of(LOOPS[name])}


if __name__ == "__main__":
    print(json.dumps(_probe_here(sys.argv[1])))

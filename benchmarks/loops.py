"""The event loops under test, by name.

A loop is imported only in the process that measures it: two loops in one process could influence each other
(hooks, policies, allocator state). The parent lets a child find out what can be imported.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks import limits
from benchmarks.machine import REPOSITORY, child_environment


@dataclass(frozen=True)
class LoopSpec:
    """How to make the loop of this name. ``module`` None means the standard library.

    on_aiofastnet: with the transports of aiofastnet on top, which replace the loop's own.
    poll_max_ns: the limit of adaptive polling, for uringloop only; None: the loop's default.
    shares_polled_event: one learned time for the whole loop instead of one for each fd and request.
    collects: garbage, in the cases gc/*: "policy" by gc_policy(), "frozen" after gc.freeze(), "" as Python does.
    distribution: the package's name for pip, if it is not the module's.
    factory: what makes the loop, in the module.
    oldest_python: the oldest one that the package has been released for, if it is newer than ours: (3, 14).
    """

    name: str
    module: str | None
    options: dict[str, Any] = field(default_factory=dict)
    on_aiofastnet: bool = False
    poll_max_ns: int | None = None
    shares_polled_event: bool = False
    collects: str = ""
    distribution: str | None = None
    factory: str = "new_event_loop"
    oldest_python: tuple[int, int] | None = None


POLL_MAX_NS = 200_000
LOOPS = {
    spec.name: spec
    for spec in (
        LoopSpec("uringloop", "uringloop", {"fdmon": "io_uring"}),
        LoopSpec("uringloop-epoll", "uringloop", {"fdmon": "epoll"}),
        LoopSpec("uringloop-poll", "uringloop", {"fdmon": "poll"}),
        LoopSpec("uringloop-polling", "uringloop", {"fdmon": "io_uring"}, poll_max_ns=POLL_MAX_NS),
        LoopSpec("uringloop-sleeping", "uringloop", {"fdmon": "io_uring"}, poll_max_ns=0),  # never polls
        LoopSpec("uringloop-epoll-sleeping", "uringloop", {"fdmon": "epoll"}, poll_max_ns=0),
        LoopSpec("asyncio", None),
        LoopSpec("asyncio-anyio", None),  # for files only, which are then anyio's
        LoopSpec("uvloop", "uvloop"),
        LoopSpec("rloop", "rloop"),
        LoopSpec("zuvloop", "zuvloop", oldest_python=(3, 14)),
        LoopSpec("rsloop", "rsloop"),
        LoopSpec("blazio", "blazio"),
        LoopSpec("loopmini", "loopmini"),
        LoopSpec("talyn", "talyn", factory="Loop", oldest_python=(3, 13)),
        # Its io_uring is the package wreath-linux.
        LoopSpec(
            "wreath",
            "wreath.reactor",
            distribution="wreath",
            factory="metal_event_loop",
            oldest_python=(3, 14),
        ),
        LoopSpec("uringloop-aiofastnet", "uringloop", {"fdmon": "io_uring"}, on_aiofastnet=True),
        LoopSpec("uvloop-aiofastnet", "uvloop", on_aiofastnet=True),
    )
}

# Not in "all": the same polling with another limit, such as "uringloop-polling:50000", and with one time for the whole
# loop, for comparison.
SHARED = replace(LOOPS["uringloop-polling"], name="uringloop-polling-shared", shares_polled_event=True)

# Nor these, for the cases gc/*.
COLLECTING = {
    spec.name: spec
    for spec in (
        replace(LOOPS["uringloop"], name="uringloop-gc", collects="policy"),
        replace(LOOPS["uringloop-epoll"], name="uringloop-epoll-gc", collects="policy"),
        replace(LOOPS["uringloop"], name="uringloop-frozen", collects="frozen"),
    )
}

# Nor these, in which a GLib main loop runs the process; they need PyGObject, the last one version 3.50.
IN_GLIB = {
    spec.name: spec
    for spec in (
        LoopSpec("uringloop-glib", "uringloop.glib", {"fdmon": "io_uring"}, distribution="uringloop"),
        LoopSpec("uringloop-glib-epoll", "uringloop.glib", {"fdmon": "epoll"}, distribution="uringloop"),
        LoopSpec("uringloop-glib-poll", "uringloop.glib", {"fdmon": "poll"}, distribution="uringloop"),
        LoopSpec("gi-events", "gi.events", distribution="PyGObject"),
    )
}

BASELINE = "uvloop"


# Nor the servers in C of limits.py, which are no loops.
LIMITS = {name: LoopSpec(name, None) for name in limits.SOURCES}


def spec_of(name: str) -> LoopSpec:
    """Raises ValueError for an unknown name."""
    if limits.is_limit(name):
        return replace(LIMITS[name.partition(":")[0]], name=name)
    if name in LOOPS:
        return LOOPS[name]
    if name == SHARED.name:
        return SHARED
    if name in COLLECTING:
        return COLLECTING[name]
    if name in IN_GLIB:
        return IN_GLIB[name]
    base, _, number = name.partition(":")
    if base == "uringloop-polling" and number.isdecimal():
        return replace(LOOPS[base], name=name, poll_max_ns=int(number))
    raise ValueError(
        f"unknown loop {name!r}; known: {', '.join([*LOOPS, *COLLECTING, *IN_GLIB, *LIMITS])}, {SHARED.name}, "
        f"uringloop-polling:NS"
    )


def set_polling(loop: asyncio.AbstractEventLoop, spec: LoopSpec, is_on: bool = True) -> None:
    """Set adaptive polling according to *spec*, or switch it off."""
    if spec.poll_max_ns is None:
        return
    loop.set_poll_params(spec.poll_max_ns if is_on else 0)  # type: ignore[attr-defined]
    if is_on and spec.shares_polled_event:
        if str(REPOSITORY / "tests") not in sys.path:
            sys.path.append(str(REPOSITORY / "tests"))  # where `make drivers` builds internal modules
        importlib.import_module("drivers.core").share_polled_event(loop.aio_context)  # type: ignore[attr-defined]


def new_event_loop(name: str) -> asyncio.AbstractEventLoop:
    """Make the loop called *name*; raises ImportError or whatever its constructor raises."""
    spec = spec_of(name)
    if spec.module is None:
        return asyncio.new_event_loop()
    if spec.oldest_python and sys.version_info < spec.oldest_python:
        raise ImportError(f"needs Python {'.'.join(map(str, spec.oldest_python))}")
    module = importlib.import_module(spec.module)
    if spec.module == "gi.events":
        return module.GLibEventLoop(_glib().MainContext.default())
    loop = getattr(module, spec.factory)(**spec.options)
    wanted = spec.options.get("fdmon")
    if wanted is not None and loop.fdmon != wanted:
        # After a silent fallback epoll's figures would be published under io_uring's name.
        raise RuntimeError(f"requested fdmon={wanted!r}, got {loop.fdmon!r}")
    set_polling(loop, spec)
    return importlib.import_module("aiofastnet").loop_factory(lambda: loop)() if spec.on_aiofastnet else loop


def _glib() -> Any:
    return importlib.import_module("gi.repository.GLib")


def run_forever(name: str, loop: asyncio.AbstractEventLoop) -> None:
    """Run the loop called *name* as an application would: one in GLib runs in a GLib.MainLoop."""
    if name in IN_GLIB and spec_of(name).module == "uringloop.glib":
        _glib().MainLoop().run()
    else:
        loop.run_forever()  # gi.events runs a GLib.MainLoop inside


def version_of(spec: LoopSpec) -> str:
    """The version of the package behind *spec*."""
    if spec.module is None:
        return sys.version.split()[0]
    try:
        return importlib.metadata.version(spec.distribution or spec.module)
    except importlib.metadata.PackageNotFoundError:
        package = importlib.import_module(spec.module.partition(".")[0])
        return str(getattr(package, "__version__", "unknown"))


def probe(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Try each named loop in its own process: name -> {"version": ...} or {"error": ...}."""
    found: dict[str, dict[str, str]] = {}
    for name in names:
        if limits.is_limit(name):
            found[name] = limits.probe(name)
            continue
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
    return {"version": version_of(spec_of(name))}


if __name__ == "__main__":
    print(json.dumps(_probe_here(sys.argv[1])))

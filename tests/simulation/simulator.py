"""Simulated runs: a process whose kernel is kernel.c, with faults and schedules from a seed.

A run is described by its Settings alone: the same ones give the same events, byte for byte (Result.digest).
"""

import ctypes
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import platform
import random
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

FOLDER = pathlib.Path(__file__).parent
ROOT = FOLDER.parent.parent
INCLUDES = [ROOT / "third_party" / "liburing-config", ROOT / "third_party" / "liburing" / "src" / "include"]
SECONDS = 120  # of real time: a run that takes longer is busy without end
BROKEN = 97  # kernel.c: STATUS_BROKEN
ADDR_NO_RANDOMIZE = 0x0040000  # <sys/personality.h>
IN_65536THS = (100, 2000, 12_000)  # how often a fault happens

# As in faults.h.
FAULTS = tuple(re.findall(r"^    FAULT_(\w+),", (FOLDER / "faults.h").read_text(), re.MULTILINE))


@dataclasses.dataclass(frozen=True)
class Settings:
    """One run.

    odds: fault -> how often it happens where it may, in 65536ths.
    n_clients: connections at the same time.
    hours: of virtual time.
    think_s: between two messages of a connection, in the mean.
    planted: a bug of the kernel, for the tests of the simulation; see kernel.c: sim_plant().
    """

    seed: int
    monitor: str
    odds: dict[str, int]
    n_clients: int = 20
    hours: float = 5.0
    think_s: float = 600.0
    planted: str = ""

    def command(self) -> str:
        """What runs it again."""
        return f"python -m tests.simulation --replay {shlex.quote(json.dumps(dataclasses.asdict(self)))}"


@dataclasses.dataclass
class Result:
    """What a run gave; `failure` is None after a good one."""

    failure: str | None
    digest: str = ""
    counts: dict[str, float] = dataclasses.field(default_factory=dict)
    seen: list[list[int]] = dataclasses.field(
        default_factory=list
    )  # by client: after each connection, all until then


def missing() -> str | None:
    """Why there are no simulated runs here, if so."""
    if platform.machine() != "x86_64":
        return "the simulated kernel knows the registers of x86-64 only"
    if not shutil.which("cc"):
        return "needs a C compiler"
    if os.environ.get("LD_PRELOAD"):
        return "another library is preloaded"
    return None


@functools.cache
def library() -> pathlib.Path:
    """The compiled kernel.c, below build/."""
    sources = [FOLDER / "kernel.c", FOLDER / "faults.h"]
    name = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]
    built = ROOT / "build" / "simulation" / f"kernel-{name}.so"
    if not built.exists():
        built.parent.mkdir(parents=True, exist_ok=True)
        unfinished = built.with_suffix(f".{os.getpid()}")
        command = [
            "cc",
            "-O2",
            "-g",
            "-Wall",
            "-Wextra",
            "-shared",
            "-fPIC",
            *(f"-I{path}" for path in INCLUDES),
        ]
        subprocess.run([*command, "-o", unfinished, sources[0]], check=True)
        unfinished.replace(built)
    return built


def settings_of(seed: int, monitor: str, **sizes: Any) -> Settings:
    """The faults that a seed chooses: each one often, rarely or not at all, so that runs differ in kind."""
    chosen = random.Random(seed)
    odds = {name: chosen.choice(IN_65536THS) for name in FAULTS if chosen.random() < 0.6}
    return Settings(seed, monitor, odds, **sizes)


def _fixed_addresses() -> None:
    ctypes.CDLL(None).personality(ADDR_NO_RANDOMIZE)  # where it is refused, only replays may differ


def run(settings: Settings, *, trace: bool = False, seconds: float = SECONDS) -> Result:
    """Run it in a process of its own; `trace` reports each event on stderr."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("URINGLOOP_")}
    environment |= {
        "LD_PRELOAD": str(library()),
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT)]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "SIMULATION": json.dumps(dataclasses.asdict(settings) | {"trace": trace}),
    }
    command = [sys.executable, "-X", "faulthandler", "-m", "simulation.world"]
    try:
        done = subprocess.run(
            command,
            env=environment,
            cwd=ROOT / "tests",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            preexec_fn=_fixed_addresses,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return Result(f"busy for {seconds:g} s\n{(error.stderr or b'')[-3000:].decode(errors='replace')}")
    if done.returncode == 0:
        found = json.loads(done.stdout.splitlines()[-1])
        return Result(None, found.pop("digest"), seen=found.pop("seen"), counts=found)
    return Result(
        f"exit status {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-200000 if trace else -4000 :]}"
    )


def shrunk(settings: Settings, say: Callable[[str], object] = print) -> Settings:
    """The smallest run found that still fails: shorter, with fewer clients, without faults that it does not need."""
    smallest = settings
    changed = True
    while changed:
        changed = False
        smaller = [
            dataclasses.replace(smallest, odds={k: v for k, v in smallest.odds.items() if k != name})
            for name in smallest.odds
        ]
        if smallest.n_clients > 1:
            smaller.insert(0, dataclasses.replace(smallest, n_clients=smallest.n_clients // 2))
        if smallest.hours > 0.01:
            smaller.insert(0, dataclasses.replace(smallest, hours=smallest.hours / 2))
        for one in smaller:
            if run(one).failure:
                say(
                    f"still fails with {one.n_clients} clients, {one.hours:g} hours, faults {' '.join(one.odds)}"
                )
                smallest, changed = one, True
                break
    return smallest

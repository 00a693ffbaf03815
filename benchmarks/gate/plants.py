"""Does the gate find what it should? Slow-downs of 3 % are planted in copies of the package:

    python -m benchmarks.gate.plants [--times 3] [NAME ...]

Each copy gets a loop of volatile work at one place, is built below build/gate, and is given to the gate, which has to
exit with 1 and name the path, on each monitor, each time. Exits with 1 if it does not. Only that path is counted.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gate import paths, reference
from benchmarks.gate.counting import FOLDER, CannotMeasure
from benchmarks.machine import REPOSITORY, say

SHARE = 0.03
INSTRUCTIONS = 5  # of a round of the loop: load, add, store, decrement, jump
WORK = '''cdef extern from *:
    """
    static volatile unsigned ul_planted;
    static void ul_plant(unsigned n)
    {
        _Pragma("GCC unroll 1")
        for (unsigned i = n; i; i--)
            ul_planted += i;
    }
    """
    void ul_plant(unsigned n) noexcept nogil


'''


@dataclass(frozen=True)
class Plant:
    """path: what must be found, without its monitor. before: the line of source before which the work is inserted."""

    path: str
    source: str
    before: str


PLANTS = {
    "call_soon": Plant(
        "call_soon/chain",
        "uringloop/eventloop/base/loop_core.pyx",
        "    fill_handle(loop, handle, args, n_args, names)\n    loop.aio_context.ready.push(handle)\n",
    ),
    "data_received": Plant(
        "protocol/data_received",
        "uringloop/transports/stream/transport.pyx",
        "        result = PyObject_CallMethodOneArg(protocol, received_name, data)\n",
    ),
    "write": Plant(
        "transport/write",
        "uringloop/transports/stream/transport.pyx",
        "        if PyBytes_GET_SIZE(data) != 0:\n            self.write_chunk(<bytes>data)\n",
    ),
    "accept": Plant(
        "server/accept",
        "uringloop/transports/stream/endpoint.pyx",
        "        if kind.proto == IPPROTO_TCP:\n            ul_no_delay(connection.fd)",
    ),
}


def planted(text: str, before: str, n_rounds: int) -> str:
    """The source with work before the line. Raises ValueError if the line is not there once."""
    if f"\n{text}".count(f"\n{before}") != 1:
        raise ValueError(f"{before!r} is not there once, as whole lines")
    indent = before[: len(before) - len(before.lstrip())]
    text = text.replace(before, f"{indent}ul_plant({n_rounds})\n{before}")
    first = re.search(r"^(?:@|cdef class )", text, re.MULTILINE)
    if first is None:
        raise ValueError("the source has no class")
    return text[: first.start()] + WORK + text[first.start() :]


def build(name: str, plant: Plant) -> Path:
    """A copy of the checkout with the plant, built."""
    folder = FOLDER / f"plant-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for entry in (
        *reference.SOURCES,
        "pyproject.toml",
        "README.md",
        "uringloop.pth",
        "_uringloop_startup.py",
    ):
        if (REPOSITORY / entry).is_dir():
            skipped = shutil.ignore_patterns("*.so", "__pycache__")
            shutil.copytree(REPOSITORY / entry, folder / entry, ignore=skipped, copy_function=shutil.copyfile)
        else:
            shutil.copyfile(REPOSITORY / entry, folder / entry)
    counts = reference.load()["counts"]
    whole = min(counts[f"{plant.path}/{monitor}"]["instructions"] for monitor in paths.MONITORS)
    source = folder / plant.source
    source.write_text(planted(source.read_text(), plant.before, round(SHARE * whole / INSTRUCTIONS)))
    reference.seed(folder, REPOSITORY)
    reference.build_in(folder)
    return folder


def is_found(plant: Plant, folder: Path) -> bool:
    """Run the gate on *folder*, and print what it prints about the path."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "gate", "--tree", str(folder), "--paths", f"{plant.path}/*"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )
    rows = [line for line in done.stdout.splitlines() if plant.path in line or line.startswith("SLOWER")]
    print("\n".join(rows), flush=True)
    named = [f"SLOWER: {plant.path}/{monitor}:" in done.stdout for monitor in paths.MONITORS]
    return done.returncode == 1 and all(named)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--times", type=int, default=3, help="runs of the gate for each plant (default: 3)")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PLANTS)} (default: all)")
    options = parser.parse_args()
    n_missed = 0
    try:
        for name in options.names or PLANTS:
            folder = build(name, PLANTS[name])
            for time in range(options.times):
                found = is_found(PLANTS[name], folder)
                print(f"{name}, run {time + 1}: {'found' if found else 'MISSED'}", flush=True)
                n_missed += not found
    except CannotMeasure as error:
        say(f"plants: {error}")
        return 2
    print(f"{n_missed} missed")
    return 1 if n_missed else 0


if __name__ == "__main__":
    sys.exit(main())

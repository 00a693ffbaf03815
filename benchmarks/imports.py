"""What `import uringloop` costs, beside `import uvloop`; both import asyncio, too.

    python -m benchmarks.imports [--rounds 20]

Each sample is a whole process, `python -c CODE`, whose CPU time (user and system) the kernel reports; the codes take
turns, after one round that does not count. `net` is without the interpreter's own start, `own` without asyncio, too.
The ratio of `net` must be 2.0 at most. Run it with an interpreter into which both packages are installed from wheels:
an editable install adds its finder to each start, and an interpreter that writes no bytecode compiles at each import.

As the cases `imports/import` and `imports/first_loop` of `run`, each loop is measured by itself: the figure is `net`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time

from benchmarks.loops import spec_of

EMPTY, ASYNCIO, UVLOOP, OURS = "pass", "import asyncio", "import uvloop", "import uringloop"
FIRST_LOOP = "; {}.new_event_loop().close()"
CODES = (
    EMPTY,
    ASYNCIO,
    UVLOOP,
    OURS,
    UVLOOP + FIRST_LOOP.format("uvloop"),
    OURS + FIRST_LOOP.format("uringloop"),
)
MOST = 2.0


def cpu_ms(code: str) -> float:
    """CPU time of a process that runs this code."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", code], environment)
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise RuntimeError(f"{code!r} failed: exit status {os.waitstatus_to_exitcode(status)}")
    return (usage.ru_utime + usage.ru_stime) * 1e3


# name -> whether the code makes and closes a loop, too
IMPORTS = {"import": False, "first_loop": True}
ROUNDS = 10


def measure_import(loop_name: str, case: str, scale: float) -> dict[str, float]:
    """Nanoseconds of CPU and of wall time beyond the interpreter's own start, medians over processes."""
    spec = spec_of(loop_name)
    module = spec.module or "asyncio"
    code = f"import {module}"
    if IMPORTS[case]:
        arguments = ", ".join(f"{key}={value!r}" for key, value in spec.options.items())
        code += f"; {module}.{spec.factory}({arguments}).close()"
    samples: dict[str, list[tuple[float, float]]] = {EMPTY: [], code: []}
    n_rounds = max(3, round(ROUNDS * scale))
    for turn in range(n_rounds + 1):
        for each, taken in samples.items():
            started = time.perf_counter()
            cpu = cpu_ms(each)
            if turn:  # the first one writes bytecode
                taken.append((cpu, (time.perf_counter() - started) * 1e3))
    cpu, wall = (
        statistics.median(sample[i] for sample in samples[code])
        - statistics.median(sample[i] for sample in samples[EMPTY])
        for i in (0, 1)
    )
    return {"operations": n_rounds, "wall_ns": wall * 1e6, "cpu_ns": cpu * 1e6}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    samples: dict[str, list[float]] = {code: [] for code in CODES}
    for turn in range(options.rounds + 1):
        for code, taken in samples.items():
            sample = cpu_ms(code)
            if turn:  # the first one writes bytecode
                taken.append(sample)
    medians = {code: statistics.median(taken) for code, taken in samples.items()}
    print("  whole      net      own   ms of CPU, median of", options.rounds)
    for code, whole in medians.items():
        print(f"{whole:7.1f}  {whole - medians[EMPTY]:7.1f}  {whole - medians[ASYNCIO]:7.1f}   {code}")
    ratio = (medians[OURS] - medians[EMPTY]) / (medians[UVLOOP] - medians[EMPTY])
    print(
        f"uringloop / uvloop: whole {medians[OURS] / medians[UVLOOP]:.2f}, net {ratio:.2f}, at most {MOST} wanted"
    )
    return 0 if ratio <= MOST else 1


if __name__ == "__main__":
    raise SystemExit(main())

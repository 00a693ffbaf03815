"""Runs the paths under callgrind and returns what an operation of each takes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.gate import callgrind, fingerprint, paths
from benchmarks.gate.verdict import Counts, per_operation
from benchmarks.machine import REPOSITORY, say

FOLDER = REPOSITORY / "build" / "gate"
LIMIT_S = 900  # against hangs; it takes about a minute
KEPT = ("LD_LIBRARY_PATH", "TMPDIR")


class CannotMeasure(Exception):
    """The text has the reason and the remedy."""


def check_tools() -> None:
    for program, package in (
        ("valgrind", "valgrind"),
        ("cc", "gcc"),
        ("readelf", "binutils"),
        ("setarch", "util-linux"),
    ):
        if shutil.which(program) is None:
            raise CannotMeasure(f"{program} is missing: install the package {package}")


def _requests() -> Path:
    """requests.c, compiled at first use."""
    source = Path(__file__).with_name("requests.c")
    library = FOLDER / f"requests-{fingerprint.digest(source.read_bytes())}.so"
    if not library.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        made = library.with_suffix(f".{os.getpid()}")
        done = subprocess.run(
            ["cc", "-O2", "-shared", "-fPIC", "-o", str(made), str(source)], capture_output=True, text=True
        )
        if done.returncode:
            raise CannotMeasure(
                f"requests.c does not compile (valgrind's headers are missing?): {done.stderr}"
            )
        made.replace(library)
    return library


def environment() -> dict[str, str]:
    """As little as possible, and the same everywhere: no setting of ours, of Python's or of malloc's."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return kept | {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0"}


def _command(tree: Path, output: str, names: list[str], layout: int) -> list[str]:
    return [
        *("setarch", "-R"),  # the same addresses in each run: sets and dicts of objects are ordered by them
        *("valgrind", "-q", "--tool=callgrind", "--instr-atstart=no", "--collect-systime=yes"),
        f"--callgrind-out-file={output}/%p",
        *(sys.executable, "-S", "-P", str(Path(paths.__file__))),
        *("--tree", str(tree), "--requests", str(_requests()), "--layout", str(layout)),
        *names,
    ]


def _run(command: list[str], log: Path, n: int) -> list[str]:
    """Run to the end; returns the names of paths that failed."""
    failed = []
    with open(log, "w") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment(),
            process_group=0,
        )
        previous = signal.signal(signal.SIGALRM, lambda *_: os.killpg(process.pid, signal.SIGKILL))
        signal.alarm(LIMIT_S)
        try:
            assert process.stdout is not None
            for number, line in enumerate(process.stdout, 1):
                name, status = line.split()
                say(f"  {number}/{n} {name}")
                if status != "0":
                    failed.append(name)
            if process.wait() != 0:
                failed.append("the process of all paths")
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, previous)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return failed


def _dumps(folder: str, tree: Path) -> Iterator[callgrind.Dump]:
    ours = f"{tree}/uringloop/"
    for file in Path(folder).iterdir():
        dump = callgrind.parse(file.read_text(), lambda name: name.startswith(ours))
        if dump is not None:
            yield dump


def count(tree: Path, names: list[str], layout: int = 0) -> dict[str, Counts]:
    """What an operation of each path takes with the package in *tree*. Raises CannotMeasure.

    layout: another number puts Python's objects at other addresses, by which the counts differ a little.
    """
    tree = tree.resolve()
    log = FOLDER / "count.log"
    with tempfile.TemporaryDirectory(prefix="uringloop-gate-") as folder:
        failed = _run(_command(tree, folder, names, layout), log, len(names))
        if failed:
            raise CannotMeasure(f"failed: {', '.join(failed)}; {log}:\n{log.read_text()[-4000:]}")
        sizes = {name: paths.PATHS[name.rpartition("/")[0]].n for name in names}
        return per_operation(_dumps(folder, tree), sizes)

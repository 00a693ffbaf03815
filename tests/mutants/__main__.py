"""Plant bugs, one at a time, and show that the tests notice each: python -m tests.mutants [--only NAME ...] [--list].

mutants.toml lists them. The checkout must be built (make drivers); it is not changed: the bugs are planted in a copy of
it, in build/mutants. Of a mutant only the changed module is compiled, and only the tests that its row names are run,
each of which passes before the first bug is planted. A test that fails, crashes or hangs has noticed the bug.
"""

import argparse
import collections
import fnmatch
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from .table import ROOT, Mutant, read

COPY = ROOT / "build" / "mutants"
RUNNING_TEST = COPY / "build" / "running-test.txt"  # tests/conftest.py writes it

HANGS_AFTER_S = 100  # the tests of a mutant take seconds; tests/conftest.py ends one that takes a minute


class NotRunnable(Exception):
    """A mutant that does not compile, or tests that cannot be run: it proves nothing."""


def left_out(folder: str, names: list[str]) -> set[str]:
    ignored = {".git", ".venv", "dist", "__pycache__", ".hypothesis"}
    if pathlib.Path(folder) == ROOT:
        ignored |= {
            "build",
            *(name for name in names if name.startswith((".venv", ".mypy", ".ruff", ".pytest"))),
        }
    return ignored & set(names)


def make_copy() -> None:
    """The checkout with what was built from it, so that a build compiles no more than what changes."""
    shutil.rmtree(COPY, ignore_errors=True)
    shutil.copytree(ROOT, COPY, symlinks=True, ignore=left_out)
    shutil.copytree(ROOT / "build" / "cython", COPY / "build" / "cython")
    for module in (COPY / "uringloop").rglob("*.so"):
        built = COPY / "build" / "lib" / module.relative_to(COPY)
        built.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(module, built)


def command(*arguments: str, limit_s: float | None = None) -> tuple[int | None, str]:
    """Run Python in the copy, which it imports: its exit status, None if it was ended at the limit, and its output."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=COPY,
        env={**os.environ, "PYTHONPATH": str(COPY), "PYTHONFAULTHANDLER": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        process_group=0,
    )
    try:
        output, _ = process.communicate(timeout=limit_s)
        return process.returncode, output
    except subprocess.TimeoutExpired:
        return None, ""
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)  # with what the tests have started
        except ProcessLookupError:
            pass
        process.wait()


def build() -> None:
    """Compile what has changed since the last build: the module with the bug, and the one that had the last."""
    status, output = command(
        "setup.py", "build_ext", "--inplace", "--build-lib", "build/lib", "--build-temp", "build/temp"
    )
    if status:
        raise NotRunnable("it does not compile:\n" + output[-3000:])


def check_imports() -> None:
    status, output = command("-c", "import uringloop.policy; print(uringloop.policy.__file__)")
    if status or not output.startswith(str(COPY)):
        raise NotRunnable(f"the tests would run against another uringloop: {output}")


def run_tests(tests: Sequence[str], monitor: str | None, limit_s: float | None = None) -> str | None:
    """The test that fails, or in which the run ends; None if all pass."""
    RUNNING_TEST.unlink(missing_ok=True)
    arguments = [*tests, *(["--monitor", monitor] if monitor else [])]
    status, output = command(
        "-m", "pytest", "-q", "-x", "--tb=no", "-p", "no:cacheprovider", *arguments, limit_s=limit_s
    )
    if status == 0:
        if not re.search(r"\b[1-9]\d* passed\b", output):
            raise NotRunnable(f"all of its tests are skipped:\n{output[-3000:]}")
        return None
    if status == 1 and (failed := re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", output, re.MULTILINE)):
        return failed[1]
    if RUNNING_TEST.exists():
        is_hanging = status is None or "Timeout (" in output  # the second as faulthandler reports it
        return f"{RUNNING_TEST.read_text().strip()} ({'hangs' if is_hanging else 'crashes'})"
    raise NotRunnable(f"pytest ends with {status}, outside of the tests:\n{output[-3000:]}")


def check_without_bugs(mutants: list[Mutant]) -> None:
    """Run the tests of all of them, for each monitor at once."""
    groups: dict[str | None, dict[str, None]] = {}
    for mutant in mutants:
        groups.setdefault(mutant.monitor, {}).update(dict.fromkeys(mutant.tests))
    for monitor, tests in groups.items():
        print(f"without a bug: {len(tests)} tests or files on {monitor or 'each monitor'}", flush=True)
        if failed := run_tests([*tests], monitor):
            raise NotRunnable(f"{failed} fails without a bug")


def verdict(mutant: Mutant) -> str:
    """Plant the bug and run its tests: "caught by ...", "SURVIVED" or "NOT RUNNABLE: ..."."""
    path = COPY / mutant.file
    original = path.read_text()
    path.write_text(mutant.applied_to(original))
    try:
        if path.suffix == ".pyx":
            build()
        caught_by = run_tests(mutant.tests, mutant.monitor, HANGS_AFTER_S)
        return f"caught by {caught_by}" if caught_by else "SURVIVED"
    except NotRunnable as error:
        return f"NOT RUNNABLE: {error}"
    finally:
        path.write_text(original)  # newer than what was compiled from it: the next build compiles it again


def chosen(mutants: list[Mutant], patterns: list[str]) -> list[Mutant]:
    names = [mutant.name for mutant in mutants]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            sys.exit(f"no mutant is called {pattern}; --list lists them")
    return [one for one in mutants if any(fnmatch.fnmatch(one.name, pattern) for pattern in patterns)]


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.mutants", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", default=["*"], metavar="NAME", help="these, with * and ?")
    parser.add_argument("--list", action="store_true", help="list them, and plant nothing")
    options = parser.parse_args()
    mutants = chosen(read(), options.only)
    if options.list:
        print("\n".join(f"{mutant.name:40} {mutant.file}: {mutant.breaks}" for mutant in mutants))
        return 0
    if problems := [f"{one.name}: {problem}" for one in mutants if (problem := one.problem())]:
        sys.exit("\n".join(problems))

    started = time.monotonic()
    try:
        make_copy()
        build()
        check_imports()
        check_without_bugs(mutants)
    except NotRunnable as error:
        sys.exit(str(error))
    results = collections.Counter[str]()
    for number, mutant in enumerate(mutants, 1):
        print(f"{number:2} of {len(mutants)}  {mutant.name:40} ", end="", flush=True)
        found = verdict(mutant)
        results[found.split(" ")[0]] += 1
        print(found, flush=True)
    print(f"{results['caught']} of {len(mutants)} caught in {time.monotonic() - started:.0f} s")
    return int(results["caught"] != len(mutants))


if __name__ == "__main__":
    sys.exit(main())

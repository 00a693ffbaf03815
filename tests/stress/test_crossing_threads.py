"""Loops in threads that call each other all the time; for a Python without a GIL above all."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.helpers import STOCK

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("extra", [(), ("--misuse",)], ids=["allowed", "misuse"])
def test_loops_in_threads_call_each_other(monitor, extra):
    if monitor == STOCK and not getattr(sys, "_is_gil_enabled", lambda: True)():
        pytest.skip(
            "without a GIL stock asyncio loses connections that the collector finds in another thread"
        )
    options = ["--monitor", monitor, "--threads", "4", "--seconds", "5", "--seed", "1", *extra]
    command = [
        sys.executable,
        *subprocess._args_from_interpreter_flags(),
        "-m",
        "tests.stress.crossing_threads",
    ]
    ended = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for name in ("call", "connect", "flood", "bottom_half", *(("misuse",) if extra else ())):
        assert f" {name}\n" in ended.stdout

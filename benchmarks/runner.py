"""Runs cases: loops take turns in every round, each sample in fresh processes; saves results after each case."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import client
from benchmarks.cases import Case
from benchmarks.machine import REPOSITORY, child_environment, say

FORMAT = 1
MICRO_TIMEOUT_S = 120


@dataclass(frozen=True)
class Settings:
    """rounds and seconds as on the command line; scale: factor for the operations of micro-benchmarks."""

    rounds: int
    seconds: float
    warmup_s: float
    scale: float
    counts_syscalls: bool
    cpus: tuple[int, int]


def measure_micro(case: Case, loop: str, settings: Settings) -> dict[str, Any]:
    """One process of benchmarks.micro."""
    command = [sys.executable, "-m", "benchmarks.micro", "--loop", loop, "--case", case.name.split("/")[1]]
    command += ["--scale", str(settings.scale), "--cpu", str(settings.cpus[0])]
    command += ["--lifetime-s", str(MICRO_TIMEOUT_S)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=MICRO_TIMEOUT_S + 5,
            cwd=REPOSITORY,
            env=child_environment(),
        )
    except subprocess.TimeoutExpired:
        raise client.SampleFailed(f"not finished within {MICRO_TIMEOUT_S} s") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise client.SampleFailed(f"exit status {done.returncode}: {last}")
    result = json.loads(done.stdout)
    return {**result, "rate": 1e9 / result["wall_ns"]}


def _sample(case: Case, loop: str, settings: Settings) -> dict[str, Any]:
    try:
        if case.kind == "micro":
            return measure_micro(case, loop, settings)
        return client.measure(case, loop, settings.seconds, settings.warmup_s, settings.cpus)
    except client.SampleFailed as failure:
        return {"error": str(failure)}


def _brief(loop: str, sample: dict[str, Any]) -> str:
    if "error" in sample:
        return f"{loop} FAILED ({sample['error']})"
    return f"{loop} {sample['cpu_ns'] / 1000:.2f} us, {sample['rate']:,.0f}/s"


def run_case(case: Case, loops: Sequence[str], settings: Settings, label: str) -> dict[str, Any]:
    """All rounds of one case. A loop that failed twice is left out, since a failure may take a long timeout."""
    rounds: list[dict[str, Any]] = []
    failures = dict.fromkeys(loops, 0)
    for number in range(settings.rounds):
        samples: dict[str, Any] = {}
        for loop in loops:
            if failures[loop] >= 2:
                continue
            samples[loop] = _sample(case, loop, settings)
            failures[loop] += "error" in samples[loop]
        rounds.append(samples)
        texts = "; ".join(_brief(loop, sample) for loop, sample in samples.items())
        say(f"{label} {case.name} round {number + 1}/{settings.rounds}: {texts}")
    result: dict[str, Any] = {"name": case.name, "rounds": rounds, "syscalls": {}}
    if case.kind == "traffic" and settings.counts_syscalls:
        seconds = min(0.5, settings.seconds)
        for loop in loops:
            if failures[loop] < 2:
                result["syscalls"][loop] = client.count_syscalls(case, loop, seconds, settings.cpus)
    return result


def estimate_s(cases: Sequence[Case], n_loops: int, settings: Settings) -> float:
    """The approximate duration of a run, for the first line of progress."""
    per_traffic_s = (settings.seconds + settings.warmup_s + 0.45) * settings.rounds
    per_traffic_s += 1.3 if settings.counts_syscalls else 0
    n_traffic = sum(case.kind == "traffic" for case in cases)
    return n_loops * (n_traffic * per_traffic_s + (len(cases) - n_traffic) * settings.rounds * 0.9)


def save(document: dict[str, Any], path: Path) -> None:
    """Replace *path* as a whole, so that an interrupted run leaves the finished cases readable."""
    unfinished = path.with_name(path.name + f".{os.getpid()}")
    unfinished.write_text(json.dumps(document, indent=1) + "\n")
    unfinished.replace(path)


def run(
    cases: Sequence[Case],
    loops: Sequence[str],
    settings: Settings,
    document: dict[str, Any],
    path: Path | None,
) -> None:
    """Fill ``document["cases"]``."""
    if any(case.kind == "traffic" for case in cases):
        client.build_loadgen()
    expected_s = estimate_s(cases, len(loops), settings)
    say(f"{len(cases)} cases, loops {', '.join(loops)}: about {expected_s / 60:.1f} minutes")
    begin_s = time.monotonic()
    for number, case in enumerate(cases, 1):
        label = f"[{number}/{len(cases)}, {time.monotonic() - begin_s:.0f} s]"
        document["cases"].append(run_case(case, loops, settings, label))
        if path:
            save(document, path)

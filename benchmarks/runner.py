"""Runs cases: loops take turns in every round, each sample in fresh processes; saves results after each case."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import client, limits
from benchmarks.applications import measuring, table, wrk
from benchmarks.cases import Case, is_for
from benchmarks.loops import BASELINE
from benchmarks.machine import busy_cpu_ns, children_cpu_ns, say

FORMAT = 1
Plan = Sequence[tuple[Case, Sequence[str]]]  # each case with the loops that take turns in it
MICRO_TIMEOUT_S = 120


@dataclass(frozen=True)
class Settings:
    """rounds and seconds as on the command line; scale: factor for the operations of micro-benchmarks.

    most_foreign: a round in which other processes take a larger share of the measured CPUs is repeated.
    """

    rounds: int
    seconds: float
    warmup_s: float
    scale: float
    counts_syscalls: bool
    cpus: tuple[int, int]
    most_foreign: float = 0.05


def measure_micro(case: Case, loop: str, settings: Settings) -> dict[str, Any]:
    """One process of benchmarks.micro."""
    arguments = ["--loop", loop, "--case", case.name.split("/")[1], "--scale", str(settings.scale)]
    arguments += ["--cpu", str(settings.cpus[0]), "--lifetime-s", str(MICRO_TIMEOUT_S)]
    begin_ns, busy_ns, ours_ns = time.monotonic_ns(), busy_cpu_ns(settings.cpus[:1]), children_cpu_ns()
    result = client.run_module("benchmarks.micro", arguments, MICRO_TIMEOUT_S + 5)
    others_ns = busy_cpu_ns(settings.cpus[:1]) - busy_ns - (children_cpu_ns() - ours_ns)
    if case.group == "micro":  # the others use more CPUs, or leave work to the kernel's threads
        result["others_busy"] = max(0.0, others_ns / (time.monotonic_ns() - begin_ns))
    return {**result, "rate": 1e9 / result["wall_ns"]}


def _sample(case: Case, loop: str, settings: Settings) -> dict[str, Any]:
    try:
        if case.kind == "micro":
            return measure_micro(case, loop, settings)
        if case.kind == "app":
            return measuring.measure(case, loop, settings.seconds, settings.warmup_s, settings.cpus)
        return client.measure(case, loop, settings.seconds, settings.warmup_s, settings.cpus)
    except client.SampleFailed as failure:
        return {"error": str(failure)}


def _brief(loop: str, sample: dict[str, Any]) -> str:
    if "error" in sample:
        return f"{loop} FAILED ({sample['error']})"
    return f"{loop} {sample['cpu_ns'] / 1000:.2f} us, {sample['rate']:,.0f}/s"


def foreign_share(samples: dict[str, Any], n_cpus: int) -> float:
    """The share of the measured CPUs that other processes took in a round; 0 if it was not measured."""
    loads = [sample["others_busy"] for sample in samples.values() if "others_busy" in sample]
    return sum(loads) / len(loads) / n_cpus if loads else 0.0


def choose_rounds(shares: Sequence[float], n_rounds: int, most_foreign: float) -> list[int]:
    """The places of the rounds to keep: the quiet ones, and the least disturbed of the others if they are too few."""
    by_load = sorted(range(len(shares)), key=lambda i: (shares[i] > most_foreign, shares[i]))
    quiet = [i for i, share in enumerate(shares) if share <= most_foreign]
    return quiet[:n_rounds] if len(quiet) >= n_rounds else sorted(by_load[:n_rounds])


def run_rounds(
    measure_round: Callable[[int], dict[str, Any]], settings: Settings, n_cpus: int
) -> tuple[list[dict[str, Any]], int, int]:
    """(rounds, how many were repeated, how many of the kept ones are disturbed all the same).

    A disturbed round is repeated, until there were twice as many rounds as wanted.
    """
    rounds: list[dict[str, Any]] = []
    shares: list[float] = []
    n_quiet = 0
    while n_quiet < settings.rounds and len(rounds) < 2 * settings.rounds:
        rounds.append(measure_round(len(rounds)))
        shares.append(foreign_share(rounds[-1], n_cpus))
        n_quiet += shares[-1] <= settings.most_foreign
    kept = choose_rounds(shares, settings.rounds, settings.most_foreign)
    return [rounds[i] for i in kept], len(rounds) - len(kept), max(0, settings.rounds - n_quiet)


def offer(case: Case, baseline: str, settings: Settings) -> tuple[Case, dict[str, Any]]:
    """(the case with its rate, what the result says of it): its share of the baseline's closed-loop maximum."""
    closed = replace(case, mode="echo")
    rates = [client.measure(closed, baseline, settings.seconds, settings.warmup_s, settings.cpus)["rate"]
             for _ in range(min(3, settings.rounds))]  # fmt: skip
    maximum = statistics.median(rates)
    offered = round(case.offered_share * maximum)
    say(f"{case.name}: {baseline} answers {maximum:,.0f}/s at most; {offered:,}/s are offered to each loop")
    return replace(case, rate_per_s=offered), {
        "offered_per_s": offered,
        "maximum_per_s": maximum,
        "maximum_of": baseline,
    }


def run_case(
    case: Case, loops: Sequence[str], settings: Settings, label: str, baseline: str = BASELINE
) -> dict[str, Any]:
    """All rounds of one case. A loop that failed twice is left out, since a failure may take a long timeout."""
    application = measuring.application_of(case) if case.kind == "app" else None
    if application and (reason := table.missing(application)):
        say(f"{label} {case.name} is left out: {reason}")
        return {"name": case.name, "rounds": [], "syscalls": {}, "left_out": reason}
    not_for = [loop for loop in loops if not is_for(case, loop)]
    loops = [loop for loop in loops if loop not in not_for]
    offered: dict[str, Any] = {}
    if case.mode == "open" and loops:
        try:
            case, offered = offer(case, baseline if baseline in loops else loops[0], settings)
        except client.SampleFailed as failure:
            error = {"error": f"its maximum could not be measured: {failure}"}
            return {"name": case.name, "rounds": [dict.fromkeys(loops, error)], "syscalls": {}}
    n_cpus = 1 if case.kind == "micro" else len(set(settings.cpus))
    failures = dict.fromkeys(loops, 0)

    def measure_round(number: int) -> dict[str, Any]:
        samples: dict[str, Any] = {}
        for loop in loops:
            if failures[loop] >= 2:
                continue
            samples[loop] = _sample(case, loop, settings)
            failures[loop] += "error" in samples[loop]
        texts = "; ".join(_brief(loop, sample) for loop, sample in samples.items())
        others = foreign_share(samples, n_cpus)
        disturbed = f" (others {others:.0%})" if others > settings.most_foreign else ""
        say(f"{label} {case.name} round {number + 1}/{settings.rounds}{disturbed}: {texts}")
        return samples

    rounds, n_repeated, n_disturbed = run_rounds(measure_round, settings, n_cpus)
    result: dict[str, Any] = {"name": case.name, "rounds": rounds, "syscalls": {}}
    result |= {"repeated": n_repeated, "disturbed": n_disturbed, **offered}
    if not_for:
        result["not_for"] = not_for
    if application:
        result["versions"] = table.versions(application)
    limit_loops = [loop for loop in loops if limits.is_limit(loop)]
    if limit_loops:
        result["limits"] = {loop: limits.words_for(loop, case.name) for loop in limit_loops}
    if case.kind == "traffic" and settings.counts_syscalls:
        seconds = min(0.5, settings.seconds)
        for loop in loops:
            if failures[loop] < 2:
                result["syscalls"][loop] = client.count_syscalls(case, loop, seconds, settings.cpus)
    return result


def estimate_s(plan: Plan, settings: Settings) -> float:
    """The approximate duration of a run, for the first line of progress."""
    per_traffic_s = (settings.seconds + settings.warmup_s + 0.45) * settings.rounds
    per_traffic_s += 1.3 if settings.counts_syscalls else 0
    per_s = {"traffic": per_traffic_s, "micro": settings.rounds * 0.9}
    per_s["app"] = (wrk.whole_seconds(settings.seconds) + 2.2) * settings.rounds
    return sum(per_s[case.kind] * len(loops) for case, loops in plan)


def save(document: dict[str, Any], path: Path) -> None:
    """Replace *path* as a whole, so that an interrupted run leaves the finished cases readable."""
    unfinished = path.with_name(path.name + f".{os.getpid()}")
    unfinished.write_text(json.dumps(document, indent=1) + "\n")
    unfinished.replace(path)


def run(plan: Plan, settings: Settings, document: dict[str, Any], path: Path | None) -> None:
    """Fill ``document["cases"]``; those that it has already are not measured again."""
    done = {case["name"] for case in document["cases"]}
    plan = [(case, loops) for case, loops in plan if case.name not in done]
    if any(case.kind != "micro" for case, _ in plan):
        client.build_loadgen()
    names = list(dict.fromkeys(loop for _, loops in plan for loop in loops))
    for loop in filter(limits.is_limit, names):
        limits.program(loop)
    expected_s = estimate_s(plan, settings)
    say(f"{len(plan)} cases, loops {', '.join(names)}: about {expected_s / 60:.1f} minutes")
    begin_s = time.monotonic()
    for number, (case, loops) in enumerate(plan, 1):
        label = f"[{number}/{len(plan)}, {time.monotonic() - begin_s:.0f} s]"
        document["cases"].append(run_case(case, loops, settings, label, document["baseline"]))
        if path:
            save(document, path)

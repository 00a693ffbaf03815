"""``python -m benchmarks``: the command line; README.md lists the commands by question."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from benchmarks import bars, compare, everything, plot, report, runner
from benchmarks.cases import CASES, Case, select
from benchmarks.gate import command as gate
from benchmarks.loops import BASELINE, IN_GLIB, LIMITS, LOOPS, probe, spec_of
from benchmarks.machine import choose_cpus, describe, mount_tracefs, one_at_a_time, say

DEFAULT_LOOPS = ("uringloop", "uvloop")
APPLICATION_LOOPS = ("uringloop", "uringloop-epoll", "uvloop", "asyncio")


def _add_settings(parser: argparse.ArgumentParser, cases: tuple[str, ...] = (), seconds: float = 1.0) -> None:
    """What `run`, `applications` and `all` have in common."""
    parser.add_argument(
        "--cases",
        nargs="+",
        default=list(cases),
        metavar="GLOB",
        help="e.g. 'micro/*' 'echo/*/1KiB/*'; 'bars' for the cases that check judges "
        f"(default: {' '.join(cases) or 'all'})",
    )
    parser.add_argument(
        "--baseline",
        default=BASELINE,
        metavar="LOOP",
        help=f"the loop that ratios are relative to (default: {BASELINE})",
    )
    parser.add_argument("--rounds", type=int, default=5, help="default 5; 9 for figures to publish")
    parser.add_argument(
        "--seconds",
        type=float,
        default=seconds,
        help=f"measured window of a traffic run (default {seconds:g})",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the results, after each case")
    parser.add_argument("--resume", action="store_true", help="keep the cases that the JSON file has already")
    parser.add_argument("--quick", action="store_true", help="one short round, to see if it works")
    parser.add_argument("--no-syscalls", action="store_true", help="do not count system calls (extra runs)")


def _add_loops(parser: argparse.ArgumentParser, loops: tuple[str, ...]) -> None:
    parser.add_argument(
        "--loops",
        nargs="+",
        default=list(loops),
        metavar="LOOP",
        help=f"names, or 'all' for every loop that runs here (default: {' '.join(loops)})",
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Benchmarks of event loops.")
    commands = parser.add_subparsers(dest="command", required=True)

    commands.add_parser("list", help="the loops that run here, and the cases")

    run = commands.add_parser("run", help="measure and print a report")
    _add_loops(run, DEFAULT_LOOPS)
    _add_settings(run)
    applications = commands.add_parser("applications", help="the same for whole applications")
    _add_loops(applications, APPLICATION_LOOPS)
    _add_settings(applications, ("app/*",), seconds=3.0)
    _add_settings(commands.add_parser("all", help="measure every figure that is published, into one file"))

    gate.add_options(
        commands.add_parser(
            "gate", help="count instructions; status 1 if a path is slower than the reference"
        )
    )

    for name, text in (
        ("report", "Markdown tables of saved results"),
        ("check", "check saved results against uringloop's promises; status 1 unless all pass"),
        ("plot", "draw saved results as SVG"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("file", type=Path)
        command.add_argument("--baseline", metavar="LOOP", help="instead of that of the run")
        if name == "plot":
            command.add_argument("output", type=Path)
            command.add_argument("--kind", choices=plot.KINDS, default="cpu", help="default: cpu")

    changes = commands.add_parser("compare", help="what changed between two result files of one machine")
    changes.add_argument("old", type=Path)
    changes.add_argument("new", type=Path)
    changes.add_argument(
        "--other-machine", action="store_true", help="even if they are of different machines"
    )
    return parser


def _load(path: Path, baseline: str | None = None) -> dict[str, Any]:
    document = json.loads(path.read_text())
    if document.get("format") != runner.FORMAT:
        raise ValueError(f"{path} is not a result file of this version")
    if baseline is not None and baseline not in document["loops"]:
        raise ValueError(f"{path} has no loop {baseline}")
    return document | {"baseline": baseline or document["baseline"]}


def _list() -> None:
    print("loops")
    for name, found in probe([*LOOPS, *IN_GLIB, *LIMITS]).items():
        print(f"  {name:<21}{found.get('version') or 'not here: ' + found['error']}")
    print("cases (* = has a bar)")
    for case in CASES:
        print(f"  {case.name}{' *' if case.name in bars.BARRED_CASES else ''}")


def _usable_loops(names: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """(name -> version, name -> why it is skipped) of the selected loops."""
    wanted = list(LOOPS) if "all" in names else list(dict.fromkeys(names))
    for name in wanted:
        spec_of(name)
    usable, skipped = {}, {}
    for name, found in probe(wanted).items():
        if "version" in found:
            usable[name] = found["version"]
        else:
            skipped[name] = found["error"]
            say(f"note: {name} is skipped: {found['error']}")
    if not usable:
        raise ValueError("none of these loops runs here")
    return usable, skipped


def _selected_plan(options: argparse.Namespace) -> tuple[list[tuple[Case, list[str]]], dict, dict]:
    """(each case with its loops, name -> version of the loops, name -> why it is skipped)."""
    cases = select(options.cases, bars.BARRED_CASES)
    if options.command == "all":
        usable, skipped = _usable_loops(everything.all_loops())
        return [(case, loops) for case, loops in everything.plan(usable) if case in cases], usable, skipped
    usable, skipped = _usable_loops(options.loops)
    return [(case, list(usable)) for case in cases], usable, skipped


def _finished_cases(path: Path, settings: runner.Settings) -> list[dict[str, Any]]:
    """The cases of an interrupted run of this machine with these settings."""
    document = _load(path)
    differences = compare.different_keys(document, {"machine": describe()})
    wanted = json.loads(json.dumps(vars(settings)))
    if differences or document["settings"] != wanted:
        raise ValueError(f"{path} cannot be resumed: it has other settings, or is of another machine")
    return document["cases"]


def _run(options: argparse.Namespace) -> int:
    if options.rounds < 1 or not 0 < options.seconds <= 60:
        raise ValueError("--rounds must be positive, --seconds between 0 and 60")
    if not options.json and (options.resume or options.command == "all"):
        raise ValueError("--json FILE is needed")
    spec_of(options.baseline)
    plan, usable, skipped = _selected_plan(options)
    settings = runner.Settings(
        rounds=1 if options.quick else options.rounds,
        seconds=min(0.3, options.seconds) if options.quick else options.seconds,
        warmup_s=0.1 if options.quick else 0.3,
        scale=0.2 if options.quick else 1.0,
        counts_syscalls=not options.no_syscalls,
        cpus=choose_cpus(),
        most_foreign=1.0 if options.quick else runner.Settings.most_foreign,
    )
    document = {
        "format": runner.FORMAT,
        "command": shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
        "machine": describe(),
        "settings": vars(settings),
        "baseline": options.baseline,
        "loops": usable,
        "skipped": skipped,
        "cases": _finished_cases(options.json, settings) if options.resume and options.json.exists() else [],
    }
    if settings.counts_syscalls:
        mount_tracefs()
    is_interrupted = False
    with one_at_a_time():
        try:
            runner.run(plan, settings, document, options.json)
        except KeyboardInterrupt:
            is_interrupted = True
            say("interrupted: reporting the cases that are finished")
    print(report.markdown(document), end="")
    has_failures = any(
        "error" in sample for case in document["cases"] for turn in case["rounds"] for sample in turn.values()
    )
    return 130 if is_interrupted else int(has_failures)


def main() -> int:
    options = _parser().parse_args()
    try:
        match options.command:
            case "list":
                _list()
            case "run" | "applications" | "all":
                return _run(options)
            case "gate":
                return gate.run(options)
            case "report":
                print(report.markdown(_load(options.file, options.baseline)), end="")
            case "check":
                lines, is_good = bars.check(_load(options.file, options.baseline))
                print("\n".join(lines))
                return 0 if is_good else 1
            case "compare":
                old, new = _load(options.old), _load(options.new)
                print(compare.compare(old, new, options.other_machine), end="")
            case "plot":
                if options.output.suffix != ".svg":
                    raise ValueError("the drawing is SVG: give a name that ends in .svg")
                options.output.write_text(plot.svg(_load(options.file, options.baseline), options.kind))
    except (ValueError, OSError) as error:
        say(f"benchmarks: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""``python -m benchmarks gate``: counts, compares with the reference, reports.

Exit status: 0 nothing is slower, 1 something is, 2 it cannot be measured.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import time
from pathlib import Path

from benchmarks.gate import fingerprint, paths, reference, verdict
from benchmarks.gate.counting import CannotMeasure, check_tools, count
from benchmarks.gate.verdict import Counts
from benchmarks.machine import REPOSITORY, say

TRIES = 3  # of a path that seems slower, each in another layout of memory; the lowest counts


def add_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--record", action="store_true", help="make the present counts the reference")
    command.add_argument("--against", metavar="COMMIT", help="build this commit and compare with it instead")
    command.add_argument(
        "--paths", nargs="+", default=["*"], metavar="GLOB", help="only these (default: all)"
    )
    command.add_argument(
        "--tree", type=Path, default=REPOSITORY, help="the checkout to count (default: this)"
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="save the counts")


def _select(patterns: list[str]) -> list[str]:
    names = [name for name in paths.names() if any(fnmatch.fnmatchcase(name, one) for one in patterns)]
    if not names:
        raise CannotMeasure(f"no path is called {' '.join(patterns)}; there are: {' '.join(paths.names())}")
    return names


def _limits() -> dict[str, float]:
    return {name: paths.PATHS[name.rpartition("/")[0]].limit for name in paths.names()}


def _slower(before: dict[str, Counts], now: dict[str, Counts]) -> list[str]:
    limits = _limits()
    return [name for name in now if verdict.judge(before[name], now[name], limits[name]).kind == "slower"]


def _record(names: list[str], present: dict[str, object]) -> int:
    commit = reference.clean_commit()
    if commit is None:
        raise CannotMeasure(
            "the sources have changes that are in no commit: the reference would have no name"
        )
    rounds = [count(REPOSITORY, names, layout) for layout in range(TRIES)]
    counts = {name: verdict.lowest(one[name] for one in rounds) for name in names}
    reference.save(commit, {name: one.as_json() for name, one in counts.items()}, present)
    print("\n".join(verdict.table(rounds[0], counts, _limits())))
    print(f"recorded {len(counts)} paths at {commit[:12]}")
    return 0


def _reference_counts(
    options: argparse.Namespace, tree: Path, names: list[str], present: dict[str, object]
) -> dict[str, Counts] | None:
    """From the file if its fingerprint is the present one, else counted now; None if there is nothing to compare."""
    if options.against:
        commit = reference.commit_of(options.against)
    else:
        recorded = reference.load()
        different = fingerprint.differences(recorded["fingerprint"], present)
        if not different:
            say(f"the reference: {recorded['commit'][:12]}")
            return verdict.from_json(recorded["counts"])
        say("the reference was counted with other tools:")
        for line in different:
            say(f"  {line}")
        if tree == REPOSITORY and reference.is_present(recorded):
            say("its sources are those of this checkout: nothing can be slower, and nothing is compared")
            return None
        commit = reference.find_commit(recorded)
    built = reference.build_commit(commit, present)
    say(f"counting the reference {commit[:12]}")
    rounds = [count(built, names, layout) for layout in range(TRIES)]
    return {name: verdict.lowest(one[name] for one in rounds) for name in names}


def _recount(tree: Path, before: dict[str, Counts], now: dict[str, Counts]) -> dict[str, Counts]:
    """Count again what seems slower."""
    for layout in range(1, TRIES):
        names = _slower(before, now)
        if not names:
            break
        say(f"counting again what seems slower: {' '.join(names)}")
        for name, one in count(tree, names, layout).items():
            now[name] = verdict.lowest([now[name], one])
    return now


def run(options: argparse.Namespace) -> int:
    start_s = time.monotonic()
    try:
        check_tools()
        names = _select(options.paths)
        tree = options.tree.resolve()
        reference.check_built(tree)
        present = fingerprint.take(tree)
        if options.record:
            if options.paths != ["*"] or tree != REPOSITORY:
                raise CannotMeasure("a reference has all paths, and is counted in this checkout")
            return _record(names, present)
        before = _reference_counts(options, tree, names, present)
        say("counting the present state")
        now = count(tree, names)
        before = now if before is None else before
        now = _recount(tree, before, dict(now))
    except (CannotMeasure, ValueError) as error:
        say(f"gate: {error}")
        return 2
    if options.json:
        options.json.write_text(
            json.dumps({name: one.as_json() for name, one in now.items()}, indent=2) + "\n"
        )
    print("\n".join(verdict.table(before, now, _limits())))
    slower = _slower(before, now)
    print(f"{len(now)} paths, {len(slower)} slower ({time.monotonic() - start_s:.0f} s)")
    return 1 if slower else 0

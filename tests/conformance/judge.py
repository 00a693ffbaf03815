"""Decides which tests count and evaluates their results: asyncio's baseline and the list of exceptions."""

import fnmatch
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from .engine import Results, is_ok
from .targets import MONITORS

PYTHONS = ("3.11", "3.12", "3.13", "3.14", "3.15")
EXCEPTIONS = Path(__file__).with_name("exceptions.toml")


@dataclass(frozen=True)
class ExceptionEntry:
    """One [[exception]]: a test that may fail, where, and why."""

    suite: str
    test: str
    pythons: tuple[str, ...]
    monitors: tuple[str, ...]
    reason: str

    def __post_init__(self):
        unknown = {*self.pythons} - {*PYTHONS} | {*self.monitors} - {*MONITORS}
        if unknown or not self.reason.strip() or not self.test or not self.suite:
            raise ValueError(
                f"{EXCEPTIONS.name}: {self.test!r}: no suite or reason, or unknown: {sorted(unknown)}"
            )


@dataclass(frozen=True)
class Exceptions:
    """All of exceptions.toml."""

    entries: tuple[ExceptionEntry, ...]
    patterns: tuple[tuple[str, str], ...]  # (suite, pattern of excluded tests)

    def applying(self, suite: str, python: str, monitor: str | None) -> dict[str, str]:
        """{test id: reason} for a suite, a Python version and a monitor."""
        return {
            entry.test: entry.reason
            for entry in self.entries
            if entry.suite == suite and python in entry.pythons and monitor in entry.monitors
        }

    def excluded(self, suite: str) -> tuple[str, ...]:
        """Patterns of a suite's tests that are not about a loop."""
        return tuple(pattern for name, pattern in self.patterns if name == suite)


def load_exceptions(path: Path = EXCEPTIONS) -> Exceptions:
    """Read the list.  Raises ValueError for a wrong entry: a typing error must not excuse a test."""
    data = tomllib.loads(path.read_text())
    if unknown := set(data) - {"exception", "excluded"}:
        raise ValueError(f"{path.name}: unknown tables {sorted(unknown)}")
    entries = []
    for raw in data.get("exception", ()):
        if unknown := set(raw) - {"suite", "test", "pythons", "monitors", "reason"}:
            raise ValueError(f"{path.name}: {raw.get('test')!r}: unknown keys {sorted(unknown)}")
        pythons, monitors = raw.get("pythons", PYTHONS), raw.get("monitors", MONITORS)
        names = (raw.get("suite", ""), raw.get("test", ""))
        entries.append(ExceptionEntry(*names, tuple(pythons), tuple(monitors), raw.get("reason", "")))
    patterns = []
    for raw in data.get("excluded", ()):
        if set(raw) != {"suite", "tests", "reason"}:
            raise ValueError(f"{path.name}: an [[excluded]] needs `suite`, `tests`, `reason` only: {raw}")
        patterns += [(raw["suite"], pattern) for pattern in raw["tests"]]
    return Exceptions(tuple(entries), tuple(patterns))


def counted(baseline: dict[str, dict], excluded: tuple[str, ...], each_makes_a_loop: bool) -> set[str]:
    """The ids that count: asyncio passes them, and (if required) each made a loop through the redirection.

    Tests that depend on asyncio's internals were not run for the baseline, so they are not included.
    """
    skip = re.compile("|".join(map(fnmatch.translate, excluded)) or r"(?!)")
    return {
        test_id
        for test_id, record in baseline.items()
        if is_ok(record) and (record["loops"] or not each_makes_a_loop) and not skip.match(test_id)
    }


@dataclass
class Verdict:
    """The evaluation of one module's results on one loop."""

    passed: list[str] = field(default_factory=list)
    failed: dict[str, dict] = field(default_factory=dict)  # unexpected: id -> record
    excepted: dict[str, str] = field(default_factory=dict)  # failed as listed: id -> reason
    stale: dict[str, str] = field(default_factory=dict)  # exceptions to be removed: id -> the reason
    flaky: list[str] = field(default_factory=list)  # passed only on the second try
    problems: list[str] = field(default_factory=list)  # problems outside of tests
    seconds: float = 0.0

    @property
    def is_good(self) -> bool:
        return not self.failed and not self.stale and not self.problems

    def failures_text(self) -> str:
        """All failures and other problems, with tracebacks."""
        lines = [f"{test_id}: {record['o']}: {record['m']}" for test_id, record in self.failed.items()]
        lines += [f"{test_id}: {what}" for test_id, what in self.stale.items()] + self.problems
        traces = [
            f"{test_id}\n{record['trace']}" for test_id, record in self.failed.items() if record.get("trace")
        ]
        return "\n".join(lines + traces)

    def merge(self, other: "Verdict") -> None:
        self.passed += other.passed
        self.failed |= other.failed
        self.excepted |= other.excepted
        self.stale |= other.stale
        self.flaky += other.flaky
        self.problems += other.problems
        self.seconds += other.seconds


def made(records: dict[str, dict]) -> int:
    """The number of loops made through the redirection."""
    return sum(record.get("loops", 0) for record in records.values())


def judge(
    ids: set[str],
    baseline: dict[str, dict],
    results: Results,
    allowed: dict[str, str],
    each_makes_a_loop: bool,
) -> Verdict:
    """Compare a module's results with the tests that asyncio passes (`ids`) and with the module's exceptions.

    If asyncio was used, the loop under test has to be used: by each test, or (where tests share loops made by
    fixtures) by the module.
    """
    verdict = Verdict(problems=results.problems, seconds=results.seconds)
    if ids and made(baseline) and not made(results.tests):
        verdict.problems.append("no loop under test was made")
    trouble = "; ".join(results.problems) or "the worker did not reach it"
    for test_id in sorted(ids):
        record = results.tests.get(test_id, {"o": "not run", "m": trouble, "loops": 0})
        if is_ok(record) and each_makes_a_loop and not record["loops"]:
            record = {**record, "o": "not used", "m": "passed without making a loop under test"}
        if is_ok(record):
            verdict.passed.append(test_id)
            if record.get("flaky"):
                verdict.flaky.append(test_id)
            if test_id in allowed:
                verdict.stale[test_id] = "listed as an exception, but it passes"
        elif test_id in allowed:
            verdict.excepted[test_id] = allowed[test_id]
        else:
            verdict.failed[test_id] = record
    for test_id in set(allowed) - set(baseline):
        verdict.stale[test_id] = "listed as an exception, but there is no such test"
    return verdict

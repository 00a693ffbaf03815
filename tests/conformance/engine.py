"""Runs test modules in worker processes, and copes with crashes and hangs of these.

A worker reports to a file as it goes (see inject/conformance_report.py).  When it crashes, or a test exceeds
its time, the current test is recorded as `crash` or `timeout`, and a new worker continues with the remaining
tests: a segfault of an event loop costs one test and not its module.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .targets import Target

OK = ("passed", "xfail")
#: The seconds that a worker may spend outside of tests: imports, module fixtures, exit hooks.
OUTSIDE_TIMEOUT = 60.0
EXIT_TIMEOUT = 20.0
MAX_RESTARTS = 40
#: With more failures than this in one module they are not flaky, and running them again would only take time.
MAX_RERUNS = 25
#: The interval of progress reports of a long module on stderr.
PROGRESS_SECONDS = 20.0

_live: set[subprocess.Popen] = set()
_stopping = threading.Event()


def is_ok(record: dict) -> bool:
    return record["o"] in OK


@dataclass(frozen=True)
class Job:
    """How to start the worker for one module of a suite."""

    name: str
    command: tuple[str, ...]
    folder: Path | None = None  # its working directory, an empty one of its own if None
    path: tuple[str, ...] = ()  # put first in PYTHONPATH
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Limits:
    """Time limits; what exceeds them counts as hanging."""

    test_seconds: float = 30.0
    module_seconds: float = 900.0
    begin: float = field(
        default_factory=time.monotonic
    )  # of the module's time, which includes the second tries

    def is_over(self) -> bool:
        return time.monotonic() - self.begin > self.module_seconds


@dataclass
class Results:
    """The results of one module: records by test id, and problems outside of tests."""

    tests: dict[str, dict] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0


def stop() -> None:
    """End all workers, including those of other threads: the runner itself is ending."""
    _stopping.set()
    for process in list(_live):
        _signal_group(process, signal.SIGKILL)


def _signal_group(process: subprocess.Popen, number: int) -> None:
    """The worker leads its own process group, so that processes left by its tests end with it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _end(process: subprocess.Popen) -> None:
    """End a hanging worker: SIGABRT first, which makes faulthandler dump the stacks of all threads."""
    for number, patience in ((signal.SIGABRT, 5.0), (signal.SIGKILL, 10.0)):
        _signal_group(process, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            break
    _signal_group(process, signal.SIGKILL)


class _EventFile:
    """Reads the complete lines that a worker has written since the last call."""

    def __init__(self, path: Path):
        self.path, self.position = path, 0

    def new(self) -> list[dict]:
        try:
            with open(self.path, "rb") as file:
                file.seek(self.position)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data.rfind(b"\n") + 1
        self.position += whole
        return [json.loads(line) for line in data[:whole].splitlines()]


class _Worker:
    """One worker process, from start to end."""

    def __init__(self, job: Job, target: Target, results: Results, plan: dict, folder: Path, limits: Limits):
        self.job, self.label, self.results, self.limits = job, target.label, results, limits
        self.reported = time.monotonic()  # when progress was last reported
        self.current: str | None = None  # the current test
        self.since = time.monotonic()  # when it began, or when the previous test ended
        self.finished = False  # all tests are done; the process has not exited yet
        self.log = folder / "log"
        events = folder / "events"
        events.unlink(missing_ok=True)
        self.events = _EventFile(events)
        (folder / "plan").write_text(json.dumps(plan))
        env = {
            **target.environment(job.path),
            **job.environment,
            "CONFORMANCE_EVENTS": str(events),
            "CONFORMANCE_PLAN": str(folder / "plan"),
        }
        work = folder / "work"
        work.mkdir(exist_ok=True)
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                job.command,
                env=env,
                cwd=job.folder or work,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        _live.add(self.process)

    def _read(self) -> None:
        for event in self.events.new():
            kind = event.pop("t")
            self.since = time.monotonic()
            if kind == "start":
                self.current = event["id"]
            elif kind == "end":
                self.results.tests[event.pop("id")] = event
                self.current = None
            else:
                self.finished = True

    def _report_progress(self) -> None:
        now = time.monotonic()
        if now - self.reported >= PROGRESS_SECONDS:
            self.reported = now
            took, done = now - self.limits.begin, len(self.results.tests)
            where = f", at {self.current}" if self.current else ""
            print(f"  … {self.label} {self.job.name}: {done} tests in {took:.0f} s{where}", file=sys.stderr)

    def _record_end(self, outcome: str, message: str) -> None:
        trace = self.log.read_bytes()[-6000:].decode(errors="replace")
        took = round(time.monotonic() - self.since, 1)
        record = {"o": outcome, "d": took, "m": message, "loops": 0, "trace": trace}
        self.results.tests[self.current] = record

    def _patience(self) -> float:
        if self.current:
            return self.limits.test_seconds
        return EXIT_TIMEOUT if self.finished else max(OUTSIDE_TIMEOUT, self.limits.test_seconds)

    def watch(self) -> bool:
        """Watch the worker until its end.  Returns whether another worker has to continue."""
        try:
            while True:
                status = self.process.poll()  # before reading: nothing is written after the end
                self._read()
                self._report_progress()
                if status is not None or self.limits.is_over():
                    break
                if time.monotonic() - self.since > self._patience():
                    break
                time.sleep(0.03)
            return self._conclude(status)
        finally:
            _end(self.process) if self.process.poll() is None else _signal_group(self.process, signal.SIGKILL)
            _live.discard(self.process)

    def _conclude(self, status: int | None) -> bool:
        if status is None:
            _end(self.process)
        if self.finished:
            if status is None:
                self.results.problems.append("the worker did not exit after its last test")
            return False
        if self.current is None:
            where = "hung" if status is None else f"ended with status {status}"
            tail = self.log.read_text(errors="replace")[-2000:]
            self.results.problems.append(f"the worker {where} outside of a test: {tail}")
            return False
        if status is None:
            self._record_end("timeout", f"no result within {time.monotonic() - self.since:.0f} s")
        else:
            self._record_end("crash", f"the worker ended with status {status}")
        return True


def run_module(
    job: Job,
    target: Target,
    *,
    only: set[str] | None = None,
    skip: tuple[str, ...] = (),
    limits: Limits | None = None,
) -> Results:
    """Run the tests of a module, all or those in `only`, except those that match the patterns `skip`."""
    results, limits = Results(), limits or Limits()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="conformance-", ignore_cleanup_errors=True) as name:
        for _ in range(MAX_RESTARTS):
            plan = {
                "done": list(results.tests),
                "only": None if only is None else sorted(only),
                "skip": list(skip),
            }
            if not _Worker(job, target, results, plan, Path(name), limits).watch() or _stopping.is_set():
                break
            if limits.is_over():
                results.problems.append(f"{job.name} takes longer than {limits.module_seconds:g} s")
                break
        else:
            results.problems.append(f"gave up after {MAX_RESTARTS} restarts")
    results.seconds = time.monotonic() - begin
    return results


def rerun(job: Job, target: Target, ids: set[str], limits: Limits) -> dict[str, dict]:
    """Run failed tests once more; returns the records of those that pass this time."""
    if not ids or len(ids) > MAX_RERUNS or limits.is_over():
        return {}
    again = run_module(job, target, only=ids, limits=limits)
    return {test_id: record for test_id, record in again.tests.items() if test_id in ids and is_ok(record)}

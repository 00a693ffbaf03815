"""What runs inside the machine: the doctor, then the tests on the monitor that the loop chooses here.

It writes lines of JSON to the second serial port; the console has pytest's own output.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

PLAN = Path("/srv/plan.json")
CHECKOUT = "/srv/checkout"
PORT = Path(os.environ["KERNELS_PORT"])
RECORD = Path("/tmp/record.jsonl")
RESTARTS_MAX = 8
PROGRESS_S = 2
STALL_S = (
    320  # the watchdog ends a test after 300 s; this is for a process that waits for its threads at the end
)
ORDER = ["started", "passed", "skipped", "left out", "failed"]  # a test's outcome is the last of these


def emit(kind, **facts):
    with PORT.open("w") as port:
        port.write(json.dumps({"kind": kind, **facts}) + "\n")


def outcomes():
    """{test: (outcome, text)}; of a test that ended the process, "started"."""
    found = {}
    for line in RECORD.read_text().splitlines():
        one = json.loads(line)
        before = found.get(one["test"], ("started", ""))
        found[one["test"]] = max(before, (one["outcome"], one["text"]), key=lambda pair: ORDER.index(pair[0]))
    return found


def run_pytest(arguments, left_out, suite):
    """One process of pytest, with its progress; the exit status."""
    environment = {
        "KERNELS_RECORD": str(RECORD),
        "KERNELS_LEFT_OUT": json.dumps(left_out),
        "PYTHONPATH": "/srv",
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "recorder",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
    ]
    command += ["--tb=short", "-r", "fE", "--durations=20", *arguments]
    changed, n_bytes = time.monotonic(), 0
    with subprocess.Popen(command, cwd=CHECKOUT, env=os.environ | environment) as child:
        while True:
            try:
                return child.wait(PROGRESS_S)
            except subprocess.TimeoutExpired:
                emit("progress", suite=suite, done=RECORD.read_text().count('"started"'))
            if RECORD.stat().st_size != n_bytes:
                changed, n_bytes = time.monotonic(), RECORD.stat().st_size
            elif time.monotonic() - changed > STALL_S:
                child.kill()


def run_suite(suite, monitor, left_out):
    """All tests of a suite; failed ones get a second try, alone."""
    begin = time.monotonic()
    RECORD.write_text("")
    arguments = [*suite["arguments"], "--monitor", monitor]
    n_crashes = 0
    for _ in range(RESTARTS_MAX):
        status = run_pytest(arguments, left_out, suite["name"])
        n_before, n_crashes = n_crashes, sum(outcome == "started" for outcome, _ in outcomes().values())
        if n_crashes == n_before:  # the watchdog of a hanging test exits with 1, as failed tests do
            break
    first = outcomes()
    again = {}
    for test in [name for name, (outcome, _) in first.items() if outcome in ("failed", "started")]:
        RECORD.write_text("")
        run_pytest([test, "--monitor", monitor], left_out, f"{suite['name']}, second try")
        again[test] = outcomes().get(test, ("failed", "not found again"))
    for test, (outcome, text) in (first | again).items():
        if test in again:
            emit("test", suite=suite["name"], test=test, outcome=outcome, text=text, first=first[test])
        elif outcome != "passed":
            emit("test", suite=suite["name"], test=test, outcome=outcome, text=text)
    n_passed = sum(outcome == "passed" for outcome, _ in (first | again).values())
    emit("suite", suite=suite["name"], status=status, passed=n_passed, seconds=time.monotonic() - begin)


def main():
    plan = json.loads(PLAN.read_text())
    emit("kernel", release=os.uname().release, version=os.uname().version)
    command = [sys.executable, "-m", "uringloop", "doctor", "--json"]
    done = subprocess.run(command, cwd="/tmp", capture_output=True, text=True, check=False)
    if not done.stdout:
        emit("broken", text=done.stderr)
        return
    doctor = json.loads(done.stdout)
    emit("doctor", facts=doctor)
    monitor = doctor["fdmon"]
    for suite in plan["suites"]:
        if monitor in suite["monitors"]:
            run_suite(suite, monitor, plan["left_out"])
        else:
            emit("suite", suite=suite["name"], status=None, passed=0, seconds=0)
    emit("end")


main()

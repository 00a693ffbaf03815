"""Runs one unittest module and reports each test: `python -m conformance_worker MODULE`.

See conformance_report for the plan and the reports.  CONFORMANCE_ADAPTER may name a module with `adapt(module)`, which
prepares the suite's module for other loops and returns a function that decides which of its tests are run.

`python -m conformance_worker` without a module makes one loop and describes it.
"""

import asyncio
import atexit
import importlib
import inspect
import json
import os
import re
import sys
import time
import traceback
import unittest
import warnings

import conformance_loop
from conformance_report import RANK, Plan, Reporter, prepare_process

#: Marks of a test that depends on asyncio's implementation: private members of its loop, transports and
#: servers, attributes of the loop replaced by mocks, asyncio's modules patched.  Found by reading the source.
INTERNALS = re.compile(
    r"\bloop\._(?!testbase)[a-z]\w*"
    r"|\b(?:self\.)?loop\.\w+\s*=[^=]"
    r"|patch\.object\(\s*(?:self\.)?loop\b"
    r"|patch(?:\.object)?\(\s*['\"]?(?:asyncio|selectors)\."
    r"(?:selector_events|unix_events|base_events|base_subprocess|sslproto|events)"
    r"|@patch_socket|mock_nonblocking_socket"
    r"|transport\._(?:sock|ssl_protocol|buffer|loop|conn_lost|proc|sslcontext|empty_waiter)\b"
    r"|srv\._|server\._(?:sockets|waiters|clients|active_count)"
)


def uses_internals(test):
    """Whether the source of the test's method depends on asyncio's internals."""
    try:
        return bool(INTERNALS.search(inspect.getsource(getattr(test, test._testMethodName))))
    except (AttributeError, OSError, TypeError):
        return False


class Result(unittest.TestResult):
    """Reports the results that unittest passes to it."""

    def __init__(self, reporter):
        super().__init__()
        self.reporter = reporter
        self.outcome = None

    def startTest(self, test):
        super().startTest(test)
        self.outcome, self.message, self.trace = "passed", "", ""
        self.loops_before, self.started = conformance_loop.made, time.perf_counter()
        self.reporter.emit(t="start", id=test.id())

    def stopTest(self, test):
        super().stopTest(test)
        if self.outcome is None:  # Python 3.12.1 stops a test skipped by decorator without having started it
            return
        self.reporter.emit(
            t="end",
            id=test.id(),
            o=self.outcome,
            d=round(time.perf_counter() - self.started, 3),
            m=self.message,
            loops=conformance_loop.made - self.loops_before,
            trace=self.trace,
        )
        self.outcome = None

    def _note(self, test, outcome, message="", trace=""):
        if self.outcome is None:  # setUpClass, setUpModule and the like
            test_id = test.id() if isinstance(test, unittest.TestCase) else str(test)
            self.reporter.whole(test_id, outcome, message, trace)
        elif RANK.index(outcome) > RANK.index(self.outcome):
            self.outcome, self.message, self.trace = outcome, message, trace

    def _note_failure(self, test, err):
        trace = "".join(traceback.format_exception(*err))
        lines = "".join(traceback.format_exception_only(err[0], err[1])).strip().splitlines()
        self._note(test, "failed", (lines[0] if lines else "")[:300], trace[-6000:])

    addError = addFailure = _note_failure

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self._note_failure(test, err)

    def addSkip(self, test, reason):
        self._note(test, "skipped", reason)

    def addExpectedFailure(self, test, err):
        self._note(test, "xfail")

    def addUnexpectedSuccess(self, test):
        self._note(test, "xpass", "unexpected success")


def flatten(suite):
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            yield from flatten(item)
        else:
            yield item


def run(module_name):
    plan, reporter = Plan(), Reporter()
    try:
        module = importlib.import_module(module_name)
    except unittest.SkipTest as ex:
        reporter.whole(module_name, "skipped", str(ex))
        reporter.emit(t="done")
        return
    adapter = os.environ.get("CONFORMANCE_ADAPTER")
    is_part_of_suite = importlib.import_module(adapter).adapt(module) if adapter else lambda test: True
    # The module may have made a policy, and with it a loop, during its import.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # policies, since Python 3.14
        asyncio.set_event_loop_policy(None)
    wanted = unittest.TestSuite()
    for test in flatten(unittest.defaultTestLoader.loadTestsFromModule(module)):
        test_id = test.id()
        if not plan.wants(test_id) or not is_part_of_suite(test):
            continue
        if os.environ.get("CONFORMANCE_INTERNALS") == "leave out" and uses_internals(test):
            reporter.whole(test_id, "internal")
        else:
            wanted.addTest(test)
    wanted.run(Result(reporter))
    reporter.emit(t="done")


def describe():
    """Print a line of JSON about the loop under test, for the heading and to show that it can be made."""
    loop = conformance_loop.make_loop()
    module = sys.modules[conformance_loop.NAME]
    monitor = getattr(loop, "fdmon", None)
    facts = {
        "class": f"{type(loop).__module__}.{type(loop).__qualname__}",
        "version": getattr(module, "__version__", None),
        "monitor": getattr(monitor, "name", monitor),
    }
    loop.close()
    print(json.dumps(facts, default=str))


def main():
    if len(sys.argv) < 2:
        describe()
        return
    prepare_process()
    module_name = sys.argv.pop()
    run(module_name)
    # A leaked thread must not keep the worker alive, but exit hooks have to run.
    sys.stdout.flush()
    sys.stderr.flush()
    atexit._run_exitfuncs()
    os._exit(0)


if __name__ == "__main__":
    main()

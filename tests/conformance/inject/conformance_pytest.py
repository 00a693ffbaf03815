"""pytest plugin (`-p conformance_pytest`): runs the tests of the engine's plan, and reports each of them."""

import time

import pytest
from conformance_report import RANK, Plan, Reporter, loops_made, prepare_process

plan = Plan()
reporter = Reporter()
prepare_process()

#: Outcome, message and trace so far of the current test.  None between tests.
at_hand = None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    dropped = [item for item in items if not plan.wants(item.nodeid)]
    if dropped:
        items[:] = [item for item in items if plan.wants(item.nodeid)]
        config.hook.pytest_deselected(items=dropped)


def pytest_collectreport(report):
    if report.failed:
        text = str(report.longrepr)
        reporter.whole(f"collect:{report.nodeid}", "failed", last_line(text), text[-6000:])


def last_line(text):
    lines = text.strip().splitlines()
    return lines[-1].strip()[:300] if lines else ""


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    global at_hand
    at_hand = {"o": "passed", "m": "", "trace": ""}
    loops_before, started = loops_made(), time.perf_counter()
    reporter.emit(t="start", id=item.nodeid)
    done = yield
    took, made = round(time.perf_counter() - started, 3), loops_made() - loops_before
    reporter.emit(t="end", id=item.nodeid, d=took, loops=made, **at_hand)
    at_hand = None
    return done


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report):
    """Setup, call or teardown is over: the worst outcome counts."""
    if at_hand is None:
        return
    outcome, message, trace = report.outcome, "", ""
    if hasattr(report, "wasxfail"):
        outcome = "xfail" if report.skipped else "xpass"
    elif report.failed:
        crash = getattr(report.longrepr, "reprcrash", None)
        message = (crash.message.splitlines() or [""])[0] if crash else last_line(report.longreprtext)
        trace = report.longreprtext
    elif report.skipped:
        message = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if RANK.index(outcome) > RANK.index(at_hand["o"]):
        at_hand.update(o=outcome, m=message[:300], trace=trace[-6000:])


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    # 0, 1 and 5 mean: all passed, some failed, none left.  Anything else is an interrupted session.
    if int(exitstatus) in (0, 1, 5):
        reporter.emit(t="done")

"""A pytest plugin of the machine under test: writes down each outcome at once, and leaves out what is done already.

A test that ends the process costs only itself: the next run continues after it.
"""

import json
import os
from pathlib import Path

RECORD = Path(os.environ["KERNELS_RECORD"])
LEFT_OUT = json.loads(os.environ["KERNELS_LEFT_OUT"])  # {beginning of a test's id: reason}
CONSOLE = Path("/dev/console")
TEXT_CHARACTERS = 4000


def write(test, outcome, text=""):
    with RECORD.open("a") as record:
        record.write(json.dumps({"test": test, "outcome": outcome, "text": text[-TEXT_CHARACTERS:]}) + "\n")


def pytest_collection_modifyitems(config, items):
    done = {json.loads(line)["test"] for line in RECORD.read_text().splitlines()}
    kept, others = [], []
    for item in items:
        reason = next((text for start, text in LEFT_OUT.items() if item.nodeid.startswith(start)), None)
        if reason is not None and item.nodeid not in done:
            write(item.nodeid, "left out", reason)
        (others if reason is not None or item.nodeid in done else kept).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=others)


def pytest_runtest_logstart(nodeid):
    write(nodeid, "started")


def pytest_runtest_logreport(report):
    if report.outcome == "skipped" and not hasattr(report, "wasxfail"):
        write(report.nodeid, "skipped", report.longrepr[2] if isinstance(report.longrepr, tuple) else "")
    elif report.outcome == "failed":
        write(report.nodeid, "failed", report.longreprtext)
        CONSOLE.write_text(
            f"\n{report.nodeid}, {report.when}:\n{report.longreprtext}\n"
        )  # pytest shows it at the end
    elif report.when == "call":
        write(report.nodeid, "passed")

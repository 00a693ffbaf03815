"""The worker's side of the communication with the engine: which tests to run, and their results.

Reports go to the file CONFORMANCE_EVENTS, one JSON object a line, written at once so that a crash loses none:
  {"t": "start", "id": ...}
  {"t": "end", "id": ..., "o": outcome, "d": seconds, "m": message, "loops": n, "trace": text}
  {"t": "done"}
CONFORMANCE_PLAN names a JSON file: {"done": [ids], "only": [ids] or null, "skip": [patterns]}.
"""

import faulthandler
import fnmatch
import json
import os
import re
import resource
import signal
import sys

#: An outcome replaces one to its left: a test may report several (subtests, an error in tearDown).
RANK = ("passed", "skipped", "xfail", "xpass", "failed")


def prepare_process():
    """No core files, and the engine's SIGABRT dumps the stacks of a hanging test.

    Ctrl-C works as in a terminal: a shell starts what it runs in the background with SIGINT ignored.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    faulthandler.enable()


def loops_made():
    """How many loops the process has made through the redirection; it is in place once asyncio is loaded."""
    return getattr(sys.modules.get("conformance_loop"), "made", 0)


class Plan:
    """The tests that this worker has to run."""

    def __init__(self):
        with open(os.environ["CONFORMANCE_PLAN"]) as file:
            plan = json.load(file)
        self.done = set(plan["done"])
        self.only = None if plan["only"] is None else set(plan["only"])
        self.skip = re.compile("|".join(map(fnmatch.translate, plan["skip"])) or r"(?!)")

    def wants(self, test_id):
        if test_id in self.done or self.skip.match(test_id):
            return False
        return self.only is None or test_id in self.only


class Reporter:
    """The worker's side of the events file.  A forked child of a test does not write to it."""

    def __init__(self):
        path = os.environ["CONFORMANCE_EVENTS"]
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.pid = os.getpid()

    def emit(self, **event):
        if os.getpid() == self.pid:
            os.write(self.fd, (json.dumps(event) + "\n").encode())

    def whole(self, test_id, outcome, message="", trace=""):
        """Report a problem outside of tests, or a test that was not run."""
        self.emit(t="start", id=test_id)
        self.emit(t="end", id=test_id, o=outcome, d=0, m=message, loops=0, trace=trace)

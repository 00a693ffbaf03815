"""The common part of all suites: measure asyncio, run the same tests on the loop under test, and judge.

The loop under test has to pass every test that asyncio passes.  So asyncio is measured first, on this machine and
with the same redirection (which then makes asyncio's own loop): some tests depend on root, DNS or IPv6.  The results
are kept in the user's cache folder, by interpreter, kernel, user, and the sources of tests and workers.
"""

import functools
import hashlib
import json
import os
import platform
import sys

from . import engine
from .judge import Verdict, counted, judge, load_exceptions
from .targets import INJECT, Target, cache_folder

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


class BaselineFailed(Exception):
    """asyncio itself could not be measured, so the loop under test cannot be judged."""


@functools.cache
def _facts_about_this_machine() -> bytes:
    facts = (sys.version, sys.executable, platform.release(), os.geteuid())
    digest = hashlib.sha256(repr(facts).encode())
    for path in sorted(INJECT.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.digest()


class Suite:
    """A test suite in modules, each of which runs in workers of its own."""

    name: str
    test_seconds = 30.0  # the time limit of one test
    module_seconds = 900.0
    #: Whether a test counts only if it makes a loop itself; false where tests share loops made by fixtures.
    each_makes_a_loop = False

    def modules(self, named: list[str] | None = None) -> list[str]:
        """The modules to run, all or those `named`.  Raises Unavailable for unknown names, or a missing suite."""
        raise NotImplementedError

    def job(self, module: str, target: Target) -> engine.Job:
        """How to start a worker for a module."""
        raise NotImplementedError

    def fingerprint(self, module: str) -> bytes:
        """Everything that this module's baseline depends on, except machine, interpreter and workers."""
        raise NotImplementedError

    def owns(self, module: str, test_id: str) -> bool:
        """Whether the test of this id belongs to the module.  Decides where an exception applies."""
        raise NotImplementedError

    def baseline(
        self, module: str, *, test_seconds: float | None = None, renew: bool = False
    ) -> dict[str, dict]:
        """asyncio's own results for a module, by test id; measured if they are not in the cache."""
        excluded = load_exceptions().excluded(self.name)
        digest = hashlib.sha256(
            _facts_about_this_machine() + repr(excluded).encode() + self.fingerprint(module)
        )
        file = f"{self.name}-{platform.python_version()}-{module}-{digest.hexdigest()[:16]}.json"
        path = cache_folder() / file
        if not renew and path.exists():
            return json.loads(path.read_text())
        place = Target("asyncio")
        job = self.job(module, place)
        limits = engine.Limits(test_seconds or self.test_seconds, self.module_seconds)
        results = engine.run_module(job, place, skip=excluded, limits=limits)
        not_failed = (*engine.OK, "skipped", "internal")
        failed = {test_id for test_id, record in results.tests.items() if record["o"] not in not_failed}
        # One failure in three tries may be the machine's; a test that fails twice is unreliable: it does not count.
        once = engine.rerun(job, place, failed, limits)
        results.tests |= engine.rerun(job, place, set(once), limits)
        if results.problems:
            raise BaselineFailed(f"asyncio's own run of {module} went wrong: {'; '.join(results.problems)}")
        for record in results.tests.values():
            record.pop("trace", None)
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(f".{os.getpid()}")
        fresh.write_text(json.dumps(results.tests, indent=0))
        fresh.replace(path)
        return results.tests

    def check(
        self,
        module: str,
        place: Target,
        *,
        test_seconds: float | None = None,
        module_seconds: float | None = None,
        renew: bool = False,
    ) -> Verdict:
        """Run the tests of a module that count, run failing ones again, and judge."""
        exceptions = load_exceptions()
        try:
            base = self.baseline(module, test_seconds=test_seconds, renew=renew)
        except BaselineFailed as ex:
            return Verdict(problems=[str(ex)])
        ids = counted(base, exceptions.excluded(self.name), self.each_makes_a_loop)
        allowed = exceptions.applying(self.name, PYTHON, place.monitor) if place.loop == "uringloop" else {}
        allowed = {test_id: reason for test_id, reason in allowed.items() if self.owns(module, test_id)}
        limits = engine.Limits(test_seconds or self.test_seconds, module_seconds or self.module_seconds)
        job = self.job(module, place)
        results = engine.run_module(job, place, only=ids, limits=limits) if ids else engine.Results()
        failed = {i for i, record in results.tests.items() if i in ids and not engine.is_ok(record)}
        for test_id, record in engine.rerun(job, place, failed - set(allowed), limits).items():
            results.tests[test_id] = {**record, "flaky": True}
        return judge(ids, base, results, allowed, self.each_makes_a_loop)

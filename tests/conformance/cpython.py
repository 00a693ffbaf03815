"""The suite `cpython`: the interpreter's own test_asyncio.

What asyncio passes, the loop under test has to pass.  So asyncio is measured first, on this machine and with
the same redirection (which then makes asyncio's own loop): some of the tests depend on root, DNS or IPv6.
The results are kept in the user's cache folder, by interpreter, kernel, user and the sources of tests and
workers.
"""

import functools
import hashlib
import importlib.util
import json
import os
import platform
import sys
from pathlib import Path

from . import engine
from .judge import Verdict, counted, judge, load_exceptions
from .targets import INJECT, Target, Unavailable

PACKAGE = "test.test_asyncio"
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
#: The modules with tests that count.  Not here: those that only use mocks, or loops of their own making.
MODULES = (
    *("test_events", "test_sock_lowlevel", "test_streams", "test_server", "test_buffered_proto"),
    *("test_sendfile", "test_subprocess", "test_unix_events", "test_ssl", "test_sslproto", "test_runners"),
    *("test_base_events", "test_tasks", "test_futures2", "test_locks", "test_queues", "test_taskgroups"),
    *("test_timeouts", "test_waitfor", "test_staggered", "test_eager_task_factory", "test_context"),
    "test_threads",
)


class BaselineFailed(Exception):
    """asyncio itself could not be measured: nothing can be said about the loop under test."""


def sources() -> Path:
    """The folder of the installed tests.  Raises Unavailable."""
    try:
        spec = importlib.util.find_spec(PACKAGE)
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise Unavailable(
            f"{sys.executable} was installed without its tests (Debian, Ubuntu: libpython{PYTHON}-testsuite)"
        )
    return Path(spec.submodule_search_locations[0])


def modules(named: list[str] | None = None) -> list[str]:
    """The modules to run; those not in this Python are left out.  Raises Unavailable for unknown names."""
    folder = sources()
    if unknown := set(named or ()) - set(MODULES):
        raise Unavailable(f"unknown modules: {', '.join(sorted(unknown))}; there are {', '.join(MODULES)}")
    return [name for name in MODULES if name in (named or MODULES) and (folder / f"{name}.py").exists()]


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "uringloop" / "conformance"


@functools.cache
def _fingerprint() -> "hashlib._Hash":
    """Hash of all that the baseline depends on, but for the module's own source."""
    facts = (sys.version, sys.executable, platform.release(), os.geteuid(), load_exceptions().excluded)
    digest = hashlib.sha256(repr(facts).encode())
    for path in (*sorted(INJECT.glob("*.py")), sources() / "utils.py"):
        digest.update(path.read_bytes())
    return digest


def baseline(name: str, *, test_seconds: float, renew: bool = False) -> dict[str, dict]:
    """asyncio's own results for a module, by test id; measured where the cache has none."""
    digest = _fingerprint().copy()
    digest.update((sources() / f"{name}.py").read_bytes())
    path = cache_folder() / f"cpython-{platform.python_version()}-{name}-{digest.hexdigest()[:16]}.json"
    if not renew and path.exists():
        return json.loads(path.read_text())
    place, module, limits = Target("asyncio"), f"{PACKAGE}.{name}", engine.Limits(test_seconds)
    results = engine.run_module(module, place, skip=load_exceptions().excluded, limits=limits)
    not_failed = (*engine.OK, "skipped", "internal")
    failed = {test_id for test_id, record in results.tests.items() if record["o"] not in not_failed}
    # One failure in three tries is the machine's; a test that fails twice is not dependable: it won't count.
    once = engine.rerun(module, place, failed, limits)
    results.tests |= engine.rerun(module, place, set(once), limits)
    if results.problems:
        raise BaselineFailed(f"asyncio's own run of {name} went wrong: {'; '.join(results.problems)}")
    for record in results.tests.values():
        record.pop("trace", None)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.write_text(json.dumps(results.tests, indent=0))
    fresh.replace(path)
    return results.tests


def check(
    name: str, place: Target, *, test_seconds: float, module_seconds: float = 900.0, renew: bool = False
) -> Verdict:
    """Run the tests of a module that count, those that fail once more, and judge."""
    module, exceptions = f"{PACKAGE}.{name}", load_exceptions()
    try:
        base = baseline(name, test_seconds=test_seconds, renew=renew)
    except BaselineFailed as ex:
        return Verdict(problems=[str(ex)])
    ids = counted(base, exceptions.excluded)
    allowed = exceptions.applying(PYTHON, place.monitor) if place.loop == "uringloop" else {}
    allowed = {test_id: reason for test_id, reason in allowed.items() if test_id.startswith(module + ".")}
    limits = engine.Limits(test_seconds, module_seconds)
    results = engine.run_module(module, place, only=ids, limits=limits) if ids else engine.Results()
    failed = {i for i, record in results.tests.items() if i in ids and not engine.is_ok(record)}
    for test_id, record in engine.rerun(module, place, failed - set(allowed), limits).items():
        results.tests[test_id] = {**record, "flaky": True}
    return judge(ids, base, results, allowed)

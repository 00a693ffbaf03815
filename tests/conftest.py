"""Fixtures of every test: a loop on each monitor, and a check that the test left nothing behind.

Asynchronous tests run on every loop through pytest-asyncio's ``pytest_asyncio_loop_factories``. Others
ask for ``loop`` (one loop), ``new_loop`` (a function that makes loops) or ``monitor`` (the name only, for
scripts that run in a process of their own). Tests under ``behaviour`` and ``stress`` run on stock asyncio as
well: they specify what asyncio does.

After each test the open fds, the requests in flight and the live handles and transports must be what they
were before. An exception that reached a loop's exception handler, or an error in asyncio's log, fails the
test unless it is marked ``expects_loop_errors``. A test that hangs is ended, with all threads' tracebacks.
"""

import asyncio
import contextlib
import faulthandler
import functools
import gc
import importlib.util
import inspect
import logging
import os
import pathlib
import sys
import sysconfig
import time
import traceback
import warnings
from collections import Counter

import pytest

TESTS = pathlib.Path(__file__).parent
if str(TESTS) not in sys.path:
    sys.path.append(str(TESTS))

try:
    import drivers.core

    HAS_LIBURING = importlib.util.find_spec("uringloop.uring.ring") is not None
    if HAS_LIBURING:
        import drivers.ring  # noqa: F401  (otherwise tests that need it would be skipped)
except ModuleNotFoundError as _error:
    pytest.exit(f"the tests' own modules are not built ({_error}): make drivers", returncode=4)

from support import helpers  # noqa: E402
from support.helpers import STOCK, URING_MONITORS, make_loop  # noqa: E402

HANG_SECONDS = 150
HANG_SECONDS_SLOW = 400
DEADLINE_SECONDS = 60  # for an asynchronous test, whose timers are expected to work
DEADLINE_SECONDS_SLOW = 240
POOLED_RINGS_MAX = 8  # the process-wide pool of rings may fill up during a test

RUNNING_TEST = pathlib.Path("build/running-test.txt")  # the name of the running test, in case the run hangs

_stderr_fd = pytest.StashKey[int]()
_call_report = pytest.StashKey[pytest.TestReport]()


def pytest_addoption(parser):
    parser.addoption(
        "--monitor",
        action="append",
        choices=[*URING_MONITORS, "uringloop", STOCK],
        help="run only on this monitor, on uringloop's (all of them) or on stock asyncio; may be repeated",
    )
    parser.addoption(
        "--glib", action="store_true", help="uringloop's loops run inside GLib's main contexts (PyGObject)"
    )
    parser.addoption(
        "--glib-outer",
        action="store_true",
        help="GLib.MainLoop.run() runs uringloop's loops (PyGObject)",
    )


def pytest_configure(config):
    if "uringloop" in (config.option.monitor or ()):
        config.option.monitor = [*config.option.monitor, *URING_MONITORS]
    helpers.glib_is_outer = config.getoption("--glib-outer")
    helpers.inside_glib = config.getoption("--glib") or helpers.glib_is_outer
    if helpers.inside_glib:
        # GLib's default context and PyGObject's signal handling open fds of their own here
        loop = helpers.make_loop("poll")
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
    config.addinivalue_line("markers", "slow: necessarily takes longer than a quarter of a second")
    config.addinivalue_line(
        "markers", "expects_loop_errors: the loop's exception handler is called on purpose"
    )
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
        config.stash[_stderr_fd] = os.dup(2)


def pytest_runtest_logstart(nodeid):
    """The watchdog ends the process at once, before pytest can report in which test that was."""
    if RUNNING_TEST.parent.is_dir():
        RUNNING_TEST.write_text(nodeid + "\n")


def pytest_sessionfinish():
    RUNNING_TEST.unlink(missing_ok=True)


def pytest_unconfigure(config):
    if _stderr_fd in config.stash:
        os.close(config.stash[_stderr_fd])
        del config.stash[_stderr_fd]


def pytest_collection_finish(session):
    """Objects that exist before the first test are not checked again, to keep the checks cheap."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.when == "call":
        item.stash[_call_report] = report
    return report


# Loops


class Watch:
    """The loops of the running test, and the calls of their exception handlers."""

    def __init__(self):
        self.loops = []
        self.contexts = []
        self.reports = []

    def record(self, loop, context):
        self.contexts.append(context)
        error = context.get("exception")
        text = "".join(traceback.format_exception(error)) if error is not None else ""
        self.reports.append(f"{context.get('message')}\n{text}")


_watch = Watch()
_worked = set()


def _watched_loop(name):
    """A new loop on the monitor `name`; the test is skipped if this machine has no such monitor."""
    if name == STOCK:
        loop = make_loop(name)
    else:
        import uringloop

        try:
            loop = make_loop(name)
        except uringloop.MonitorUnavailable as error:
            if name in _worked:  # it worked a moment ago: this is a leak, and no reason to skip
                raise
            pytest.skip(f"{name}: {error}")
    _worked.add(name)
    loop.set_exception_handler(_watch.record)
    _watch.loops.append(loop)
    return loop


def _monitors(config, item):
    wanted = config.getoption("--monitor") or []
    path = item.path
    folders = path.relative_to(TESTS).parts
    with_stock = folders[0] in ("behaviour", "stress") and not path.name.startswith(
        "test_nested"
    )  # only uringloop's
    if item.get_closest_marker("slow") is not None and STOCK not in wanted:
        with_stock = False  # slow tests would only test asyncio; the short ones show what it does
    names = [*URING_MONITORS, STOCK] if with_stock else list(URING_MONITORS)
    if folders[0] == "raw":  # only io_uring has them; test_refused.py tests how other monitors refuse them
        names = ["io_uring"]
    return [name for name in names if not wanted or name in wanted]


def pytest_asyncio_loop_factories(config, item):
    names = _monitors(config, item)
    if not names:  # --monitor asyncio with a test of uringloop only
        return {"none": _skip_unselected}
    factories = {name: functools.partial(_watched_loop, name) for name in names}
    since = item.get_closest_marker("stock_since")
    if STOCK in factories and since is not None and sys.version_info < since.args[0]:
        factories[STOCK] = _skip_old_stock
    return factories


def _skip_unselected():
    pytest.skip("not about the monitor of --monitor")


def _skip_old_stock():
    pytest.skip("a bug of asyncio in this version of Python")


def pytest_generate_tests(metafunc):
    if "monitor" in metafunc.fixturenames:
        names = _monitors(metafunc.config, metafunc.definition)
        metafunc.parametrize("monitor", names, indirect=True)


@pytest.fixture
def monitor(request):
    """The name of a monitor, or "asyncio" for the stock loop. Skips if it is not available."""
    name = request.param
    if name not in _worked:
        _watched_loop(name).close()
    return name


@pytest.fixture
def new_loop(monitor):
    """A function that makes a loop on this test's monitor; all of them are closed afterwards."""
    loops = []

    def new():
        loops.append(_watched_loop(monitor))
        return loops[-1]

    yield new
    for loop in loops:
        if not loop.is_closed():
            with contextlib.suppress(RuntimeError):
                loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()


@pytest.fixture
def loop(new_loop):
    """One loop, not running."""
    return new_loop()


@pytest.fixture
def loop_errors(request):
    """The contexts with which exception handlers were called in this test."""
    assert request.node.get_closest_marker("expects_loop_errors"), "mark the test expects_loop_errors"
    return _watch.contexts


# Nothing is left behind


class _ErrorLog(logging.Handler):
    def __init__(self):
        super().__init__(logging.ERROR)
        self.lines = []

    def emit(self, record):
        self.lines.append(self.format(record))


def _open_fds():
    """Two counters: descriptions of the open fds that are not rings, and of the rings."""
    others, rings = Counter(), Counter()
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue  # the fd of the directory itself
        if target == "anon_inode:[io_uring]":
            rings[target] += 1
        else:
            others[f"{fd} -> {target}"] += 1
    return others, rings


def _package(kind):
    """A class's top-level package. Compiled classes may have a property instead of a name."""
    module = kind.__module__
    return module.partition(".")[0] if isinstance(module, str) else "uringloop"


@functools.cache
def _is_counted(kind):
    names = [base.__name__ for base in kind.__mro__ if _package(base) in ("asyncio", "uringloop")]
    return any(name.endswith(("Handle", "Transport", "Server")) for name in names)


def _live_objects():
    if sysconfig.get_config_var("Py_GIL_DISABLED") and sys.version_info < (3, 14):
        return Counter()  # classes are immortal there, and keep what the functions in them refer to
    return Counter(
        f"{_package(type(thing))} {type(thing).__name__}"
        for thing in gc.get_objects()
        if _is_counted(type(thing))
    )


def _more_objects_than(before):
    """New live objects; waits for threads that are about to end (those of stock asyncio for child processes)."""
    give_up_s = time.monotonic() + PATIENCE_S
    while True:
        gc.collect()
        more = _live_objects() - before
        if not more or time.monotonic() > give_up_s:
            return more
        time.sleep(0.02)


def _forget_failures():
    """Do not blame the next test for objects that a failed test left open."""
    for name in ("last_exc", "last_type", "last_value", "last_traceback"):
        if hasattr(sys, name):
            delattr(sys, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


# Each test ends with a full collection. Reports and modules pile up, and after some thousand tests to traverse them
# took longer than the tests; objects that have survived this many tests are set aside.
TESTS_BETWEEN_FREEZES = 50
PATIENCE_S = 10
_tests_since_freeze = 0


def _set_old_objects_aside():
    global _tests_since_freeze
    _tests_since_freeze += 1
    if _tests_since_freeze >= TESTS_BETWEEN_FREEZES:
        _tests_since_freeze = 0
        gc.freeze()


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(request):
    global _watch
    slow = request.node.get_closest_marker("slow") is not None
    expects_errors = request.node.get_closest_marker("expects_loop_errors") is not None
    _watch = Watch()
    log = _ErrorLog()
    logging.getLogger("asyncio").addHandler(log)
    _forget_failures()
    _set_old_objects_aside()
    objects_before, (fds_before, rings_before) = _live_objects(), _open_fds()
    seconds = HANG_SECONDS_SLOW if slow else HANG_SECONDS
    faulthandler.dump_traceback_later(seconds, exit=True, file=request.config.stash[_stderr_fd])
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        logging.getLogger("asyncio").removeHandler(log)
    reports, loops, log_lines = _watch.reports, _watch.loops, log.lines
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _watch.contexts.clear()
    _watch = Watch()
    problems = [f"loop not closed: {loop!r}" for loop in loops if not loop.is_closed()]
    for loop in loops:
        in_flight = loop.statistics()["in_flight"] if hasattr(loop, "statistics") else 0
        if in_flight:
            problems.append(f"{in_flight} requests still in flight: {loop!r}")
    loops.clear()
    loop = None
    report = request.node.stash.get(_call_report, None)
    if report is not None and report.passed:  # the traceback of a failure keeps objects alive
        more_objects = _more_objects_than(objects_before)
        fds, rings = _open_fds()
        problems += [f"still alive: {count} x {kind}" for kind, count in more_objects.items()]
        problems += [f"fd still open: {fd}" for fd in fds - fds_before]
        if rings.total() > max(POOLED_RINGS_MAX, rings_before.total()):
            problems.append(f"{rings.total()} rings are open, {rings_before.total()} were before")
    if not expects_errors:
        problems += [f"the exception handler was called: {text}" for text in reports]
        problems += [f"asyncio's log has an error: {line}" for line in log_lines]
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)


# A deadline for asynchronous tests


def pytest_collection_modifyitems(items):
    if not HAS_LIBURING:
        for item in items:
            if item.get_closest_marker("needs_liburing") is not None:
                item.add_marker(pytest.mark.skip(reason="a build without liburing"))
    if not helpers.HAS_CFFI:
        for item in items:
            if item.get_closest_marker("needs_cffi") is not None:
                item.add_marker(pytest.mark.skip(reason="no cffi for this Python"))
    for item in items:
        if helpers.glib_is_outer and SystemExit in _parameters(item):
            item.add_marker(
                pytest.mark.skip(reason="SystemExit in a callback of GLib.MainLoop ends the process")
            )
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            slow = item.get_closest_marker("slow") is not None
            item.obj = _with_deadline(item.obj, DEADLINE_SECONDS_SLOW if slow else DEADLINE_SECONDS)


def _parameters(item):
    """The values of a parametrized test."""
    return (getattr(item, "callspec", None) and list(item.callspec.params.values())) or []


def _with_deadline(function, seconds):
    """A test that waits for too long shows where it waits, and the others still run."""

    @functools.wraps(function)
    async def wrapper(*args, **kwargs):
        async with asyncio.timeout(seconds):
            return await function(*args, **kwargs)

    return wrapper

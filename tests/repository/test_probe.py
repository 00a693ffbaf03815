"""uringloop.liburing.probe(): the kernel's report, made once per process."""

import dataclasses
import errno
import os
import resource
import subprocess
import sys
import threading

import pytest

from uringloop.exceptions import MonitorUnavailable
from uringloop.liburing import Feature, Op, Probe, enums, probe, probing
from uringloop.liburing.features import liburing_build

from .test_kernel_features import ROOT, io_uring_works

needs_io_uring = pytest.mark.skipif(not io_uring_works(), reason="no io_uring here")


@pytest.fixture(autouse=True)
def _probe_again():
    probing._kept = None
    yield
    probing._kept = None


@needs_io_uring
def test_probe_reports_what_the_kernel_has():
    found = probe()
    assert {Op.NOP, Op.POLL_ADD, Op.SEND} <= found.ops
    assert Feature.NODROP | Feature.EXT_ARG in found.features
    assert found.supports(Op.NOP)
    assert found.supports(0)
    assert not found.supports(250)
    assert not found.supports(-1)
    assert found.ops == {op for op in Op if found.supports(op)}


@needs_io_uring
def test_features_of_one_kernel_version_are_all_there_or_none():
    """The `since` of operations and features agree with each other on this kernel."""
    found = probe()
    newest = max((op.since for op in found.ops), key=enums.version)
    older = {op for op in Op if enums.version(op.since) < enums.version(newest)}
    assert older - found.ops <= {
        Op.EPOLL_CTL,
        Op.EPOLL_WAIT,
        Op.RECV_ZC,
        Op.URING_CMD,
    }  # the kernel's options
    old = [feature for feature in Feature if enums.version(feature.since) < enums.version(newest)]
    assert [feature for feature in old if feature not in found.features] == []


@needs_io_uring
def test_probe_makes_one_ring_and_closes_it():
    before = os.listdir("/proc/self/fd")
    first = probe()
    assert probe() is first
    assert os.listdir("/proc/self/fd") == before
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.features = Feature(0)
    assert isinstance(first, Probe)
    assert "_numbers" not in repr(first)


@needs_io_uring
async def test_probe_works_while_a_loop_runs_and_in_another_thread():
    found = []
    thread = threading.Thread(target=lambda: found.append(probe()))
    thread.start()
    thread.join()
    assert found == [probe()]


@needs_io_uring
@pytest.mark.filterwarnings(
    "ignore:.*fork.*:DeprecationWarning"
)  # faulthandler's watchdog, since Python 3.15
def test_a_forked_child_probes_again():
    """Its limits may differ, as here: there is no file descriptor for a ring."""
    probe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
            probe()
        except MonitorUnavailable as error:
            status = 0 if error.errno == errno.EMFILE else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@needs_io_uring
def test_a_refusal_is_not_kept(monkeypatch):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        with pytest.raises(MonitorUnavailable, match=r"EMFILE .*RLIMIT_NOFILE"):
            probe()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert Op.NOP in probe().ops


def run(script):
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {**os.environ, "PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, env=environment)


ASK = (
    "from uringloop.exceptions import MonitorUnavailable\n"
    "from uringloop.liburing import Op, probe\n"
    "try:\n"
    "    probe()\n"
    "except MonitorUnavailable as error:\n"
    "    assert {expected!r} in str(error), error\n"
    "else:\n"
    "    raise SystemExit('no error')\n"
)


@pytest.mark.skipif(liburing_build() is None, reason="this build has no liburing to be refused")
@pytest.mark.parametrize(("error", "expected"), [(errno.EPERM, "seccomp"), (errno.ENOSYS, "ENOSYS")])
def test_a_refusal_gives_the_reason(error, expected):
    run(
        f"from support.helpers import refuse_io_uring\nrefuse_io_uring({error})\n"
        + ASK.format(expected=expected)
    )


def test_a_build_without_liburing_is_reported():
    script = "import sys\nsys.modules['uringloop.liburing._ffi'] = None\n"
    run(script + ASK.format(expected="this build of uringloop has no liburing"))

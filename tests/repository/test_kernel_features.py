"""The table of kernel features: complete, up to date in docs/, and probed without leaks."""

import os
import pathlib
import runpy

import pytest
from support.helpers import run_script

from uringloop.exceptions import MonitorUnavailable
from uringloop.fdmon.select import make_monitor
from uringloop.liburing import features

ROOT = pathlib.Path(__file__).parents[2]


def io_uring_works():
    try:
        monitor, _ = make_monitor("io_uring")
    except MonitorUnavailable:
        return False
    del monitor
    return True


def test_the_document_is_generated_from_the_table_and_the_runs():
    path = ROOT / "docs" / "kernel-support.md"
    section = runpy.run_path(str(ROOT / "tools" / "kernels" / "document.py"))["section"]
    assert path.read_text() == features.markdown() + section(), "python tools/kernels --document"


def test_each_feature_is_found_or_explained():
    findings = features.try_all()
    assert [finding.feature for finding in findings] == [*features.FEATURES, features.EPOLL_PWAIT2]
    for finding in findings:
        assert finding.is_available is not None or finding.reason


def test_io_uring_is_found_exactly_if_a_loop_gets_it():
    without = {features.FEATURES[0].without, features._NEEDED}
    needed = [one.is_available for one in features.try_all() if one.feature.without in without]
    assert len(needed) > 10
    assert all(needed) == io_uring_works()


def test_features_of_old_kernels_are_not_missed():
    """A probe that fails although one of a newer feature works is itself wrong."""

    def since(feature):
        return tuple(int(part) for part in feature.since.split()[0].split("."))

    findings = features.try_all()[
        :-1
    ]  # io_uring is backported as a whole, without epoll_pwait2 (5.10 has that of 5.15)
    newest = max((since(one.feature) for one in findings if one.is_available), default=(0, 0))
    missed = [
        one.feature.name for one in findings if one.is_available is False and since(one.feature) <= newest
    ]
    if not findings[0].is_available:
        pytest.skip("no io_uring")
    assert missed == []


def test_probing_leaves_no_fd_open():
    features.try_all()
    before = os.listdir("/proc/self/fd")
    features.try_all()
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_missing_feature_is_described_with_its_consequence():
    text = features.describe(features.Finding(features.FEATURES[1], False, "EINVAL"))
    assert text.startswith("no")
    assert "EINVAL; no io_uring: the loop falls back" in text


@pytest.mark.skipif(not io_uring_works(), reason="no io_uring")
def test_a_probe_without_a_descriptor_finds_nothing_out():
    """Each probe needs more than its ring; what fails for want of a descriptor is not a missing feature."""
    script = """
    import os, resource
    from uringloop.liburing import features, lib
    features.try_all()  # everything is imported
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    fds = []
    try:
        while True:
            fds.append(os.dup(0))
    except OSError:
        os.close(fds.pop())  # room for the ring, and for nothing else
    found = {one.feature.name: one for one in features.try_all()}
    assert found["io_uring"].is_available
    for name in ("multishot poll", "multishot receive", "short sends report their count"):
        assert found[name].is_available is None, found[name]
        assert found[name].reason == "EMFILE"
    """
    run_script(script)

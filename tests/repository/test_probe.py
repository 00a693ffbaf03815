"""The table of kernel features: complete, up to date in docs/, and probed without leaving anything behind."""

import os
import pathlib

import pytest

from uringloop.exceptions import MonitorUnavailable
from uringloop.fdmon.select import make_monitor
from uringloop.liburing import probe

ROOT = pathlib.Path(__file__).parents[2]


def io_uring_works():
    try:
        monitor, _ = make_monitor("io_uring")
    except MonitorUnavailable:
        return False
    del monitor
    return True


def test_the_document_is_generated_from_the_table():
    path = ROOT / "docs" / "kernel-support.md"
    assert path.read_text() == probe.markdown(), (
        "python -m uringloop.liburing.probe --markdown > docs/kernel-support.md"
    )


def test_each_feature_is_found_or_explained():
    findings = probe.probe()
    assert [one.feature for one in findings] == [*probe.FEATURES, probe.EPOLL_PWAIT2]
    for one in findings:
        assert one.is_available is not None or one.reason


def test_io_uring_is_found_exactly_where_a_loop_gets_it():
    assert bool(probe.probe()[0].is_available) == io_uring_works()


def test_what_old_kernels_have_is_not_missed():
    """A probe that says no where newer features work is itself at fault."""
    found = {one.feature.name: one.is_available for one in probe.probe()}
    if not found["`FEAT_NO_IOWAIT`"]:
        pytest.skip("Linux before 6.15, or no io_uring")
    assert [name for name, is_available in found.items() if is_available is False] == []


def test_probing_leaves_no_fd_behind():
    probe.probe()
    before = os.listdir("/proc/self/fd")
    probe.probe()
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_missing_feature_is_described_with_its_consequence():
    text = probe.describe(probe.Finding(probe.FEATURES[1], False, "EINVAL"))
    assert text.startswith("no")
    assert "EINVAL; io_uring is not used" in text

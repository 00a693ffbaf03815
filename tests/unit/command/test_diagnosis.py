"""The doctor's diagnosis: every combination of an answer and a place has one kind, and says what to change."""

import dataclasses
import errno
import pathlib
import re

import pytest

from uringloop.command import diagnosis, surroundings
from uringloop.command.diagnosis import EXIT_STATUS, Refusal
from uringloop.liburing import features

ROOT = pathlib.Path(__file__).parents[3]

PLAIN = surroundings.Surroundings(
    container=None,
    container_hint=None,
    unit=None,
    emulator=None,
    has_filter=False,
    security_modules=(),
    disabled="",
    is_compiled_in=None,
    release="6.12.0",
    memlock_bytes=8 << 20,
    ignores_memlock=False,
    nofile=1 << 20,
    nofile_hard=1 << 20,
)


def place(**changed):
    return dataclasses.replace(PLAIN, **changed)


FILTERED = place(has_filter=True)

CASES = [
    ("sysctl", errno.EPERM, place(disabled="2")),
    ("sysctl", errno.EPERM, place(disabled="1", has_filter=True)),
    ("seccomp", errno.EPERM, FILTERED),
    ("lsm", errno.EPERM, PLAIN),
    ("lsm", errno.EACCES, PLAIN),
    ("lsm", errno.EACCES, place(has_filter=True, security_modules=("SELinux",))),
    ("seccomp", errno.EACCES, FILTERED),
    ("seccomp", errno.ENOSYS, FILTERED),
    ("seccomp", errno.ENOSYS, place(has_filter=True, is_compiled_in=True)),
    ("kernel-config", errno.ENOSYS, place(has_filter=True, is_compiled_in=False)),
    ("kernel-config", errno.ENOSYS, PLAIN),
    ("old-kernel", errno.ENOSYS, place(release="4.19.0-27-amd64")),
    ("emulator", errno.ENOSYS, place(emulator="gVisor", has_filter=True)),
    ("old-kernel", errno.EINVAL, PLAIN),
    ("memlock", errno.ENOMEM, PLAIN),
    ("memory", errno.ENOMEM, place(memlock_bytes=None)),
    ("memory", errno.ENOMEM, place(ignores_memlock=True)),
    ("nofile", errno.EMFILE, FILTERED),
    ("files", errno.ENFILE, PLAIN),
    ("seccomp", errno.EIO, FILTERED),
    ("other", errno.EIO, PLAIN),
    ("other", 0, FILTERED),
]


@pytest.mark.parametrize(("kind", "error", "where"), CASES)
def test_the_kind_follows_from_the_errno_and_the_place(kind, error, where):
    assert diagnosis.kind_of(Refusal(error), where) == kind
    assert diagnosis.changes(kind, where)


def test_a_filter_that_kills_and_a_build_without_liburing_have_no_errno_of_the_kernel():
    assert diagnosis.kind_of(Refusal(0, is_killed=True), PLAIN) == "seccomp"
    assert diagnosis.kind_of(Refusal(errno.ENOSYS, has_liburing=False), FILTERED) == "build"


def test_the_cases_above_cover_all_kinds():
    found = {kind for kind, _, _ in CASES} | {"ok", "forced", "setting", "build"}
    assert found == set(EXIT_STATUS)


def test_each_fault_has_an_exit_status_of_its_own():
    faults = [status for kind, status in EXIT_STATUS.items() if kind not in ("ok", "forced")]
    assert len(set(faults)) == len(faults)
    assert 0 not in faults
    assert 2 not in faults  # argparse's


def test_the_document_lists_the_kinds_with_their_exit_statuses():
    text = (ROOT / "docs" / "monitors.md").read_text()
    rows = re.findall(r"^\| `([\w-]+)` \| (\d+) \|", text, re.MULTILINE)
    assert {kind: int(status) for kind, status in rows} == EXIT_STATUS
    assert len(rows) == len(EXIT_STATUS)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"container": "docker"}, "docker run --security-opt seccomp=PROFILE.json"),
        ({"container": "podman"}, "podman run --security-opt seccomp=PROFILE.json"),
        ({"container": "kubernetes"}, "localhostProfile: PROFILE.json"),
        ({"container": "containerd"}, "--seccomp-profile PROFILE.json"),
        ({"container": "lxc"}, "lxc.seccomp.profile"),
        ({"container": "systemd-nspawn"}, "--system-call-filter=@aio"),
        ({"container": "oci"}, "start the container with a seccomp profile"),
        (
            {"unit": "web.service"},
            "systemctl edit web.service: SystemCallFilter=@aio below [Service], if it has",
        ),
        ({}, "the program that started this one"),
    ],
)
def test_a_seccomp_filter_is_changed_where_it_comes_from(where, expected):
    (text,) = diagnosis.changes("seccomp", place(has_filter=True, **where))
    assert expected in text


def test_the_unit_of_a_container_comes_first():
    first, second = diagnosis.changes("seccomp", place(container="docker", unit="web.service"))
    assert first.startswith("systemctl edit web.service")
    assert second.startswith("docker run")


def test_who_is_killed_learns_how_to_fall_back():
    *_, text = diagnosis.changes("seccomp", place(unit="web.service"), is_killed=True)
    assert "SystemCallErrorNumber=EPERM" in text
    *_, text = diagnosis.changes("seccomp", PLAIN, is_killed=True)
    assert "URINGLOOP_FDMON=epoll" in text


def test_the_sysctl_of_a_container_is_the_hosts():
    assert "on the host" not in diagnosis.changes("sysctl", place(disabled="2"))[0]
    assert "on the host" in diagnosis.changes("sysctl", place(disabled="2", container="docker"))[0]


def test_a_group_is_a_remedy_only_if_the_sysctl_respects_it():
    assert len(diagnosis.changes("sysctl", place(disabled="2"))) == 1
    assert "kernel.io_uring_group=GID" in diagnosis.changes("sysctl", place(disabled="1"))[1]


def test_each_security_module_and_emulator_has_its_remedy():
    both = diagnosis.changes("lsm", place(security_modules=("SELinux", "AppArmor")))
    assert [text.split(":")[0] for text in both] == ["SELinux", "AppArmor"]
    assert "gVisor" in diagnosis.changes("emulator", place(emulator="gVisor"))[0]
    assert "qemu-user" in diagnosis.changes("emulator", place(emulator="qemu-user"))[0]


# What is slow


def test_little_locked_memory_is_a_warning_where_it_counts():
    (one,) = diagnosis.memlock_warnings(place(memlock_bytes=64 << 10))
    assert "room for 8 loops" in one.text
    assert diagnosis.memlock_warnings(place(memlock_bytes=64 << 10, ignores_memlock=True)) == []
    assert diagnosis.memlock_warnings(place(memlock_bytes=None)) == []
    assert diagnosis.memlock_warnings(PLAIN) == []


@pytest.mark.parametrize(
    ("soft", "hard", "change"),
    [
        (1024, 1 << 20, "ulimit -n 65536"),
        (1024, None, "ulimit -n 65536"),
        (256, 4096, "ulimit -n 4096"),
        (1024, 1024, None),
        (1 << 16, 1 << 20, None),
        (None, None, None),
    ],
)
def test_few_files_are_a_warning_if_there_could_be_more(soft, hard, change):
    found = diagnosis.nofile_warnings(place(nofile=soft, nofile_hard=hard))
    assert [change in one.change for one in found] == ([True] if change else [])


def test_linux_5_19_is_slower_by_what_later_ones_have():
    """The features of that kernel, as the probes would find them."""
    new = ("6.0", "6.1", "6.1 or so", "6.12", "6.15")
    findings = [features.Finding(one, one.since not in new, "EINVAL") for one in features.FEATURES]
    found = diagnosis.feature_warnings(findings)
    assert [one.text.split(",")[0] for one in found] == [
        "no multishot receive",
        "no SETUP_SINGLE_ISSUER and DEFER_TASKRUN",
        "no short sends report their count",
        "no incremental buffer rings (IOU_PBUF_RING_INC)",
    ]
    assert found[1].change == "it came with Linux 6.1"


def test_what_could_not_be_probed_is_no_warning():
    assert diagnosis.feature_warnings(features.unprobed("EMFILE")) == []

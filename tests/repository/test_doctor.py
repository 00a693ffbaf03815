"""`python -m uringloop doctor` where io_uring is really refused: its kind, its words, its exit status."""

import errno
import json
import textwrap

import pytest
from support.helpers import run_script
from support.selection_tools import LIMITED

from .test_kernel_features import io_uring_works
from .test_main_module import REFUSED, ask, facts

pytestmark = pytest.mark.skipif(not io_uring_works(), reason="io_uring is refused here already")

RING_CALLS = [425, 426, 427]

# Everything is imported before the process loses something.
START = """
import argparse, json, os, resource
from uringloop.command import doctor
from uringloop.liburing import lib
"""
END = """
print("status", doctor.main(argparse.Namespace(json=True)))
"""


def examine(before):
    """The doctor's facts and exit status in a process where this code has run."""
    out, _, status = run_script(START + before + END).rpartition("status ")
    found = json.loads(out)
    assert found["exit_status"] == int(status)
    return found


@pytest.mark.parametrize(
    ("error", "kind", "status"),
    [
        (errno.EPERM, "seccomp", 11),
        (errno.ENOSYS, "seccomp", 11),
        (errno.EACCES, "seccomp", 11),
        (errno.EINVAL, "old-kernel", 13),
        (errno.EMFILE, "nofile", 18),
        (errno.ENFILE, "files", 19),
        (errno.EIO, "seccomp", 11),
    ],
    ids=lambda value: errno.errorcode.get(value) if isinstance(value, int) else None,
)
def test_each_answer_of_the_kernel_has_its_exit_status(error, kind, status):
    found = facts(before=REFUSED.format(error=error), expect=status)
    assert (found["kind"], found["exit_status"], found["fdmon"]) == (kind, status, "epoll")
    assert found["io_uring"] == {"is_available": False, "errno": errno.errorcode[error]}
    assert found["place"]["has_filter"]
    text = ask(before=REFUSED.format(error=error), expect=status)
    assert f"\nkind       {kind} (exit status {status})\n" in text
    for change in found["changes"]:
        assert f"\nchange     {change}\n" in text


@pytest.mark.parametrize("call", RING_CALLS)
def test_a_filter_may_refuse_any_of_the_three_calls(call):
    before = f"from support.helpers import refuse_calls\nrefuse_calls([{call}], {errno.EPERM})\n"
    assert facts(before=before, expect=11)["kind"] == "seccomp"


@pytest.mark.parametrize("call", RING_CALLS)
def test_a_filter_that_kills_does_not_kill_the_doctor(call):
    before = f"from support.helpers import kill_for_calls\nkill_for_calls([{call}])\n"
    found = facts(before=before, expect=1)
    assert (found["kind"], found["fdmon"]) == ("seccomp", None)
    assert "SIGSYS" in found["fdmon_reason"]
    assert "URINGLOOP_FDMON=epoll" in found["changes"][-1]
    assert facts(before=before, fdmon="epoll")["kind"] == "forced"
    assert "would not work: SIGSYS" in ask(before=before, fdmon="epoll")


def test_io_uring_that_works_is_status_0():
    found = facts()
    assert (found["kind"], found["exit_status"], found["changes"]) == ("ok", 0, [])
    assert found["io_uring"] == {"is_available": True, "errno": None}


def test_a_forced_monitor_is_no_fault():
    found = facts(fdmon="epoll")
    assert (found["kind"], found["exit_status"], found["fdmon"]) == ("forced", 0, "epoll")
    assert "\nio_uring   would work\n" in ask(fdmon="epoll")
    refused = REFUSED.format(error=errno.EPERM)
    assert facts(fdmon="epoll", before=refused)["io_uring"]["errno"] == "EPERM"
    assert "\nio_uring   would not work: EPERM\n" in ask(fdmon="epoll", before=refused)


def test_the_best_monitor_for_each_loop_is_not_a_forced_one():
    assert facts(fdmon="auto-any", before=REFUSED.format(error=errno.EPERM), expect=11)["kind"] == "seccomp"


def test_where_no_loop_can_be_made_the_kind_still_names_the_cause():
    found = facts(fdmon="io_uring", before=REFUSED.format(error=errno.EPERM), expect=1)
    assert (found["kind"], found["exit_status"], found["fdmon"]) == ("seccomp", 1, None)
    found = facts(fdmon="select", expect=1)
    assert (found["kind"], found["io_uring"]["is_available"]) == ("setting", True)


def test_used_up_locked_memory_is_recognised():
    found = examine(textwrap.dedent(LIMITED) + "limit(4)\n")
    assert (found["kind"], found["exit_status"], found["io_uring"]["errno"]) == ("memlock", 17, "ENOMEM")
    assert "LimitMEMLOCK=" in found["changes"][0]


def test_little_locked_memory_is_a_warning():
    found = examine(textwrap.dedent(LIMITED) + "limit(64)\n")
    if found["fdmon"] == "io_uring":  # on kernels that charge other processes' rings there may be none left
        assert [one["kind"] for one in found["warnings"] if one["kind"] == "memlock"] == ["memlock"]


def test_a_process_without_free_fds_is_recognised():
    fill = """
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    try:
        while True:
            os.dup(0)
    except OSError:
        pass
    """
    found = examine(textwrap.dedent(fill))
    assert (found["kind"], found["exit_status"], found["fdmon"]) == ("nofile", 1, None)
    assert "LimitNOFILE=" in found["changes"][0]


def test_few_open_files_are_a_warning():
    found = examine(
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\n"
    )
    assert found["exit_status"] == 0
    assert "256 open files" in next(one["text"] for one in found["warnings"] if one["kind"] == "nofile")

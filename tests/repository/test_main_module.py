"""`python -m uringloop` reports the monitor and versions in every environment, without a traceback."""

import errno
import json
import os
import pathlib
import subprocess
import sys

import pytest

import uringloop
from uringloop.liburing import features

ROOT = pathlib.Path(__file__).parents[2]

# Run like a script, after making something unavailable before uringloop is imported.
REFUSED = "from support.helpers import refuse_io_uring\nrefuse_io_uring({error})\n"
WITHOUT_LIBURING = (
    "import sys\n"
    "for name in ('liburing._ffi', 'fdmon.io_uring', 'uring.ring', 'transports.ring_wire'):\n"
    "    sys.modules['uringloop.' + name] = None\n"
)
RUN = (
    "import runpy, sys\n"
    "sys.argv = ['uringloop', *{arguments}]\n"
    "runpy.run_module('uringloop', run_name='__main__')\n"
)


def ask(*arguments, before="", fdmon=None, expect=0):
    """stdout of the module in a process of its own; stderr must be empty."""
    environment = {key: value for key, value in os.environ.items() if key != "URINGLOOP_FDMON"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    if fdmon is not None:
        environment["URINGLOOP_FDMON"] = fdmon
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", before + RUN.format(arguments=list(arguments))],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == expect, done.stdout
    return done.stdout


def facts(**how):
    return json.loads(ask("--json", **how))


def test_it_reports_the_monitor_and_the_versions():
    found = facts()
    loop = uringloop.new_event_loop()
    try:
        assert (found["fdmon"], found["fdmon_reason"]) == (loop.fdmon, loop.fdmon_reason)
    finally:
        loop.close()
    assert found["uringloop"] == uringloop.__version__
    assert found["cpus"] == len(os.sched_getaffinity(0))
    assert len(found["features"]) == len(features.FEATURES) + 1


def test_the_default_format_is_text():
    found, text = facts(), ask()
    assert text.startswith(f"monitor    {found['fdmon']}\nbecause    ")
    assert f"uringloop  {uringloop.__version__}\n" in text
    for feature in found["features"]:
        assert feature["name"] in text


def test_doctor_is_the_command_without_a_name():
    assert ask("doctor") == ask()
    assert json.loads(ask("doctor", "--json")).keys() == facts().keys()


def test_the_version():
    assert ask("--version") == f"uringloop {uringloop.__version__}\n"


def test_a_forced_monitor_is_named_with_the_reason():
    found = facts(fdmon="poll")
    assert found["fdmon"] == "poll"
    assert "URINGLOOP_FDMON=poll" in found["fdmon_reason"]
    assert "URINGLOOP_FDMON=poll" in ask(fdmon="poll")


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS])
def test_a_forbidden_io_uring_is_explained(error):
    name = errno.errorcode[error]
    found = facts(before=REFUSED.format(error=error), expect=11)
    assert found["fdmon"] == "epoll"
    assert name in found["fdmon_reason"]
    assert found["features"][0]["is_available"] in (False, None)
    text = ask(before=REFUSED.format(error=error), expect=11)
    assert "monitor    epoll\n" in text
    assert name in text


def test_a_build_without_liburing_is_reported():
    found = facts(before=WITHOUT_LIBURING, expect=16)
    assert found["fdmon"] == "epoll"
    assert "liburing" in found["fdmon_reason"]
    assert found["liburing"] is None
    assert "none in this build" in ask(before=WITHOUT_LIBURING, expect=16)


def test_an_unavailable_monitor_is_status_1():
    how = {"before": REFUSED.format(error=errno.EPERM), "fdmon": "io_uring", "expect": 1}
    assert facts(**how)["fdmon"] is None
    assert "no loop can be made here\nbecause    io_uring: EPERM" in ask(**how)


def test_an_unknown_monitor_is_status_1():
    assert "URINGLOOP_FDMON must be one of" in ask(fdmon="select", expect=1)

"""The examples for files check themselves, on requests and on threads."""

import os
import subprocess
import sys

import pytest

import uringloop

from .documents import ROOT


@pytest.mark.slow
@pytest.mark.parametrize("fdmon", ["io_uring", "epoll"])
@pytest.mark.parametrize("name", ["file_server", "log_tailer", "hash_directory"])
def test_an_example_checks_itself(name, fdmon):
    try:
        uringloop.new_event_loop(fdmon).close()
    except uringloop.MonitorUnavailable as error:
        pytest.skip(str(error))
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", str(ROOT / "examples" / f"{name}.py"), "--check"],
        capture_output=True,
        text=True,
        env={**os.environ, "URINGLOOP_FDMON": fdmon},
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()

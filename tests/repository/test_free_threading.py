"""Free-threaded Pythons: importing uringloop switches the GIL on, or fails."""

import os
import subprocess
import sys
import sysconfig

import pytest

is_free_threaded = pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python always has a GIL"
)

RUN = "import asyncio, uringloop; uringloop.run(asyncio.sleep(0)); print('ran')"


def python(*arguments):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHON_GIL"}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=60, env=environment
    )


def test_without_a_gil_the_import_is_refused_with_the_remedy():
    ended = python("-c", "import sys; sys._is_gil_enabled = lambda: False; import uringloop")
    assert ended.returncode == 1
    assert "ImportError: uringloop needs the GIL" in ended.stderr
    assert "PYTHON_GIL=1" in ended.stderr


@is_free_threaded
def test_a_free_threaded_python_switches_the_gil_on_with_a_warning():
    ended = python("-c", f"import sys; assert not sys._is_gil_enabled(); {RUN}; print(sys._is_gil_enabled())")
    assert ended.stdout.split() == ["ran", "True"]
    assert "RuntimeWarning: The global interpreter lock (GIL) has been enabled" in ended.stderr


@is_free_threaded
def test_a_free_threaded_python_with_its_gil_on_gets_no_warning():
    ended = python("-X", "gil=1", "-W", "error", "-c", RUN)
    assert (ended.stdout, ended.stderr) == ("ran\n", "")


@is_free_threaded
@pytest.mark.parametrize("module", ["uringloop", "uringloop.aio.context_core", "uringloop.files"])
def test_a_free_threaded_python_that_keeps_its_gil_off_is_refused(module):
    ended = python("-X", "gil=0", "-c", f"import {module}")
    assert ended.returncode == 1
    assert "ImportError: uringloop needs the GIL" in ended.stderr

"""Free-threaded Pythons: importing uringloop leaves the GIL off."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

is_free_threaded = pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python always has a GIL"
)

RUN = "import asyncio, sys, uringloop; uringloop.run(asyncio.sleep(0)); print(sys._is_gil_enabled())"
PACKAGE = Path(__file__).parents[2] / "uringloop"


def python(*arguments):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHON_GIL"}
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )


@is_free_threaded
def test_the_gil_stays_off():
    ended = python("-c", RUN)
    assert (ended.stdout, ended.stderr) == ("False\n", "")


@is_free_threaded
def test_it_runs_with_the_gil_on():
    ended = python("-X", "gil=1", "-c", RUN)
    assert (ended.stdout, ended.stderr) == ("True\n", "")


@is_free_threaded
def test_every_compiled_module_leaves_the_gil_off():
    modules = [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in PACKAGE.rglob("*.pyx")
    ]
    ended = python(
        "-c",
        "import importlib, sys\n"
        f"for module in {modules!r}:\n"
        "    try:\n"
        "        importlib.import_module(module)\n"
        "    except ModuleNotFoundError as error:\n"
        "        assert 'uringloop' in error.name\n"  # a build without liburing
        "assert not sys._is_gil_enabled()",
    )
    assert ended.returncode == 0, ended.stderr

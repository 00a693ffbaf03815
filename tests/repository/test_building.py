"""What the build says when something is missing: one sentence, before anything is translated or compiled."""

import os
import pathlib
import stat
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="the tests of an installed wheel")


def run(*words, **environment):
    """The exit status and what a process in the checkout wrote to stderr."""
    done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stderr


def refused(*words, **environment):
    """The one line of a build that was refused."""
    status, text = run(*words, **environment)
    assert status == 1
    assert text.count("\n") == 1, text
    return text


def test_without_a_compiler():
    text = refused("setup.py", "build_ext", CC="/nowhere/cc")
    assert "the C compiler /nowhere/cc is not here" in text
    assert "apt-get install gcc" in text


def test_with_flags_that_the_compiler_refuses():
    text = refused("setup.py", "build_ext", CC="gcc", CFLAGS="-bogus")
    assert "gcc does not work with these CC and CFLAGS" in text
    assert "-bogus" in text


def test_without_headers_of_the_c_library():
    text = refused("setup.py", "build_ext", CC="gcc", CFLAGS="-nostdinc")
    assert "gcc finds no headers of the C library" in text


def test_without_headers_of_linux(tmp_path):
    (tmp_path / "stdio.h").touch()
    text = refused("setup.py", "build_ext", CC="gcc", CFLAGS=f"-nostdinc -I{tmp_path}")
    assert "gcc finds no headers of Linux" in text


def test_without_headers_of_python():
    script = (
        "import sysconfig\n"
        "sysconfig.get_path = lambda name: '/nowhere'\n"
        "from building import checks\n"
        "checks.check()\n"
    )
    text = refused("-c", script)
    assert "(Python.h) are not in /nowhere" in text
    assert "apt-get install python3" in text


def test_with_an_old_python():
    script = "import sys\nsys.version_info = (3, 10, 9)\nfrom building import checks\nchecks.check()\n"
    assert refused("-c", script) == "uringloop needs Python 3.11 or newer, and this is 3.10.\n"


def test_on_another_system():
    script = "import sys\nsys.platform = 'darwin'\nfrom building import checks\nchecks.check()\n"
    assert refused("-c", script) == "uringloop is for Linux only, and this is darwin.\n"


def fake_pkg_config(folder, version):
    """A pkg-config that finds that version of liburing, or none."""
    program = folder / "pkg-config"
    answer = f"echo {version}" if version else "exit 1"
    program.write_text(f'#!/bin/sh\ncase "$1" in --modversion) {answer} ;; *) exit 1 ;; esac\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return str(program)


@pytest.mark.parametrize(("version", "found"), [("2.3", "finds 2.3"), (None, "finds none")])
def test_with_an_old_liburing_of_the_system(tmp_path, version, found):
    how = {"URINGLOOP_SYSTEM_LIBURING": "1", "PKG_CONFIG": fake_pkg_config(tmp_path, version)}
    text = refused("-c", "from building import liburing\nliburing.flags()", **how)
    assert "needs liburing 2.15 or newer" in text
    assert found in text


def test_without_pkg_config():
    how = {"URINGLOOP_SYSTEM_LIBURING": "1", "PKG_CONFIG": "/nowhere/pkg-config"}
    assert "needs pkg-config" in refused("-c", "from building import liburing\nliburing.flags()", **how)


def test_the_version_needs_no_compiler():
    status, text = run("setup.py", "--version", CC="/nowhere/cc")
    assert (status, text) == (0, "")

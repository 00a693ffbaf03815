"""What a build needs, looked at before anything is translated or compiled: one sentence for what is missing."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig

PYTHON_FLOOR = (3, 11)


def compiler_command() -> list[str]:
    """The C compiler that setuptools uses: $CC, else the one that made this Python."""
    return shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")


def _complaint(source: str, *options: str) -> str | None:
    """The first line that the compiler writes of a source that it refuses; None if it takes it."""
    command = [*compiler_command(), *shlex.split(os.environ.get("CFLAGS", "")), *options]
    done = subprocess.run(
        [*command, "-E", "-x", "c", "-"], input=source, capture_output=True, text=True, check=False
    )
    return done.stderr.strip().partition("\n")[0] if done.returncode else None


def _compiles(source: str, *options: str) -> bool:
    return _complaint(source, *options) is None


def check() -> None:
    """Exit with the reason and the remedy if a build is bound to fail."""
    if not sys.platform.startswith("linux"):
        sys.exit(f"uringloop is for Linux only, and this is {sys.platform}.")
    version = ".".join(map(str, sys.version_info[:2]))
    if sys.version_info < PYTHON_FLOOR:
        sys.exit(f"uringloop needs Python 3.11 or newer, and this is {version}.")
    program = compiler_command()[0]
    if shutil.which(program) is None:
        sys.exit(
            f"uringloop is compiled, and the C compiler {program} is not here: on Debian and Ubuntu `apt-get install "
            "gcc libc6-dev`, on Fedora `dnf install gcc`, on Alpine `apk add gcc musl-dev`; or install a wheel."
        )
    complaint = _complaint("")
    if complaint is not None:
        sys.exit(
            f"uringloop is compiled, and {program} does not work with these CC and CFLAGS: {complaint or 'it fails'}"
        )
    if not _compiles("#include <stdio.h>\n"):
        sys.exit(
            f"uringloop is compiled, and {program} finds no headers of the C library: on Debian and Ubuntu `apt-get "
            "install libc6-dev`, on Alpine `apk add musl-dev`; or install a wheel."
        )
    if not _compiles("#include <linux/futex.h>\n"):
        sys.exit(
            f"uringloop is compiled, and {program} finds no headers of Linux: on Debian and Ubuntu `apt-get install "
            "linux-libc-dev`, on Fedora `dnf install kernel-headers`, on Alpine `apk add linux-headers`; or install a "
            "wheel."
        )
    folders = dict.fromkeys(sysconfig.get_path(name) for name in ("include", "platinclude"))
    if not _compiles("#include <Python.h>\n", *(f"-I{folder}" for folder in folders)):
        sys.exit(
            f"uringloop is compiled, and the headers of Python {version} (Python.h) are not in {' or '.join(folders)}: "
            f"on Debian and Ubuntu `apt-get install python{version}-dev`, on Fedora `dnf install python3-devel`, "
            "on Alpine `apk add python3-dev`; or install a wheel."
        )

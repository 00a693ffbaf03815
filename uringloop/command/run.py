"""`python -m uringloop run [-m] APP ...`: a program that knows no uringloop, on uringloop.

It sets environment variables and replaces this process by `python APP ...`, where uringloop.pth reads them.  So the
program has the `__main__`, sys.argv, sys.path, tracebacks, signals and exit status of `python APP`, without a frame of
uringloop, and the processes that it spawns are on uringloop, too.  The price is a second start of the interpreter.
"""

from __future__ import annotations

import argparse
import os
import shutil
import site
import subprocess
import sys
import sysconfig

from _uringloop_startup import ENVIRONMENT

from ..fdmon import select

PTH = "uringloop.pth"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-m", dest="is_module", action="store_true", help="APP is the name of a module")
    parser.add_argument("--as-uvloop", action="store_true", help="`import uvloop` finds uringloop, too")
    parser.add_argument(
        "--fdmon", metavar="NAME", choices=[*select.NAMES, select.ANY], help="the monitor: %(choices)s"
    )
    parser.add_argument(
        "app",
        metavar="APP",
        help="a Python file, a folder or zip file with a __main__.py, or an installed command",
    )
    parser.add_argument("words", metavar="...", nargs=argparse.REMAINDER, help="its arguments")


def main(arguments: argparse.Namespace) -> int:
    try:
        words = arguments.words
        if sys.argv[-len(words) - 2 : len(sys.argv) - len(words)] == [arguments.app, "--"]:
            words = ["--", *words]  # which argparse drops
        command = _command(arguments.app, words, is_module=arguments.is_module)
        _check_installation()
    except ValueError as error:
        print(f"python -m uringloop run: {error}", file=sys.stderr)
        return 2
    names = [word.strip() for word in os.environ.get(ENVIRONMENT, "").split(",") if word.strip()]
    names += ["asyncio", "uvloop"] if arguments.as_uvloop else ["asyncio"]
    environment = {**os.environ, ENVIRONMENT: ",".join(dict.fromkeys(names))}
    if arguments.fdmon is not None:
        environment[select.ENVIRONMENT] = arguments.fdmon
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # closed by who started this, as cron jobs and daemons may be
            stream.flush()
    os.execve(sys.executable, [sys.executable, *_flags(), *command], environment)


def _flags() -> list[str]:
    """The options of the interpreter, of `python OPTIONS -m uringloop run ...`."""
    before = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv[1:])]
    # as the interpreter reads them: `-m uringloop`, `-muringloop`, or joined to others, `-Im uringloop`
    if before[-1:] == ["uringloop"]:
        before.pop()
        module = before.pop()
    else:
        module = before.pop().removesuffix("uringloop")
    others = module.removesuffix("m")
    return before if others == "-" else [*before, others]


def _command(app: str, words: list[str], *, is_module: bool) -> list[str]:
    """The arguments of Python that run APP."""
    if is_module:
        return ["-m", app, *words]
    if os.path.isfile(app) or os.path.isfile(os.path.join(app, "__main__.py")):
        return [os.path.join(os.curdir, app) if app.startswith("-") else app, *words]
    scripts = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    found = shutil.which(app, path=scripts)
    if found is None:
        raise ValueError(
            f"there is no file {app!r}, and no command of that name beside this Python or on the PATH"
        )
    if os.path.realpath(found) == os.path.realpath(sys.executable):
        raise ValueError(
            f"leave {app} out, as in `python -m uringloop run server.py`; its options stand before -m"
        )
    if not _is_python(found):
        raise ValueError(
            f"{found} is not a Python program; if it starts Python, set {ENVIRONMENT} in its environment instead"
        )
    return [found, *words]


def _is_python(path: str) -> bool:
    """Whether the file's first line names Python.  Installers write `#!/bin/sh` if the path of Python is too long for
    the kernel, and the command that runs Python into the second line.
    """
    with open(path, "rb") as file:
        first, second = file.readline(), file.readline()
    return first.startswith(b"#!") and (
        b"python" in first or (second.startswith(b"'''exec'") and b"python" in second)
    )


def _check_installation() -> None:
    """That new interpreters read uringloop.pth: otherwise the program would be on asyncio's loop without a word."""
    folders = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    if any(os.path.exists(os.path.join(folder, PTH)) for folder in folders) and not sys.flags.no_site:
        return
    check = "import sys; sys.exit('_uringloop_startup' not in sys.modules)"
    environment = {**os.environ, ENVIRONMENT: "asyncio"}
    if subprocess.run([sys.executable, *_flags(), "-c", check], env=environment, check=False).returncode != 0:
        raise ValueError(
            f"this Python does not read {PTH}: install uringloop with pip, and start Python without -S"
        )

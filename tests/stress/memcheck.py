"""Small programs under valgrind's memcheck: python -m tests.stress.memcheck [--monitor NAME ...] [PROGRAM ...]

An error counts as the package's if the innermost frame that is not in a system library or the interpreter is in one of
its modules. Status 1 if there are any.
"""

import argparse
import asyncio
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree

sys.path[:0] = [str(pathlib.Path(__file__).parents[1])]

from unit import test_reference_counts as operations  # noqa: E402

import uringloop  # noqa: E402

PROGRAMS = {
    "echo": operations.connections,
    "tls": operations.tls_connections,
    "datagrams": operations.datagrams,
    "sockets": operations.sockets,
    "files": operations.files,
    "requests": operations.raw_requests,
    "nested": operations.nested_runs,
    "callbacks": operations.callbacks,
}
REPEATS = 5
PACKAGE = str(pathlib.Path(uringloop.__file__).parent)


def program(name: str, monitor: str) -> None:
    async def repeat() -> None:
        for _ in range(REPEATS):
            await PROGRAMS[name]()

    loop = uringloop.new_event_loop(fdmon=monitor)
    try:
        loop.run_until_complete(asyncio.wait_for(repeat(), 300))
    finally:
        loop.close()


def is_ours(error: ElementTree.Element) -> bool:
    """Frames of other libraries between are those that the package called."""
    for frame in error.findall("stack/frame"):
        where = frame.findtext("obj") or ""
        if where.startswith(PACKAGE):
            return True
        if "python" in pathlib.Path(where).name:
            return False
    return False


def check(name: str, monitor: str) -> tuple[int, list[str]]:
    """(errors in all, those of the package)."""
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder) / "report.xml"
        command = ["valgrind", "--xml=yes", f"--xml-file={report}", "--error-limit=no", "--num-callers=30"]
        command += [sys.executable, "-m", "tests.stress.memcheck", "--run", name, "--monitor", monitor]
        environment = os.environ | {"PYTHONMALLOC": "malloc", "PYTHONHASHSEED": "0"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            return 0, [f"status {done.returncode}: {done.stderr[-1000:]}"]
        errors = ElementTree.parse(report).getroot().findall("error")
    ours = []
    for error in filter(is_ours, errors):
        frames = [
            f"{frame.findtext('fn')} ({frame.findtext('file')})" for frame in error.findall("stack/frame")[:6]
        ]
        ours.append(f"{error.findtext('kind')}: {' < '.join(frames)}")
    return len(errors), ours


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help=f"default: {', '.join(PROGRAMS)}")
    parser.add_argument("--monitor", nargs="+", default=["io_uring", "epoll"])
    parser.add_argument("--run", choices=PROGRAMS, help="without valgrind")
    options = parser.parse_args()
    if options.run:
        program(options.run, options.monitor[0])
        return 0
    if not shutil.which("valgrind"):
        parser.error("valgrind is missing")
    is_wrong = False
    for monitor in options.monitor:
        for name in options.programs or PROGRAMS:
            count, ours = check(name, monitor)
            is_wrong = is_wrong or bool(ours)
            print(f"{name} on {monitor}: {count} errors, {len(ours)} of the package", flush=True)
            for line in ours:
                print(f"  {line}", flush=True)
    return int(is_wrong)


if __name__ == "__main__":
    sys.exit(main())

"""Frozen programs (PyInstaller, cx_Freeze, Nuitka): uringloop's imports can be found without running it."""

import ast
import json
import os
import re
import subprocess
import sys
from modulefinder import ModuleFinder

import pytest

from .test_kernel_features import ROOT, io_uring_works

PACKAGE = ROOT / "uringloop"
# Imported by name where it is needed.
NOT_OF_PROGRAMS = {"uringloop.glib.native"}

USE = """
import asyncio, json, sys
before = set(sys.modules)
import uringloop, uringloop.liburing
from uringloop import AioContext, BottomHalf, EventNotifier, PollHandler

async def main():
    async def echo(reader, writer):
        writer.write(await reader.read(10))
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"x")
    assert await reader.read(5) == b"x"
    writer.close()
    server.close()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", 0))
    transport.close()
    async with uringloop.open(sys.argv[1]) as file:
        await file.read()

for fdmon in json.loads(sys.argv[2]):
    with asyncio.Runner(loop_factory=lambda: uringloop.new_event_loop(fdmon)) as runner:
        runner.run(main())
try:
    uringloop.liburing.ffi, uringloop.RawRequest, uringloop.Cqe, uringloop.FIRST_RESERVED_GROUP
    uringloop.liburing.Op
except (ImportError, AttributeError):
    pass  # without liburing
print(json.dumps(sorted(set(sys.modules) - before)))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The modules that bytecode analysis finds in a program that imports uringloop."""
    program = tmp_path_factory.mktemp("frozen") / "program.py"
    program.write_text("import uringloop\n")
    standard = os.path.dirname(os.__file__)
    others = (path for path in sys.path if path and not path.startswith(str(ROOT / "tests")))
    # setuptools has a namespace package, at which the finder of Python 3.14 fails
    finder = ModuleFinder([str(ROOT), *others, standard], excludes=["setuptools"])
    finder.run_script(str(program))
    return set(finder.modules)


@pytest.mark.slow
def test_analysis_finds_every_module_of_the_package(found):
    built = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in PACKAGE.rglob("*.pyx")
        if list(path.parent.glob(path.stem + ".*.so"))
    }
    assert built
    assert built - NOT_OF_PROGRAMS - found == set()


@pytest.mark.slow
def test_analysis_finds_every_module_that_a_process_loads(found):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    monitors = ["epoll", "poll", *(["io_uring"] if io_uring_works() else [])]
    command = [sys.executable, "-c", USE, __file__, json.dumps(monitors)]
    out = subprocess.run(command, check=True, cwd=ROOT, env=environment, stdout=subprocess.PIPE).stdout
    loaded = {name for name in json.loads(out) if name.split(".")[0] in ("uringloop", "_cffi_backend")}
    assert "uringloop.fdmon.epoll" in loaded
    assert loaded - found - {"uringloop.liburing._ffi.lib"} == set()  # cffi's, within _ffi


@pytest.mark.slow
def test_analysis_finds_the_imports_of_compiled_modules(found):
    """Also in code paths that no test runs."""
    missing = []
    for path in PACKAGE.rglob("*.pyx"):
        if ".".join(path.relative_to(ROOT).with_suffix("").parts) in NOT_OF_PROGRAMS:
            continue
        package = list(path.relative_to(ROOT).parent.parts)
        for line in re.findall(r"^ *((?:import|from) (?!.*cimport).*)$", path.read_text(), re.MULTILINE):
            for name in imported(line.split("#")[0], package):
                if name not in found:
                    missing.append((path.name, line))
    assert not missing


def imported(line, package):
    try:
        statement = ast.parse(line.strip()).body[0]
    except SyntaxError:
        return []  # prose
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names]
    if not isinstance(statement, ast.ImportFrom):
        return []
    above = package[: len(package) - statement.level + 1] if statement.level else []
    return [".".join([*above, *(statement.module or "").split(".")]).rstrip(".")]

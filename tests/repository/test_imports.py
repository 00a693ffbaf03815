"""`import uringloop` loads what the first loop needs, and nothing else: the rest is loaded on first use."""

import json
import os
import subprocess
import sys

import pytest

from .test_kernel_features import ROOT, io_uring_works

ECHO = """
import asyncio, json, sys
before = set(sys.modules)
import uringloop
imported = set(sys.modules)

async def main():
    async def echo(reader, writer):
        writer.write(await reader.read(10))
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"x")
    assert await reader.read(10) == b"x"
    writer.close()
    await writer.wait_closed()
    server.close()

with asyncio.Runner(loop_factory=lambda: uringloop.new_event_loop(sys.argv[1])) as runner:
    runner.run(main())
print(json.dumps([sorted(imported - before), sorted(set(sys.modules) - imported)]))
"""

# A module, or a folder and all that is in it.
ON_FIRST_USE = (
    "_cffi_backend",
    "cffi",
    "dataclasses",
    "resource",
    "uringloop._frozen",
    "uringloop.aio.foreign_turns",
    "uringloop.aiocontext.event_notifier",
    "uringloop.aiocontext.statistics",
    "uringloop.command",
    "uringloop.eventloop.children",
    "uringloop.files",
    "uringloop.glib",
    "uringloop.liburing._ffi",
    "uringloop.liburing.enums",
    "uringloop.liburing.features",
    "uringloop.liburing.probing",
    "uringloop.requests.registered",
    "uringloop.support.process_state",
    "uringloop.transports.datagram",
    "uringloop.transports.tls",
)
# Of the package's own: each costs 0.1 to 0.3 ms.
MOST_MODULES = 76
# Of other packages, beside what asyncio loads; Cython makes the last two.
OF_OTHERS = {"__future__", "cython_runtime", "_cython_*"}


@pytest.fixture(scope="module", params=["io_uring", "epoll", "poll"])
def loaded(request):
    """(modules that the import loads, those that a first loop and an echo load)."""
    if request.param == "io_uring" and not io_uring_works():
        pytest.skip("io_uring is not available here")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("URINGLOOP_")}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        [sys.executable, "-c", ECHO, request.param],
        cwd=ROOT,
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
    )
    imported, later = json.loads(done.stdout)
    return set(imported), set(later)


def test_what_is_for_first_use_is_not_loaded(loaded):
    found = {
        name
        for name in set().union(*loaded)
        for known in ON_FIRST_USE
        if name == known or name.startswith(known + ".")
    }
    assert found == set()


def test_a_first_loop_loads_nothing(loaded):
    """A process may have no free descriptor by then."""
    imported, later = loaded
    assert later == set()
    assert "uringloop.eventloop.loop" in imported


def test_the_import_is_small(loaded):
    imported, _ = loaded
    own = {name for name in imported if name.split(".")[0] == "uringloop"}
    others = {"_cython_*" if name.startswith("_cython_") else name for name in imported - own}
    assert others <= OF_OTHERS
    assert len(own) <= MOST_MODULES, sorted(own)

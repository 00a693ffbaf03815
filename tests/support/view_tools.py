"""Services for the tests of the live view: processes that offer one, healthy or blocked."""

import contextlib
import os
import pathlib
import subprocess
import sys
import textwrap

from support.helpers import wait_until

ROOT = pathlib.Path(__file__).parents[2]

# It serves until its standard input ends.
HEALTHY = """
import asyncio, sys, threading
import uringloop

async def answer(reader, writer):
    while line := await reader.readline():
        writer.write(line)
        await writer.drain()
    writer.close()

async def ask(reader, writer, answered):
    while True:
        writer.write(b"x\\n")
        await reader.readline()
        answered.release()
        await asyncio.sleep(0.01)

async def refresh_cache(stop):
    await stop.wait()

async def main():
    stop, answered = asyncio.Event(), asyncio.Semaphore(0)
    loop = asyncio.get_running_loop()
    def ends():
        sys.stdin.read()
        loop.call_soon_threadsafe(stop.set)
    threading.Thread(target=ends, daemon=True).start()
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    clients = []  # asyncio itself refers to tasks weakly
    for number in range(3):
        connection = await asyncio.open_connection(*server.sockets[0].getsockname())
        clients.append(loop.create_task(ask(*connection, answered), name=f"client {number}"))
    waiting = asyncio.create_task(refresh_cache(stop), name="cache")
    for _ in range(9):
        await answered.acquire()
    print("ready", flush=True)
    await waiting
    import os
    os._exit(0)

uringloop.run(main())
"""

# Its loop is blocked by a callback that never ends; in time.sleep(), which gives the GIL to the view.
BLOCKED = """
import asyncio, sys, time
import uringloop

def read_a_slow_disk():
    print("ready", flush=True)
    while True:
        time.sleep(0.01)

async def handle_request():
    read_a_slow_disk()

async def audit_log():
    await asyncio.Event().wait()

async def main():
    waiting = asyncio.create_task(audit_log(), name="audit")
    await asyncio.sleep(0)
    await asyncio.create_task(handle_request(), name="request 7")

uringloop.run(main())
"""


def environment(folder, **more):
    """For a process whose sockets are below that folder, which is the user's only."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("URINGLOOP_") and key not in ("COLUMNS", "LINES")
    }
    return {
        **kept,
        "XDG_RUNTIME_DIR": str(folder),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "PYTHONDONTWRITEBYTECODE": "1",
        **more,
    }


@contextlib.contextmanager
def service(source, folder, *, arguments=(), **more):
    """A process that runs the source, offers its view, and has printed "ready"."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(source), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(folder, **{"URINGLOOP_TOP": "1", **more}),
        text=True,
    )
    with process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def top(folder, *arguments, expect=0, **more):
    """What `python -m uringloop top` prints: (standard output, standard error)."""
    done = subprocess.run(
        [sys.executable, "-m", "uringloop", "top", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment(folder, **more),
        timeout=60,
        check=False,
    )
    assert done.returncode == expect, (done.stdout, done.stderr)
    return done.stdout, done.stderr


__all__ = ["BLOCKED", "HEALTHY", "ROOT", "environment", "service", "top", "wait_until"]

"""What most programs do not need is loaded on first use; a process without free descriptors cannot load it then."""

import os
import subprocess
import sys

import pytest
from support.helpers import STOCK, run_script

PRELUDE = """
import asyncio, contextlib, os, resource, subprocess, sys
import uringloop

@contextlib.contextmanager
def no_free_descriptor():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)

async def echo(reader, writer):
    while data := await reader.read(100):
        writer.write(data)
    writer.close()

async def is_echoed(connection):
    reader, writer = connection
    writer.write(b"hello")
    return await reader.read(100) == b"hello"

async def check(use, module):
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    connection = await asyncio.open_connection(*server.sockets[0].getsockname())
    assert module not in sys.modules
    for _ in range(2):
        with no_free_descriptor():
            try:
                await use(connection)
            except (ImportError, OSError) as error:
                pass
            else:
                raise AssertionError("it was loaded without a descriptor")
            assert await is_echoed(connection)
    await use(connection)
    assert module in sys.modules
    connection[1].close()
    server.close()

def main(use, module):
    with asyncio.Runner(loop_factory=lambda: uringloop.new_event_loop(MONITOR)) as runner:
        runner.run(check(use, module))
"""

TLS = """
near, far = client_tls(), server_tls()

async def use(connection):
    server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=far)
    port = server.sockets[0].getsockname()[1]
    secured = await asyncio.open_connection("127.0.0.1", port, ssl=near, server_hostname="localhost")
    assert await is_echoed(secured)
    secured[1].close()
    server.close()

main(use, "uringloop.transports.tls.classes")
"""

START_TLS = """
near = client_tls()

async def use(connection):
    # nothing answers the handshake: the echo is no record
    await connection[1].start_tls(near)

async def use_and_fail(connection):
    try:
        await use(connection)
    except ssl.SSLError:
        pass

import ssl
main(use_and_fail, "uringloop.transports.tls.classes")
"""

DATAGRAMS = """
import socket
sock = socket.socket(type=socket.SOCK_DGRAM)
sock.bind(("127.0.0.1", 0))
sock.setblocking(False)

async def use(connection):
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, sock=sock)
    transport.close()

main(use, "uringloop.transports.datagram.classes")
"""

PROCESSES = """
async def use(connection):
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "pass", stdin=subprocess.DEVNULL)
    assert await process.wait() == 0

main(use, "uringloop.eventloop.children")
"""

FILES = """
async def use(connection):
    async with uringloop.open("/dev/null", "rb") as file:
        assert await file.read() == b""

main(use, "uringloop.files.opening")
"""


@pytest.mark.parametrize(
    "use",
    [TLS, START_TLS, DATAGRAMS, PROCESSES, FILES],
    ids=["tls", "start_tls", "datagrams", "processes", "files"],
)
def test_what_is_loaded_on_first_use_fails_alone_without_a_free_descriptor(monitor, use):
    if monitor == STOCK:
        pytest.skip("about uringloop's own modules")
    run_script(PRELUDE + use, monitor)


@pytest.mark.needs_cffi
def test_raw_requests_wait_for_a_free_descriptor_to_be_loaded(monitor):
    if monitor != "io_uring":
        pytest.skip("raw requests need io_uring")
    use = """
async def use(connection):
    from uringloop.liburing import lib
    assert (await asyncio.get_running_loop().add_sqe(lib.io_uring_prep_nop)) == 0

main(use, "uringloop.liburing._ffi")
"""
    run_script(PRELUDE + use, monitor)


WITHOUT_SSL = """
import sys

sys.modules["_ssl"] = None  # importing it raises ModuleNotFoundError
import asyncio
import uringloop

async def echo(reader, writer):
    writer.write(await reader.read(100))
    writer.close()

async def main():
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"plain")
    assert await reader.read(100) == b"plain"
    loop = asyncio.get_running_loop()
    calls = [
        loop.create_connection(asyncio.Protocol, *address, ssl=True),
        loop.start_tls(writer.transport, asyncio.Protocol(), None),
    ]
    for call in calls:
        try:
            await call
        except RuntimeError as error:
            assert "ssl module" in str(error) and "not available" in str(error), error
        else:
            raise AssertionError("TLS without ssl")
    writer.close()
    server.close()

factory = (lambda: uringloop.new_event_loop(MONITOR)) if MONITOR else None
with asyncio.Runner(loop_factory=factory) as runner:
    runner.run(main())
"""


def test_a_python_without_ssl_has_everything_but_tls(monitor):
    source = WITHOUT_SSL.replace("MONITOR", repr(None if monitor == STOCK else monitor))
    # not by run_script(), whose helpers import ssl
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", source],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" or monitor == STOCK  # which leaves the socket of the refused connection open

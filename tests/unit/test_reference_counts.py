"""No reference and no memory is lost per operation: counts stay as they are when operations are repeated.

A Python with Py_DEBUG counts all references (sys.gettotalrefcount); in any Python the number of allocated blocks of
memory is known. `make lane-debug-python` runs this with the first, other runs with the second.
"""

import asyncio
import contextlib
import gc
import os
import socket
import sys

import pytest
from support.helpers import HAS_CFFI, client_tls, server_tls, turns

import uringloop
from uringloop.transports import addresses

REPEATS = 40  # in a round
ROUNDS_MOST = 30
WINDOW = 3  # rounds

CYTHON_FUNCTION = type(addresses._forget)


def count():
    """References, or else blocks of memory."""
    if not hasattr(sys, "gettotalrefcount"):
        return sys.getallocatedblocks()
    # Cython 3.3.1 does not release the class of a function that is freed, of which a loop has one; no memory is lost
    return sys.gettotalrefcount() - sys.getrefcount(CYTHON_FUNCTION)


async def callbacks():
    loop = asyncio.get_running_loop()
    loop.call_soon(int)
    loop.call_soon_threadsafe(int)
    loop.call_later(0, int)
    loop.call_later(
        0, int
    ).cancel()  # a later one would stay on the heap until its time, or until many are cancelled
    await turns(2)


async def tasks():
    task = asyncio.ensure_future(asyncio.Event().wait())
    await turns(1)
    task.cancel()
    await asyncio.gather(task, asyncio.sleep(0), return_exceptions=True)


async def echo(reader, writer):
    writer.write(await reader.readexactly(1000))
    await writer.drain()
    await reader.read()
    writer.close()


async def connections(**tls):
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    async def serve(reader, writer):
        await echo(reader, writer)
        await writer.wait_closed()
        done.set_result(None)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls.get("server"))
    reader, writer = await asyncio.open_connection(
        *server.sockets[0].getsockname(), ssl=tls.get("client"), server_hostname="localhost" if tls else None
    )
    writer.write(b"x" * 1000)
    assert len(await reader.readexactly(1000)) == 1000
    writer.close()
    await writer.wait_closed()
    await done
    server.close()
    await server.wait_closed()
    await turns(3)


CONTEXTS = {}


async def tls_connections():
    if not CONTEXTS:
        CONTEXTS.update(server=server_tls(), client=client_tls())
    await connections(**CONTEXTS)


async def datagrams():
    loop = asyncio.get_running_loop()
    received = loop.create_future()

    class Receiver(asyncio.DatagramProtocol):
        def datagram_received(self, data, addr):
            received.set_result(addr)

    far, _ = await loop.create_datagram_endpoint(Receiver, local_addr=("127.0.0.1", 0))
    near, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, remote_addr=far.get_extra_info("sockname")
    )
    near.sendto(b"datagram")
    await received
    near.close()
    far.close()
    await turns(2)


async def sockets():
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        far.setblocking(False)
        waiting = asyncio.ensure_future(loop.sock_recv(near, 100))
        await turns(1)
        await loop.sock_sendall(far, b"bytes")
        assert await waiting == b"bytes"
        loop.add_reader(near, int)
        loop.remove_reader(near)


async def files():
    async with uringloop.open(os.devnull, "r+b", buffering=0) as file:
        await file.write(b"x" * 5000)
        assert await file.read(10) == b""
    async with uringloop.open(__file__) as file:
        assert await file.readline()
    with contextlib.suppress(FileNotFoundError):
        await uringloop.files.stat("/nonexistent/file")
    await uringloop.files.stat(os.devnull)


async def raw_requests():
    loop = asyncio.get_running_loop()
    if not getattr(loop, "supports_sqe", False) or not HAS_CFFI:
        return
    from uringloop.liburing import ffi, lib

    await loop.add_sqe(lib.io_uring_prep_nop)
    seen = []
    loop.add_sqe(lib.io_uring_prep_nop, callback=lambda cqe: seen.append(cqe.res))
    near, far = socket.socketpair()
    with near, far:
        buffer = ffi.from_buffer(bytearray(10))
        request = loop.add_sqe(lib.io_uring_prep_recv, near.fileno(), buffer, 10, 0)
        far.send(b"x")
        assert await request == 1
        request = loop.add_sqe(lib.io_uring_prep_recv, near.fileno(), buffer, 10, 0)
        await turns(1)
        request.cancel()
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await request
    with contextlib.suppress(ValueError):
        loop.add_sqe(lambda sqe: None)
    await turns(2)


async def nested_runs():
    loop = asyncio.get_running_loop()
    loop.run_nested(asyncio.sleep(0))
    with contextlib.suppress(ZeroDivisionError):
        loop.run_nested(fail())


async def fail():
    await asyncio.sleep(0)
    raise ZeroDivisionError


async def errors():
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        await loop.create_connection(asyncio.Protocol, "127.0.0.1", 1)
    with contextlib.suppress(ZeroDivisionError):
        await fail()


async def subprocesses():
    process = await asyncio.create_subprocess_exec("/bin/true", stdout=asyncio.subprocess.PIPE)
    await process.communicate()
    await turns(3)


OPERATIONS = [callbacks, tasks, connections, tls_connections, datagrams, sockets, files]
OPERATIONS += [raw_requests, nested_runs, errors, subprocesses]


def growths(repeat):
    """By how much the count grew in each round, until it no longer grows."""
    found = []
    before = 0
    while len(found) < ROUNDS_MOST and not is_flat(found):
        repeat()
        gc.collect()
        addresses._forget()  # the table of addresses, which 1,024 ports fill
        after = count()
        found.append(after - before)
        before = after
    return found


def is_flat(found):
    """Whether two groups of rounds lost less than a reference in four operations.

    The first rounds fill caches and lists of recycled objects; and a round may end before the kernel has reported the
    end of some requests, which are then counted in the next one.
    """
    groups = [sum(found[at : at + WINDOW]) for at in range(1, len(found) - WINDOW + 1, WINDOW)]
    return sum(group < WINDOW * REPEATS // 4 for group in groups) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS)
def test_nothing_is_lost_by(loop, operation):
    async def repeat():
        for _ in range(REPEATS):
            await operation()

    found = growths(lambda: loop.run_until_complete(repeat()))
    assert is_flat(found), found


@pytest.mark.slow
def test_nothing_is_lost_by_loops(monitor):
    def repeat():
        for _ in range(REPEATS):
            loop = uringloop.new_event_loop(fdmon=monitor)
            loop.run_until_complete(connections())
            loop.close()

    found = growths(repeat)
    assert is_flat(found), found


@pytest.mark.skipif(not count(), reason="with PYTHONMALLOC=malloc nothing is counted; LeakSanitizer does")
def test_a_loss_is_found():
    lost = []
    assert not is_flat(growths(lambda: lost.extend([] for _ in range(REPEATS))))

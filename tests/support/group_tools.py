"""Clients of a LoopGroup."""

import asyncio
import os
import sys

KINDS = ["thread", *(["interpreter"] if sys.version_info >= (3, 13) else [])]


async def read(fd, n_bytes):
    """That many bytes of a pipe, as they come."""
    loop, got, arrived = asyncio.get_running_loop(), b"", asyncio.Event()
    loop.add_reader(fd, arrived.set)
    try:
        while len(got) < n_bytes:
            arrived.clear()
            try:
                got += os.read(fd, n_bytes - len(got))
            except BlockingIOError:
                await arrived.wait()
    finally:
        loop.remove_reader(fd)
    return got


async def connect(sock):
    return await asyncio.open_connection(*sock.getsockname()[:2])


async def ask(connection, question):
    reader, writer = connection
    writer.write(question)
    return await reader.read(1000)


async def close(connection):
    connection[1].close()
    await connection[1].wait_closed()


async def counted(group, *numbers):
    """Wait until the members have that many connections."""
    while True:
        found = [member.connections for member in (await group.statistics()).members]
        if found == list(numbers):
            return
        await asyncio.sleep(0)

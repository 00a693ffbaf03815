"""loop.sendfile() compared with reading and writing, over loopback TCP on the same loop; see micro.py, which runs this.

The receiver is a separate process on another CPU and discards the data without copying them, so that only the sender is
measured.
"""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
import time
from contextlib import closing
from typing import IO

from benchmarks.loops import new_event_loop
from benchmarks.machine import set_congestion_control

MIB = 1 << 20
FILE_MIB = 100
CHUNK_BYTES = 64 * 1024
REPETITIONS = 3


def _receive(listener: socket.socket) -> None:
    """In the child: discard connection after connection, until the parent is gone."""
    others = set(range(os.cpu_count() or 1)) - os.sched_getaffinity(0)
    if others:
        os.sched_setaffinity(0, others)
    buffer = bytearray(MIB)
    while True:
        with listener.accept()[0] as connection:
            while connection.recv_into(buffer, 0, socket.MSG_TRUNC):
                pass
            connection.send(b"x")


async def _by_sendfile(writer: asyncio.StreamWriter, file: IO[bytes]) -> None:
    await asyncio.get_running_loop().sendfile(writer.transport, file)  # type: ignore[arg-type]


async def _by_writing(writer: asyncio.StreamWriter, file: IO[bytes]) -> None:
    while chunk := file.read(CHUNK_BYTES):
        writer.write(chunk)
        await writer.drain()


async def _send(how, file: IO[bytes], address) -> tuple[int, int]:
    """(wall ns, CPU ns) until the receiver has everything."""
    reader, writer = await asyncio.open_connection(*address)
    set_congestion_control(writer.get_extra_info("socket").fileno())
    file.seek(0)
    wall_ns, cpu_ns = time.perf_counter_ns(), time.process_time_ns()
    await how(writer, file)
    writer.write_eof()
    await reader.read()
    wall_ns, cpu_ns = time.perf_counter_ns() - wall_ns, time.process_time_ns() - cpu_ns
    writer.close()
    await writer.wait_closed()
    return wall_ns, cpu_ns


async def _measure(file: IO[bytes], address) -> dict[str, float]:
    await _send(_by_writing, file, address)
    sent, written = [], []
    for _ in range(REPETITIONS):
        sent.append(await _send(_by_sendfile, file, address))
        written.append(await _send(_by_writing, file, address))
    wall_ns, cpu_ns = (min(column) for column in zip(*sent, strict=True))
    slow_cpu_ns = min(cpu_ns for _, cpu_ns in written)
    return {
        "operations": FILE_MIB,
        "wall_ns": wall_ns / FILE_MIB,
        "cpu_ns": cpu_ns / FILE_MIB,
        "cpu_gain": slow_cpu_ns / cpu_ns,
    }


def measure_sendfile(loop_name: str) -> dict[str, float]:
    """Nanoseconds per MiB sent by loop.sendfile(), best of three, and the ratio of writing's CPU time to its own."""
    with (
        tempfile.TemporaryFile() as file,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        for _ in range(FILE_MIB):
            file.write(os.urandom(MIB))
        file.flush()
        child = os.fork()
        if not child:
            try:
                _receive(listener)
            finally:
                os._exit(1)
        try:
            with closing(new_event_loop(loop_name)) as loop:
                asyncio.set_event_loop(loop)
                return loop.run_until_complete(_measure(file, listener.getsockname()))
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)

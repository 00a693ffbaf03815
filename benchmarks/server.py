"""An echo server on one loop, in its own process; started by the runner, not by hand.

It does not measure. The client reads this process's CPU clock from outside (loadgen.c), so the loop under
test only has to echo: no control connection, no helper thread, no timer. It prints a line of JSON once it
listens, and SIGTERM's default action ends it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import socket
import ssl
from typing import ClassVar

from benchmarks import heap
from benchmarks.loops import new_event_loop, run_forever
from benchmarks.machine import REPOSITORY, set_congestion_control, settle_in

BACKLOG = 4096

_kept: list[asyncio.Task] = []  # the loop has weak references to its tasks


class Echo(asyncio.Protocol):
    """The shortest useful protocol."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[attr-defined]

    def connection_lost(self, exc: Exception | None) -> None:
        del self.transport


class PatientEcho(Echo):
    """Stops reading from a peer that does not read its answers."""

    def pause_writing(self) -> None:
        self.transport.pause_reading()  # type: ignore[attr-defined]

    def resume_writing(self) -> None:
        self.transport.resume_reading()  # type: ignore[attr-defined]


class Fanout(asyncio.Protocol):
    """Writes what arrives on any connection to all of them, after a byte that greets a new one."""

    transports: ClassVar[set[asyncio.BaseTransport]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.transports.add(transport)
        transport.write(b"!")  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        for transport in self.transports:
            transport.write(data)  # type: ignore[attr-defined]

    def connection_lost(self, exc: Exception | None) -> None:
        self.transports.discard(self.transport)


PROTOCOLS: dict[str, type[asyncio.Protocol]] = {
    "protocol": Echo,
    "tls": Echo,
    "heap": heap.Handler,
    "patient": PatientEcho,
    "fanout": Fanout,
}
STYLES = (*PROTOCOLS, "streams", "sock", "datagram")


class EchoDatagrams(asyncio.DatagramProtocol):
    """The same for datagrams, from any sender."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple) -> None:
        self.transport.sendto(data, addr)  # type: ignore[attr-defined]


def stream_echo(size_bytes: int):
    """A handler for ``start_server`` that echoes whole messages and lets ``drain`` apply back-pressure."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                writer.write(await reader.readexactly(size_bytes))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    return echo


async def _sock_echo(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    buffer = memoryview(bytearray(65536))
    with sock:
        try:
            while n := await loop.sock_recv_into(sock, buffer):
                await loop.sock_sendall(sock, buffer[:n])
        except ConnectionError:
            pass


async def _sock_accept(listener: socket.socket) -> None:
    """Serves with the loop's socket methods, and no transports: a task for each connection."""
    loop = asyncio.get_running_loop()
    tasks = set()
    while True:
        sock, _ = await loop.sock_accept(listener)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as transports do
        task = loop.create_task(_sock_echo(sock))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


def tls_context() -> ssl.SSLContext:
    """The tests' self-signed certificate; the client does not verify it."""
    data = REPOSITORY / "tests" / "support" / "data"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(data / "cert.pem", data / "key.pem")
    return context


async def serve(
    style: str, path: str | None, size_bytes: int, protocol: type[asyncio.Protocol] | None = None
) -> asyncio.AbstractServer:
    """Listen on *path*, or on a free port of the loopback interface."""
    loop = asyncio.get_running_loop()
    # Two whole messages fit below the reader's limit; otherwise readexactly() would pause the transport each time.
    limit = max(65536, 2 * size_bytes)
    if style in PROTOCOLS:
        protocol = protocol or PROTOCOLS[style]
        context = tls_context() if style == "tls" else None
        if path:
            return await loop.create_unix_server(protocol, path, backlog=BACKLOG, ssl=context)
        return await loop.create_server(
            protocol, "127.0.0.1", 0, backlog=BACKLOG, family=socket.AF_INET, ssl=context
        )
    handler = stream_echo(size_bytes)
    if path:
        return await asyncio.start_unix_server(handler, path, backlog=BACKLOG, limit=limit)
    return await asyncio.start_server(handler, "127.0.0.1", 0, backlog=BACKLOG, limit=limit)


def listen(loop: asyncio.AbstractEventLoop, style: str, path: str | None, size_bytes: int) -> int | None:
    """Start the server; its port, or None on a UNIX socket."""
    if style == "datagram":
        endpoint = loop.create_datagram_endpoint(EchoDatagrams, local_addr=("127.0.0.1", 0))
        return loop.run_until_complete(endpoint)[0].get_extra_info("sockname")[1]
    if style == "sock":
        listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        listener.setblocking(False)
        _kept.append(loop.create_task(_sock_accept(listener)))
    else:
        server = loop.run_until_complete(serve(style, path, size_bytes))
        if path:
            return None
        listener = server.sockets[0]
    set_congestion_control(listener.fileno())
    return listener.getsockname()[1]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop", required=True)
    parser.add_argument("--style", choices=STYLES, required=True)
    parser.add_argument("--path")
    parser.add_argument("--size-bytes", type=int, default=1024)
    parser.add_argument("--cpu", type=int, required=True)
    parser.add_argument("--lifetime-s", type=int, required=True)
    options = parser.parse_args()

    settle_in(options.cpu, options.lifetime_s)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    loop = new_event_loop(options.loop)
    asyncio.set_event_loop(loop)
    port = listen(loop, options.style, options.path, options.size_bytes)
    if options.style == "heap":
        heap.start(options.loop, loop)
    print(json.dumps({"pid": os.getpid(), "port": port}), flush=True)
    run_forever(options.loop, loop)


if __name__ == "__main__":
    main()

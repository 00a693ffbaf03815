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

from benchmarks import heap
from benchmarks.loops import new_event_loop, run_forever
from benchmarks.machine import REPOSITORY, set_congestion_control, settle_in

BACKLOG = 4096


class Echo(asyncio.Protocol):
    """The shortest useful protocol."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[attr-defined]

    def connection_lost(self, exc: Exception | None) -> None:
        del self.transport


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


def tls_context() -> ssl.SSLContext:
    """The tests' self-signed certificate; the client does not verify it."""
    data = REPOSITORY / "tests" / "support" / "data"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(data / "cert.pem", data / "key.pem")
    return context


async def serve(
    style: str, path: str | None, size_bytes: int, protocol: type[asyncio.Protocol] = Echo
) -> asyncio.AbstractServer:
    """Listen on *path*, or on a free port of the loopback interface."""
    loop = asyncio.get_running_loop()
    # Two whole messages fit below the reader's limit; otherwise readexactly() would pause the transport each time.
    limit = max(65536, 2 * size_bytes)
    if style in ("protocol", "tls", "heap"):
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


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop", required=True)
    parser.add_argument("--style", choices=("protocol", "streams", "tls", "heap", "datagram"), required=True)
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
    if options.style == "datagram":
        endpoint = loop.create_datagram_endpoint(EchoDatagrams, local_addr=("127.0.0.1", 0))
        port = loop.run_until_complete(endpoint)[0].get_extra_info("sockname")[1]
    else:
        protocol = heap.Handler if options.style == "heap" else Echo
        server = loop.run_until_complete(serve(options.style, options.path, options.size_bytes, protocol))
        port = None
        if not options.path:
            port = server.sockets[0].getsockname()[1]
            set_congestion_control(server.sockets[0].fileno())
    if options.style == "heap":
        heap.start(options.loop, loop)
    print(json.dumps({"pid": os.getpid(), "port": port}), flush=True)
    run_forever(options.loop, loop)


if __name__ == "__main__":
    main()

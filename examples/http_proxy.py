"""An HTTP proxy: CONNECT for https:// and the like, absolute addresses for http://.

    python examples/http_proxy.py [--port PORT]
    curl --proxy http://127.0.0.1:3128 https://www.python.org/

Bytes go from one socket to the other as they come; a side that reads slowly slows down the one that writes, so that
memory does not grow. It listens on the loopback address only: a proxy that anyone can use is soon used by anyone.
"""

import argparse
import asyncio
import signal
import urllib.parse

import uringloop

HEAD_S = 30
CONNECT_S = 20
PIECE_BYTES = 64 * 1024

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Refused(Exception):
    """A request that is answered with an error status."""


def parse(head: bytes) -> tuple[str, int, bytes]:
    """(host, port, what to send to it) of the head of a request; nothing is to be sent for CONNECT."""
    try:
        first, _, rest = head.partition(b"\r\n")
        method, target, version = first.decode("ascii").split(" ")
        if method == "CONNECT":
            parts = urllib.parse.urlsplit(f"//{target}")
            return parts.hostname or "", parts.port or 443, b""
        parts = urllib.parse.urlsplit(target)
        host, port = parts.hostname, parts.port or 80
    except ValueError:
        raise Refused("400 Bad Request") from None
    if parts.scheme != "http" or not host:
        raise Refused("400 Bad Request")
    path = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
    # One request for each connection: this proxy does not look for the end of a body.
    kept = [line for line in rest.split(b"\r\n") if not line.lower().startswith((b"proxy-", b"connection:"))]
    return host, port, b"\r\n".join([f"{method} {path} {version}".encode(), b"Connection: close", *kept])


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until the end, and pass on the end."""
    while data := await reader.read(PIECE_BYTES):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


async def connect(host: str, port: int) -> Connection:
    try:
        async with asyncio.timeout(CONNECT_S):
            return await asyncio.open_connection(host, port)
    except TimeoutError:
        raise Refused("504 Gateway Timeout") from None
    except OSError:
        raise Refused("502 Bad Gateway") from None


async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The whole of one client's connection, after it was accepted."""
    async with asyncio.timeout(HEAD_S):
        head = await reader.readuntil(b"\r\n\r\n")
    host, port, request = parse(head)
    reader_out, writer_out = await connect(host, port)
    try:
        if request:
            writer_out.write(request)
        else:
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        async with asyncio.TaskGroup() as both:
            both.create_task(copy(reader, writer_out))
            both.create_task(copy(reader_out, writer))
    finally:
        writer_out.close()


async def serve_client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        await relay(reader, writer)
    except* Refused as refused:
        status = refused.exceptions[0]
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
    except* (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        pass  # a side went away, or the client sent no request
    except* asyncio.CancelledError:
        pass  # the program ends, and Python 3.11 logs a cancelled connection as an error
    finally:
        writer.close()


async def main(port: int) -> None:
    loop = asyncio.get_running_loop()
    ending = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ending.set)
    server = await asyncio.start_server(serve_client, "127.0.0.1", port)
    host, port = server.sockets[0].getsockname()
    print(f"http://{host}:{port} on {loop.fdmon} (Ctrl-C ends)", flush=True)
    await ending.wait()
    server.close()  # connections that are still open are cancelled with their tasks


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, default=3128, help="0: any free one; default: %(default)s")
    uringloop.run(main(parser.parse_args().port))

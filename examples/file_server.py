"""A static file server over HTTP/1.1: requests are parsed by hand, files go to the socket by splice(2).

    python examples/file_server.py [--port PORT] [FOLDER]   # http://127.0.0.1:8000/ serves the folder
    python examples/file_server.py --check                  # test with a temporary folder

The data of a file never pass through Python: the kernel moves them from the page cache to the socket through a pipe.
"""

import argparse
import asyncio
import mimetypes
import os
import pathlib
import socket
import stat
import urllib.parse

import uringloop
from uringloop import files

HEAD_MOST_BYTES = 16 * 1024
IDLE_S = 30


class Refused(Exception):
    """A request that gets a status other than 200."""


async def read_head(connection: socket.socket, rest: bytes) -> tuple[bytes, bytes]:
    """(the head of a request, the data after it); an empty head at the end of the connection."""
    loop = asyncio.get_running_loop()
    data = rest
    while b"\r\n\r\n" not in data:
        if len(data) > HEAD_MOST_BYTES:
            raise Refused("431 Request Header Fields Too Large")
        more = await loop.sock_recv(connection, 4096)
        if not more:
            return b"", b""
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def locate(root: pathlib.Path, head: bytes) -> tuple[str, pathlib.Path]:
    """(method, path in the file system); paths outside of the root are refused."""
    try:
        method, target, version = head.decode("ascii").split("\r\n")[0].split(" ")
    except ValueError:
        raise Refused("400 Bad Request") from None
    if not version.startswith("HTTP/1."):
        raise Refused("505 HTTP Version Not Supported")
    if method not in ("GET", "HEAD"):
        raise Refused("405 Method Not Allowed")
    name = urllib.parse.unquote(urllib.parse.urlsplit(target).path)
    path = (root / name.lstrip("/")).resolve()
    if "\0" in name or not path.is_relative_to(root):
        raise Refused("404 Not Found")
    return method, path


async def answer(connection: socket.socket, root: pathlib.Path, head: bytes) -> None:
    """Send one file, or an error status."""
    loop = asyncio.get_running_loop()
    try:
        method, path = locate(root, head)
        try:
            seen = await files.stat(path)
            if stat.S_ISDIR(seen.st_mode):
                path /= "index.html"
            file = await uringloop.open(path, "rb", buffering=0)
        except OSError:
            raise Refused("404 Not Found") from None
    except Refused as refused:
        body = f"{refused}\n".encode()
        lines = f"HTTP/1.1 {refused}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n"
        await loop.sock_sendall(connection, lines.encode() + body)
        return
    async with file:
        size = (await files.stat(file.fileno())).st_size
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        lines = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {size}\r\n\r\n"
        await loop.sock_sendall(connection, lines.encode())
        if method == "GET":
            sent = await files.splice(file, connection, size, offset_src=0)
            if sent < size:
                raise ConnectionError(f"{path} became shorter")


async def serve_connection(connection: socket.socket, root: pathlib.Path) -> None:
    with connection:
        rest = b""
        try:
            while True:
                async with asyncio.timeout(IDLE_S):
                    head, rest = await read_head(connection, rest)
                if not head:
                    return
                await answer(connection, root, head)
        except (ConnectionError, TimeoutError, Refused):
            return


async def serve(listener: socket.socket, root: pathlib.Path) -> None:
    loop = asyncio.get_running_loop()
    listener.setblocking(False)
    async with asyncio.TaskGroup() as connections:
        while True:
            connection, _ = await loop.sock_accept(listener)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connections.create_task(serve_connection(connection, root))


async def fetch(port: int, path: str) -> tuple[bytes, bytes]:
    """(status line, body); for the check."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    body = await reader.readexactly(size)
    writer.close()
    await writer.wait_closed()
    return head.split(b"\r\n")[0], body


async def check() -> None:
    async with files.TemporaryDirectory() as folder:
        content = os.urandom(3_000_000)
        async with uringloop.open(os.path.join(folder, "big file"), "wb") as file:
            await file.write(content)
        async with uringloop.open(os.path.join(folder, "index.html"), "w") as file:
            await file.write("hello")
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            server = asyncio.create_task(serve(listener, pathlib.Path(folder).resolve()))
            assert await fetch(port, "/") == (b"HTTP/1.1 200 OK", b"hello")
            assert await fetch(port, "/big%20file") == (b"HTTP/1.1 200 OK", content)
            assert (await fetch(port, "/../etc/passwd"))[0] == b"HTTP/1.1 404 Not Found"
            assert (await fetch(port, "/nothing"))[0] == b"HTTP/1.1 404 Not Found"
            server.cancel()
            await asyncio.gather(server, return_exceptions=True)
    print("served 4 requests")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=pathlib.Path, default=".", help="default: the current one")
    parser.add_argument("--port", type=int, default=8000, help="0: any free one; default: %(default)s")
    parser.add_argument("--check", action="store_true", help="test with a temporary folder")
    return parser.parse_args()


async def main(args: argparse.Namespace) -> None:
    if args.check:
        await check()
        return
    root = args.folder.resolve()
    with socket.create_server(("127.0.0.1", args.port)) as listener:
        print(f"http://127.0.0.1:{listener.getsockname()[1]}/ serves {root} (Ctrl-C ends)", flush=True)
        await serve(listener, root)


if __name__ == "__main__":
    try:
        uringloop.run(main(arguments()))
    except KeyboardInterrupt:
        pass

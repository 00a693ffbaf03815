"""Checked traffic against a server: HTTP echo, a streamed answer, WebSocket and TCP echo; standard library only."""

import base64
import contextlib
import hashlib
import http.client
import json
import os
import socket
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Self

from .programs.inside import CHUNKS, blob

SIZES = (0, 1, 1_000, 16_384, 65_537, 900_000)
N_CONNECTIONS = 4
TIMEOUT_S = 20
WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class TrafficError(Exception):
    """An answer that is wrong, or none."""


def expect(actual: bytes, wanted: bytes, what: str) -> None:
    if actual != wanted:
        at = next((n for n, (a, b) in enumerate(zip(actual, wanted, strict=False)) if a != b), -1)
        raise TrafficError(
            f"{what}: {len(actual)} bytes instead of {len(wanted)}, the first difference at {at}"
            f": {actual[max(0, at) : max(0, at) + 300]!r}"
        )


def request(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None
) -> bytes:
    connection.request(method, path, body, {"Content-Type": "application/octet-stream"} if body else {})
    answer = connection.getresponse()
    data = answer.read()
    if answer.status != 200:
        raise TrafficError(f"{method} {path}: status {answer.status}: {data[:300]!r}")
    return data


def connected(port: int) -> contextlib.closing[http.client.HTTPConnection]:
    return contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S))


def loop(port: int) -> None:
    """GET /loop: the application checks its loop, on connections of their own: workers share the port."""
    for _ in range(N_CONNECTIONS * 2):
        with connected(port) as connection:
            seen = json.loads(request(connection, "GET", "/loop"))
        if not str(seen.get("loop", "")).startswith("uringloop."):
            raise TrafficError(f"GET /loop: {seen}")


def in_parallel(check: Callable[[int], None], port: int) -> None:
    with ThreadPoolExecutor(N_CONNECTIONS) as threads:
        for done in [threads.submit(check, port) for _ in range(N_CONNECTIONS)]:
            done.result()


def echo_once(port: int) -> None:
    with connected(port) as connection:
        for size in SIZES:
            expect(
                request(connection, "POST", "/echo", blob(size)), blob(size), f"POST /echo of {size} bytes"
            )


def echo(port: int) -> None:
    in_parallel(echo_once, port)


def stream_once(port: int) -> None:
    with connected(port) as connection:
        for _ in range(3):
            expect(request(connection, "GET", "/stream"), b"".join(CHUNKS), "GET /stream")


def stream(port: int) -> None:
    in_parallel(stream_once, port)


class WebSocket:
    """As much of RFC 6455 as a client needs that checks an echo."""

    def __init__(self, port: int, path: str) -> None:
        self.port, self.path = port, path

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self.socket = stack.enter_context(socket.create_connection(("127.0.0.1", self.port), TIMEOUT_S))
            self.input = stack.enter_context(self.socket.makefile("rb"))
            self.shake_hands()
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    def shake_hands(self) -> None:
        key = base64.b64encode(os.urandom(16))
        self.socket.sendall(
            f"GET {self.path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nOrigin: http://127.0.0.1:{self.port}\r\n"
            f"Sec-WebSocket-Key: {key.decode()}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        status = self.input.readline()
        headers = {}
        while (line := self.input.readline().strip()) != b"":
            name, _, value = line.partition(b":")
            headers[name.lower()] = value.strip()
        accept = base64.b64encode(hashlib.sha1(key + WEBSOCKET_GUID).digest())
        if b" 101 " not in status or headers.get(b"sec-websocket-accept") != accept:
            raise TrafficError(f"{self.path}: no WebSocket: {status!r}")

    def send(self, opcode: int, data: bytes) -> None:
        mask = os.urandom(4)
        size = len(data)
        if size < 126:
            head = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
        elif size < 0x10000:
            head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
        else:
            head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, size)
        key = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
        self.socket.sendall(head + mask + (int.from_bytes(data, "big") ^ key).to_bytes(size, "big"))

    def receive(self) -> tuple[int, bytes]:
        """(opcode, data) of the next message; pings are answered."""
        opcode, data = 0, b""
        while True:
            first, second = struct.unpack("!BB", self.read(2))
            size = second & 0x7F
            if size > 125:
                size = (
                    struct.unpack("!H", self.read(2))[0]
                    if size == 126
                    else struct.unpack("!Q", self.read(8))[0]
                )
            payload = self.read(size)
            if first & 0x0F == 9:
                self.send(10, payload)
                continue
            opcode = first & 0x0F or opcode
            data += payload
            if first & 0x80:
                return opcode, data

    def read(self, size: int) -> bytes:
        data = self.input.read(size)
        if len(data) != size:
            raise TrafficError("the WebSocket was closed within a message")
        return data

    def say_goodbye(self) -> None:
        """The closing handshake."""
        self.send(8, struct.pack("!H", 1000))
        opcode, _ = self.receive()
        if opcode != 8:
            raise TrafficError(f"close was answered by opcode {opcode}")


def websocket_once(port: int) -> None:
    with WebSocket(port, "/ws") as connection:
        for size in SIZES[1:]:
            for opcode in (1, 2):
                connection.send(opcode, blob(size))
                kind, data = connection.receive()
                if kind != opcode:
                    raise TrafficError(f"a message of opcode {opcode} came back as {kind}: {data[:100]!r}")
                expect(data, blob(size), f"WebSocket echo of {size} bytes")
        connection.say_goodbye()


def websocket(port: int) -> None:
    in_parallel(websocket_once, port)


def tcp_once(port: int) -> None:
    for size in SIZES[1:]:
        with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection:
            with ThreadPoolExecutor(1) as thread:
                sent = thread.submit(send_all, connection, blob(size))
                received = b"".join(iter(lambda: connection.recv(65536), b""))
                sent.result()
            expect(received, blob(size), f"TCP echo of {size} bytes")


def send_all(connection: socket.socket, data: bytes) -> None:
    connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)


def tcp(port: int) -> None:
    """Echo until the client's end of the stream."""
    in_parallel(tcp_once, port)


KINDS: dict[str, Callable[[int], None]] = {
    "loop": loop,
    "echo": echo,
    "stream": stream,
    "websocket": websocket,
    "tcp": tcp,
}


def wait_for_port(port: int, timeout_s: float, is_alive: Callable[[], bool]) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if not is_alive():
                raise TrafficError("the server ended before it listened") from None
            if time.monotonic() > deadline:
                raise TrafficError(f"nothing listens after {timeout_s:.0f} s") from None
            time.sleep(0.05)

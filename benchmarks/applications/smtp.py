"""The load of an SMTP server: connections that send one message after the other; a process on the load's CPU.

`python -m benchmarks.applications.smtp PORT CONNECTIONS SECONDS CPU` prints a line of JSON, as wrk.lua does. A message
is MAIL, RCPT, DATA and 1 KiB of text, each after the answer to the one before.
"""

from __future__ import annotations

import json
import selectors
import socket
import statistics
import sys
import time
from typing import Any

from benchmarks import client
from benchmarks.machine import settle_in

TEXT = b"Subject: benchmark\r\n\r\n" + (b"x" * 332 + b"\r\n") * 3 + b".\r\n"
DIALOGUE = (
    (b"MAIL FROM:<a@example.org>\r\n", b"250"),
    (b"RCPT TO:<b@example.org>\r\n", b"250"),
    (b"DATA\r\n", b"354"),
    (TEXT, b"250"),
)


class _Sender:
    """A connection; advance() takes an answer and returns whether it was that to the end of a message."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), 20)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._expect(b"220")
        self.sock.sendall(b"HELO localhost\r\n")
        self._expect(b"250")
        self.step = 0
        self.send()

    def _expect(self, code: bytes) -> None:
        answer = self.sock.recv(4096)
        if not (answer.startswith(code) and answer.endswith(b"\r\n")):
            raise SystemExit(f"the server answered {answer!r}, not {code!r}")

    def send(self) -> None:
        if self.step == 0:
            self.started_ns = time.perf_counter_ns()
        self.sock.sendall(DIALOGUE[self.step][0])

    def advance(self) -> bool:
        self._expect(DIALOGUE[self.step][1])
        self.step = (self.step + 1) % len(DIALOGUE)
        return self.step == 0


def _load(port: int, n_connections: int, seconds: float) -> dict[str, Any]:
    selector = selectors.DefaultSelector()
    for _ in range(n_connections):
        sender = _Sender(port)
        selector.register(sender.sock, selectors.EVENT_READ, sender)
    begun_ns = now_ns = time.perf_counter_ns()
    latencies_us = []
    while now_ns < begun_ns + seconds * 1e9:
        for key, _ in selector.select(10):
            now_ns = time.perf_counter_ns()
            if key.data.advance():
                latencies_us.append((now_ns - key.data.started_ns) / 1000)
            key.data.send()
    cuts = statistics.quantiles(latencies_us, n=1000) if len(latencies_us) > 1 else [0.0] * 999
    return {
        "requests": len(latencies_us),
        "duration_us": (now_ns - begun_ns) / 1000,
        **{
            f"p{name}_us": cuts[place]
            for name, place in (("50", 499), ("90", 899), ("99", 989), ("999", 998))
        },
        "client_cpu_s": time.process_time(),
    }


def run(port: int, n_connections: int, seconds: float, cpu: int) -> dict[str, Any]:
    """One run, in a process of its own."""
    arguments = [*map(str, (port, n_connections, seconds, cpu))]
    found = client.run_module("benchmarks.applications.smtp", arguments, seconds + 30)
    if not found["requests"]:
        raise client.SampleFailed("no message was accepted in the measured window")
    return found


def main() -> None:
    port, n_connections, seconds, cpu = sys.argv[1:]
    settle_in(int(cpu), int(float(seconds)) + 30)
    print(json.dumps(_load(int(port), int(n_connections), float(seconds))))


if __name__ == "__main__":
    main()

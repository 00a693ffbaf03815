"""Datagrams from any senders, of any sizes, against what was sent and the names of the senders' sockets."""

import asyncio
import contextlib
import socket

from .choices import Choices
from .loops import all_loops, until

SENDS_MOST = 130  # more than two batches
SIZES = (0, 1, 10, 2047, 2048, 2049, 8192, 60_000)
FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


class Receiver(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.received: list[tuple[bytes, object]] = []
        self.errors: list[Exception] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.received.append((data, addr))

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)


def local(family: int, choices: Choices, kind: int) -> object:
    """A name to bind to, or None."""
    if family == socket.AF_INET:
        return (f"127.0.{choices.number()}.{choices.below(254) + 1}" if kind else "127.0.0.1", 0)
    if family == socket.AF_INET6:
        return ("::1", 0)
    if kind == 0:
        return None
    return b"\0" + choices.bytes(
        choices.below(107)
    )  # an abstract name; with nothing behind the 0, the kernel's choice


async def exchange(choices: Choices) -> None:
    loop = asyncio.get_running_loop()
    family = choices.of(FAMILIES)
    with contextlib.ExitStack() as stack:
        near = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        try:
            near.bind(local(family, Choices(b""), 0) or b"")
        except OSError:
            return  # no IPv6 here
        near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        senders = []
        for _ in range(choices.below(4) + 1):
            sender = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            sender.setblocking(False)
            with contextlib.suppress(OSError):  # the name is taken
                if name := local(family, choices, choices.below(2)):
                    sender.bind(name)
            senders.append(sender)
        near.setblocking(False)
        transport, receiver = await loop.create_datagram_endpoint(Receiver, sock=near.dup())
        expected = []
        try:
            for number in range(SENDS_MOST):
                if not choices:
                    break
                sender = choices.of(senders)
                data = bytes([number]) * choices.of(SIZES)
                try:
                    sender.sendto(data, near.getsockname())
                except OSError:
                    continue  # full
                source = sender.getsockname()
                expected.append((data, None if family == socket.AF_UNIX and source == "" else source))
                if choices.below(8) == 7:
                    await asyncio.sleep(0)
            if family == socket.AF_UNIX:  # nothing is lost; UDP may drop
                await until(lambda: len(receiver.received) >= len(expected), "datagrams are missing")
                assert receiver.received == expected
            else:
                for _ in range(6):
                    await asyncio.sleep(0)
                rest = iter(expected)
                assert all(one in rest for one in receiver.received), "other datagrams, or another order"
                assert len(receiver.received) == len(expected) or len(expected) > 20
            assert not receiver.errors
        finally:
            transport.close()
            await asyncio.sleep(0)
            await asyncio.sleep(0)


def check(data: bytes) -> None:
    choices = Choices(data)
    choices.of(all_loops()).run_until_complete(exchange(choices))


SEEDS = [
    b"\0\0\1\0\0\0\1\0\5\0\0\0\0\6\0\0\4\0",
    b"\1\1\1\0\0\0\1\0\5\0\0\0\0\6\0\0\4\0",
    b"\2\2\2\1\4abcd\0\1\0\0\2\0\1\5\0\1\0\0\2\6\0\0\7\0",
    b"\0\2\1\0\1\x05\0abcd\0\1\0\0\1\5\0\1\0\0\0\6\0\0\7\0",
    b"\0\2\0\0" + b"\0\1\0" * 130,
    b"\1\2\0\0" + b"\0\2\0" * 130,
    b"\0\0\0\0\0" + b"\0\1\0" * 70,
]

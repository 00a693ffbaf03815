"""Streams of TCP and AF_UNIX: pieces of any size, urgent data, pauses, half-closes and resets.

Urgent data has bytes of its own, as what becomes of it depends on when it is received; all other bytes arrive in order.
"""

import asyncio
import contextlib
import socket
import struct

from .choices import Choices
from .loops import all_loops, until

SIZES = (1, 3, 100, 4096, 16_384, 70_000, 300_000)
URGENT = 0x80  # bytes from here on
STEPS_MOST = 60


class Reader:
    """What both kinds of protocols record."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.calls: list[str] = []
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.calls.append("made")
        self.transport = transport

    def eof_received(self) -> bool:
        self.calls.append("eof")
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.calls.append("lost")
        self.error = error

    def pause_writing(self) -> None:
        pass

    def resume_writing(self) -> None:
        pass


class Streaming(Reader, asyncio.Protocol):
    def data_received(self, data: bytes) -> None:
        assert data
        self.data += data


class Buffered(Reader, asyncio.BufferedProtocol):
    size = 1000

    def get_buffer(self, sizehint: int) -> bytearray:
        self.buffer = bytearray(self.size)
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        assert 0 < nbytes <= self.size
        self.data += self.buffer[:nbytes]


def pair(is_tcp: bool) -> tuple[socket.socket, socket.socket]:
    if not is_tcp:
        return socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        far = socket.create_connection(listener.getsockname())
        near, _ = listener.accept()
        return near, far


class Conversation:
    def __init__(self, choices: Choices, reader: Reader, far: socket.socket, is_tcp: bool):
        self.choices, self.reader, self.far, self.is_tcp = choices, reader, far, is_tcp
        self.sent = bytearray()
        self.has_ended = self.was_reset = False
        self.n_sent = 0

    async def step(self) -> None:
        choices = self.choices
        what = choices.below(10)
        transport = self.reader.transport
        assert transport is not None
        if self.has_ended and what not in (6, 7, 8):
            return
        if what <= 3:
            self.n_sent += 1
            self.send(bytes([self.n_sent % URGENT]) * choices.of(SIZES))
        elif what == 4 and self.is_tcp:
            with contextlib.suppress(OSError):
                self.far.send(bytes([URGENT + choices.below(URGENT)]), socket.MSG_OOB)
        elif what == 5 and choices.below(4) == 3:
            self.has_ended = True
            if self.is_tcp and choices.below(2):
                self.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.was_reset = True
                self.far.close()
            else:
                self.far.shutdown(socket.SHUT_WR)
        elif what == 6:
            transport.pause_reading()
        elif what == 7:
            transport.resume_reading()
        elif what == 8:
            for _ in range(choices.below(5)):
                await asyncio.sleep(0)
        elif what == 9 and isinstance(self.reader, Buffered):
            self.reader.size = choices.of((64, 1000, 5000, 65536, 262_144))

    def send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            self.sent += data[: self.far.send(data)]

    def ordinary(self) -> bytes:
        return bytes(byte for byte in self.reader.data if byte < URGENT)

    async def finish(self) -> None:
        transport = self.reader.transport
        assert transport is not None
        transport.resume_reading()
        if not self.has_ended:
            self.far.shutdown(socket.SHUT_WR)
        await until(lambda: "lost" in self.reader.calls, "the connection is not lost")
        if self.was_reset:  # what had arrived may be gone
            assert self.sent.startswith(self.ordinary())
        else:
            assert self.ordinary() == self.sent
            assert self.reader.calls == ["made", "eof", "lost"]
        assert self.reader.calls[0] == "made"
        assert self.reader.calls[-1] == "lost"
        assert self.reader.calls.count("eof") <= 1


async def talk(choices: Choices) -> None:
    is_tcp = bool(choices.below(4))
    reader = Buffered() if choices.below(2) else Streaming()
    near, far = pair(is_tcp)
    with far:
        near.setblocking(False)
        far.setblocking(False)
        if choices.below(2):
            near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: reader, near)
        conversation = Conversation(choices, reader, far, is_tcp)
        for _ in range(STEPS_MOST):
            if not choices:
                break
            await conversation.step()
        await conversation.finish()


def check(data: bytes) -> None:
    choices = Choices(data)
    choices.of(all_loops()).run_until_complete(talk(choices))


SEEDS = [
    bytes([monitor, kind, buffered, small]) + steps
    for monitor in range(3)
    for kind, buffered, small, steps in (
        (1, 0, 0, b"\0\0\1\2\x08\4\2\4\4\4\3\0\5\x08\4"),
        (1, 1, 1, b"\x09\0\0\3\6\0\4\4\1\x08\4\7\0\6\5\3\0"),
        (0, 1, 0, b"\0\0\x09\1\0\2\x08\3\6\0\5\7\5\3"),
        (1, 0, 0, b"\0\6\6\0\6\5\3\1\x08\4"),
    )
]

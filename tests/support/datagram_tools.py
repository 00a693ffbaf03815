"""Endpoints and sockets for the tests of datagrams."""

import asyncio
import contextlib
import gc
import socket
import warnings

from support.helpers import Datagrams


class Sender(Datagrams):
    """Records the order in which it is called."""

    def __init__(self):
        super().__init__()
        self.calls = []
        self.resumed = asyncio.Event()

    def error_received(self, error):
        self.calls.append(type(error).__name__)
        super().error_received(error)

    def connection_lost(self, error):
        self.calls.append("lost")
        super().connection_lost(error)

    def pause_writing(self):
        self.calls.append("pause")

    def resume_writing(self):
        self.calls.append("resume")
        self.resumed.set()


@contextlib.asynccontextmanager
async def sending(**kwargs):
    """(transport, protocol, far): an unconnected endpoint of a Sender, and a non-blocking socket to send to."""
    if not kwargs:
        kwargs = {"local_addr": ("127.0.0.1", 0)}
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(Sender, **kwargs)
    with socket.socket(type=socket.SOCK_DGRAM) as far:
        far.bind(("127.0.0.1", 0))
        far.setblocking(False)
        yield transport, protocol, far
    transport.abort()
    await protocol.lost.wait()


def everything(sock):
    """All datagrams that a non-blocking socket has received."""
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(sock.recv(1 << 17))
    return found


def numbered(count):
    return [b"%d" % number for number in range(count)]


def forget(protocol):
    """Forget an open transport; return the texts of the warnings, in the order of the collector."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        protocol.transport = None
        gc.collect()
    return [str(warning.message) for warning in caught]

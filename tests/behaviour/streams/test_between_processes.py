"""What does not pass between a peer, the process and its connections: passed fds, and bytes beyond those received."""

import array
import asyncio
import os
import socket

import pytest
from support.helpers import BufferedRecorder, Recorder, open_transport, pattern, turns, until

CANARY = 0xA5
PASSES = 5


def open_files():
    """Device and inode of each open fd."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            status = os.stat(int(name))
        except OSError:
            continue  # the listing's own
        found.append((status.st_dev, status.st_ino))
    return found


def send_with_fd(peer, data, fd):
    peer.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])


@pytest.mark.parametrize("make", [Recorder, BufferedRecorder])
@pytest.mark.parametrize("size", [1, 60_000])
async def test_fds_that_a_peer_passes_are_not_kept(make, size, tmp_path):
    """Nothing of asyncio takes them: each would stay open for ever."""
    path = tmp_path / "passed"
    path.write_bytes(b"x")
    passed = (os.stat(path).st_dev, os.stat(path).st_ino)
    async with open_transport(make(), kind="unix") as (_, protocol, peer):
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * size)
        for count in range(1, PASSES + 1):
            with open(path) as file:
                send_with_fd(peer, bytes(size), file.fileno())
            await until(lambda count=count: len(protocol.data) == count * size)
        await turns(3)
        assert passed not in open_files()


async def test_fds_that_a_peer_passes_are_not_kept_by_sock_recv(tmp_path):
    loop = asyncio.get_running_loop()
    path = tmp_path / "passed"
    path.write_bytes(b"x")
    passed = (os.stat(path).st_dev, os.stat(path).st_ino)
    near, far = socket.socketpair()
    near.setblocking(False)
    with near, far:
        for _ in range(PASSES):
            with open(path) as file:
                send_with_fd(far, b"x", file.fileno())
            assert await loop.sock_recv(near, 10) == b"x"
        assert passed not in open_files()


class Guarded(asyncio.BufferedProtocol):
    """Lends a buffer that is larger than what comes, and looks at what was written beyond it."""

    def __init__(self, n_bytes):
        self.n_bytes = n_bytes
        self.data = bytearray()
        self.lost = asyncio.Event()

    def connection_made(self, transport):
        self.transport = transport

    def get_buffer(self, sizehint):
        self.buffer = bytearray([CANARY]) * self.n_bytes
        return self.buffer

    def buffer_updated(self, n_bytes):
        assert set(self.buffer[n_bytes:]) <= {CANARY}
        self.data += self.buffer[:n_bytes]

    def connection_lost(self, error):
        self.lost.set()


@pytest.mark.parametrize("n_bytes", [1000, 100_000])
async def test_nothing_is_written_beyond_what_was_received(n_bytes):
    """On io_uring all connections share buffers, in which others' bytes stand."""
    async with (
        open_transport(Recorder()) as (_, other, others_peer),
        open_transport(Guarded(n_bytes)) as (
            _,
            guarded,
            peer,
        ),
    ):
        expected = bytearray()
        for count in range(1, 30):
            others_peer.send(b"secret" * 1000)
            await until(lambda count=count: len(other.data) == count * 6000)
            sent = pattern(count * 37)
            peer.send(sent)
            expected += sent
            await until(lambda expected=expected: len(guarded.data) == len(expected))
            assert guarded.data == expected


@pytest.mark.parametrize("n_bytes", [1, 1000])
async def test_sock_recv_into_writes_nothing_beyond_what_was_received(n_bytes):
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    near.setblocking(False)
    with near, far:
        buffer = bytearray([CANARY]) * 5000
        receiving = asyncio.ensure_future(loop.sock_recv_into(near, buffer))
        await turns(2)
        far.send(bytes(n_bytes))
        assert await receiving == n_bytes
        assert buffer == bytes(n_bytes) + bytes([CANARY]) * (5000 - n_bytes)

"""The program closes the socket under a transport, and its number becomes another file's: nothing goes there."""

import asyncio
import os
import socket

import pytest
from helpers import (
    STOCK,
    Datagrams,
    Recorder,
    connect_unshared,
    monitor_of,
    open_transport,
    pattern,
    shrink_buffers,
    socketpair,
    turns,
    until,
)

WAYS = pytest.mark.parametrize("way", ["close", "detach"])


class Stranger:
    """Another connection, which gets the number of a socket that is closed now."""

    def __init__(self, sock, way, kind=socket.SOCK_STREAM):
        number = sock.fileno()
        if way == "close":
            sock.close()
        else:
            os.close(sock.detach())
        family = socket.AF_UNIX
        self.near, self.far = socket.socketpair(family, kind)
        if self.near.fileno() != number:
            os.dup2(self.near.fileno(), number)
            self.near.close()
            self.near = socket.socket(fileno=number)
        self.near.setblocking(False)
        self.far.setblocking(False)

    def check(self):
        """Nothing came, nothing was taken, and it is open both ways."""
        for end in (self.near, self.far):
            with pytest.raises(BlockingIOError):
                end.recv(1)
        self.far.send(b"to near")
        assert self.near.recv(100) == b"to near"
        self.near.send(b"to far")
        assert self.far.recv(100) == b"to far"

    def close(self):
        self.near.close()
        self.far.close()


async def given(protocol=Recorder, kind="unix"):
    near, peer = socketpair(kind)
    peer.setblocking(False)
    near.setblocking(False)
    transport, protocol = await asyncio.get_running_loop().create_connection(protocol, sock=near)
    await turns(2)
    return transport, protocol, near, peer


@WAYS
@pytest.mark.parametrize(
    "use",
    [
        lambda transport: transport.write(b"secret"),
        lambda transport: transport.write(bytes(100_000)),
        lambda transport: transport.writelines([b"se", b"cret"]),
    ],
    ids=["write", "large write", "writelines"],
)
async def test_a_write_fails_and_goes_nowhere(way, use):
    transport, protocol, near, peer = await given()
    stranger = Stranger(near, way)
    use(transport)
    await protocol.lost.wait()
    assert isinstance(protocol.error, OSError)
    assert protocol.error.errno == 9
    stranger.check()
    stranger.close()
    peer.close()


@WAYS
@pytest.mark.parametrize(
    "use",
    [
        lambda transport: transport.close(),
        lambda transport: transport.abort(),
        lambda transport: (transport.pause_reading(), transport.abort()),
    ],
    ids=["close", "abort", "pause_reading and abort"],
)
async def test_the_end_of_the_transport_is_not_that_of_the_other(way, use):
    transport, protocol, near, peer = await given()
    stranger = Stranger(near, way)
    use(transport)
    await protocol.lost.wait()
    await turns(3)
    stranger.check()
    stranger.close()
    peer.close()


async def test_write_eof_does_not_shut_the_other_down():
    transport, protocol, near, peer = await given()
    stranger = Stranger(near, "close")
    try:
        transport.write_eof()
    except OSError:  # stock asyncio: EBADF
        assert monitor_of(asyncio.get_running_loop()) == STOCK
    stranger.check()
    transport.abort()
    await protocol.lost.wait()
    stranger.close()
    peer.close()


@WAYS
async def test_what_comes_for_the_other_is_not_taken(way):
    transport, protocol, near, peer = await given()
    stranger = Stranger(near, way)
    stranger.far.send(b"for the other")
    await turns(5)
    assert stranger.near.recv(100) == b"for the other"
    assert protocol.data == b""
    transport.abort()
    await protocol.lost.wait()
    stranger.check()
    stranger.close()
    peer.close()


async def test_a_transport_that_begins_to_read_in_the_turn_of_the_close():
    transport, protocol, near, peer = await given()
    transport.pause_reading()
    await turns(2)
    transport.resume_reading()
    stranger = Stranger(near, "close")
    stranger.far.send(b"for the other")
    await turns(5)
    assert stranger.near.recv(100) == b"for the other"
    assert protocol.data == b""
    transport.abort()
    await protocol.lost.wait()
    stranger.check()
    stranger.close()
    peer.close()


async def test_what_waits_for_room_when_the_socket_is_closed():
    if monitor_of(asyncio.get_running_loop()) == STOCK:
        pytest.skip("stock asyncio's abort() raises FileNotFoundError")
    transport, protocol, near, peer = await given()
    shrink_buffers(near, peer)
    data = pattern(2_000_000)
    transport.write(data)
    await turns(3)
    stranger = Stranger(near, "close")
    got = b""
    for _ in range(200):
        try:
            got += peer.recv(1 << 20)
        except BlockingIOError:
            pass
        await turns(1)
    assert data.startswith(got)
    transport.abort()
    await protocol.lost.wait()
    stranger.check()
    stranger.close()
    peer.close()


@WAYS
async def test_the_socket_of_get_extra_info_is_closed(way):
    """A connection whose socket the loop made, and whose writes wait for the end of the turn until it is asked for."""
    async with open_transport(kind="unix") as (transport, protocol, peer):
        await turns(2)
        transport.write(b"before ")
        stranger = Stranger(transport.get_extra_info("socket")._sock, way)
        transport.write(b"after")
        await protocol.lost.wait()
        assert peer.recv(100) == b"before "
        stranger.check()
        stranger.close()


async def test_the_socket_of_an_accepted_connection_is_closed():
    protocol = Recorder()
    server = await asyncio.get_running_loop().create_server(lambda: protocol, "127.0.0.1", 0)
    with socket.create_connection(server.sockets[0].getsockname()) as peer:
        await until(lambda: protocol.transport is not None)
        await turns(2)
        stranger = Stranger(protocol.transport.get_extra_info("socket")._sock, "close")
        protocol.transport.write(b"secret")
        await protocol.lost.wait()
        stranger.check()
        stranger.close()
        assert peer.recv(100) == b""
    server.close()
    await server.wait_closed()


async def test_a_socket_that_the_loop_sees_closed_in_the_turn_of_a_late_send():
    """Not counted as the program's, which keeps it all the same."""
    near, peer = socketpair("unix")
    transport, protocol = await connect_unshared(asyncio.get_running_loop(), Recorder, near)
    await turns(2)
    transport.write(b"secret")
    stranger = Stranger(near, "close")
    await turns(3)
    with pytest.raises(BlockingIOError):
        stranger.far.recv(100)
    transport.abort()
    await protocol.lost.wait()
    stranger.check()
    stranger.close()
    peer.close()


@pytest.mark.parametrize("is_connected", [False, True])
async def test_datagrams_fail_and_go_nowhere(is_connected):
    loop = asyncio.get_running_loop()
    near = socket.socket(type=socket.SOCK_DGRAM)
    near.bind(("127.0.0.1", 0))
    with socket.socket(type=socket.SOCK_DGRAM) as peer:
        peer.bind(("127.0.0.1", 0))
        peer.setblocking(False)
        if is_connected:
            near.connect(peer.getsockname())
        transport, protocol = await loop.create_datagram_endpoint(Datagrams, sock=near)
        await turns(2)
        stranger = Stranger(near, "close", socket.SOCK_DGRAM)
        transport.sendto(b"secret", None if is_connected else peer.getsockname())
        assert (await protocol.errors.get()).errno == 9
        stranger.far.send(b"for the other")
        await turns(5)
        assert stranger.near.recv(100) == b"for the other"
        assert protocol.received.empty()
        transport.abort()
        await protocol.lost.wait()
        await turns(2)
        stranger.check()
        stranger.close()


async def test_a_file_is_not_sent_to_the_other(tmp_path):
    """loop.sock_sendfile() asks the socket each time."""
    loop = asyncio.get_running_loop()
    if monitor_of(loop) == STOCK:
        pytest.skip("stock asyncio waits for ever, or raises ValueError")
    (tmp_path / "file").write_bytes(pattern(3_000_000))
    near, peer = socket.socketpair()
    near.setblocking(False)
    with open(tmp_path / "file", "rb") as file, peer:
        sending = asyncio.ensure_future(loop.sock_sendfile(near, file))
        await turns(3)
        stranger = Stranger(near, "close")
        peer.setblocking(False)
        peer.recv(1 << 20)
        await turns(5)
        sending.cancel()
        with pytest.raises((asyncio.CancelledError, OSError)):
            await sending
    stranger.check()
    stranger.close()

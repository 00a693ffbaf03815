"""The program closes the socket under a transport, a server, or a sock_recv().

Its file is closed then: the peer sees the end, and its port is free. Its fd number may become another file's: nothing
is sent there.
"""

import asyncio
import contextlib
import os
import socket

import pytest
from support.helpers import (
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

STATES = pytest.mark.parametrize("state", ["fresh", "busy", "quiet"])


def is_quiet():
    """Whether no read is left on the ring that would be removed from it if no data arrives."""
    loop = asyncio.get_running_loop()
    if monitor_of(loop) != "io_uring":
        return True
    from drivers.ring import is_sweeping

    return not is_sweeping(loop.aio_context)


async def bring_into(state, use):
    """Call use() repeatedly until the socket that the program closes is fresh, busy, or quiet after it was busy.

    On io_uring a read of a busy socket waits on the ring, which holds the file; after a while it is removed.
    """
    await turns(3)
    if state != "fresh":
        for _ in range(3):
            await use()
    if state == "quiet":
        await until(is_quiet)


async def closed_soon(state, is_closed):
    """Closed at once, or in a later turn if it was busy."""
    if state == "busy":
        await until(is_closed)
    assert is_closed()


def sees_end(peer):
    def is_closed():
        try:
            return peer.recv(1) == b""
        except BlockingIOError:
            return False

    return is_closed


async def abort(transport, protocol):
    """Stock asyncio's abort() raises once if the transport waits for room, but removes its writer."""
    with contextlib.suppress(OSError):
        transport.abort()
    transport.abort()
    await protocol.lost.wait()


def skip_on_poll():
    if monitor_of(asyncio.get_running_loop()) == "poll":
        pytest.skip("poll(2) knows only numbers")


class Stranger:
    """Another connection, which gets the fd number of a socket that is closed now."""

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
        """Nothing was sent to it, nothing was read from it, and it is open in both directions."""
        for end in (self.near, self.far):
            with pytest.raises(BlockingIOError):
                end.recv(1)
        self.far.send(b"to near")
        assert self.near.recv(100) == b"to near"
        self.near.send(b"to far")
        assert self.far.recv(100) == b"to far"

    async def receives_data_for_it(self):
        self.far.send(b"for the other")
        await turns(5)
        assert self.near.recv(100) == b"for the other"

    def close(self):
        self.near.close()
        self.far.close()


async def end(transport, protocol, stranger, peer):
    """End the transport, and check that the stranger is unharmed."""
    transport.abort()
    await protocol.lost.wait()
    stranger.check()
    stranger.close()
    peer.close()


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
async def test_a_write_fails_and_reaches_no_other_socket(way, use):
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
async def test_the_end_of_the_transport_does_not_end_the_stranger(way, use):
    transport, protocol, near, peer = await given()
    stranger = Stranger(near, way)
    use(transport)
    await protocol.lost.wait()
    await turns(3)
    stranger.check()
    stranger.close()
    peer.close()


async def test_write_eof_does_not_shut_the_stranger_down():
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
async def test_data_for_the_stranger_is_not_read(way):
    transport, protocol, near, peer = await given()
    stranger = Stranger(near, way)
    await stranger.receives_data_for_it()
    assert protocol.data == b""
    await end(transport, protocol, stranger, peer)


async def test_a_transport_that_resumes_reading_in_the_turn_of_the_close_reads_nothing():
    transport, protocol, near, peer = await given()
    transport.pause_reading()
    await turns(2)
    transport.resume_reading()
    stranger = Stranger(near, "close")
    await stranger.receives_data_for_it()
    assert protocol.data == b""
    await end(transport, protocol, stranger, peer)


async def test_data_that_waits_for_room_when_the_socket_is_closed_is_not_sent():
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
    await end(transport, protocol, stranger, peer)


@WAYS
async def test_a_write_after_the_socket_of_get_extra_info_is_closed_fails(way):
    """The loop makes the socket; writes wait for the end of the turn until the program requests the socket."""
    async with open_transport(kind="unix") as (transport, protocol, peer):
        await turns(2)
        transport.write(b"before ")
        stranger = Stranger(transport.get_extra_info("socket")._sock, way)
        transport.write(b"after")
        await protocol.lost.wait()
        assert peer.recv(100) == b"before "
        stranger.check()
        stranger.close()


async def test_a_write_after_the_socket_of_an_accepted_connection_is_closed_fails():
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


async def test_a_socket_closed_before_the_send_at_the_end_of_the_turn_sends_nothing_to_the_stranger():
    """The loop takes the socket for its own, but the program keeps it."""
    near, peer = socketpair("unix")
    transport, protocol = await connect_unshared(asyncio.get_running_loop(), Recorder, near)
    await turns(2)
    transport.write(b"secret")
    stranger = Stranger(near, "close")
    await turns(3)
    with pytest.raises(BlockingIOError):
        stranger.far.recv(100)
    await end(transport, protocol, stranger, peer)


@pytest.mark.parametrize("is_connected", [False, True])
async def test_datagrams_fail_and_reach_no_other_socket(is_connected):
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
        await stranger.receives_data_for_it()
        assert protocol.received.empty()
        transport.abort()
        await protocol.lost.wait()
        await turns(2)
        stranger.check()
        stranger.close()


async def test_a_file_is_not_sent_to_the_stranger(tmp_path):
    """loop.sock_sendfile() calls the socket's fileno() each time."""
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


# The file is closed


@WAYS
@STATES
@pytest.mark.parametrize("origin", ["given", "made", "accepted"])
async def test_the_peer_sees_the_end(origin, state, way):
    """The protocol is called only once the transport is closed."""
    loop = asyncio.get_running_loop()
    protocol = Recorder()
    server = None
    if origin == "given":
        transport, protocol, sock, peer = await given(kind="tcp")
    else:
        if origin == "made":
            with socket.create_server(("127.0.0.1", 0)) as listener:
                await loop.create_connection(lambda: protocol, *listener.getsockname())
                peer, _ = listener.accept()
        else:
            server = await loop.create_server(lambda: protocol, "127.0.0.1", 0)
            peer = socket.create_connection(server.sockets[0].getsockname())
            await until(lambda: protocol.transport is not None)
        transport = protocol.transport
        sock = transport.get_extra_info("socket")._sock
    peer.setblocking(False)
    n_received = 0

    async def use():
        nonlocal n_received
        peer.send(b"x")
        n_received += 1
        await until(lambda: len(protocol.data) == n_received)

    await bring_into(state, use)
    if way == "close":
        sock.close()
    else:
        os.close(sock.detach())
    await closed_soon(state, sees_end(peer))
    await turns(3)
    assert not protocol.lost.is_set()
    transport.abort()
    await protocol.lost.wait()
    assert protocol.error is None
    peer.close()
    if server is not None:
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("is_sending", [False, True])
async def test_the_peer_of_a_socket_whose_fd_number_was_replaced_sees_the_end(is_sending):
    """The socket object does not notice: dup2() makes the number another file's."""
    skip_on_poll()
    transport, protocol, near, peer = await given(kind="tcp")
    if is_sending:
        shrink_buffers(near, peer)
        transport.write(pattern(1_000_000))
        await turns(3)
        peer.setblocking(True)
        peer.settimeout(10)
    stranger = Stranger(near.dup(), "close")
    os.dup2(stranger.near.fileno(), near.fileno())
    if is_sending:
        while peer.recv(1 << 20):
            pass
    else:
        assert peer.recv(1) == b""
    await stranger.receives_data_for_it()
    assert protocol.data == b""
    assert not protocol.lost.is_set()
    await abort(transport, protocol)
    stranger.check()
    stranger.close()
    peer.close()


async def test_a_busy_transport_whose_fd_number_was_replaced_reads_nothing_from_the_new_file():
    skip_on_poll()
    transport, protocol, near, peer = await given(kind="tcp")
    for n_bytes in range(1, 4):
        peer.send(b"x")
        await until(lambda n_bytes=n_bytes: len(protocol.data) == n_bytes)
    stranger = Stranger(near.dup(), "close")
    os.dup2(stranger.near.fileno(), near.fileno())
    await until(sees_end(peer))
    await until(is_quiet)
    await stranger.receives_data_for_it()
    assert protocol.data == b"xxx"
    await end(transport, protocol, stranger, peer)


@pytest.mark.parametrize("origin", ["given", "requested"])
async def test_data_that_waits_for_room_is_not_sent_to_the_file_with_the_number_when_reading_is_paused_or_resumed(
    origin,
):
    """The epoll set has forgotten the number, and the loop changes what it watches for."""
    if origin == "given":
        transport, protocol, sock, peer = await given()
    else:
        sock, peer = socketpair("unix")
        transport, protocol = await connect_unshared(asyncio.get_running_loop(), Recorder, sock)
        sock = transport.get_extra_info("socket")._sock
    shrink_buffers(sock, peer)
    transport.write(pattern(2_000_000))
    await turns(3)
    stranger = Stranger(sock.dup(), "close")
    os.dup2(stranger.near.fileno(), sock.fileno())
    for change in (transport.pause_reading, transport.resume_reading, transport.pause_reading):
        with contextlib.suppress(OSError):  # in stock asyncio, and here if there is something new to watch
            change()
        await turns(5)
        stranger.check()
        if monitor_of(asyncio.get_running_loop()) != STOCK:  # stock asyncio reads from it in the end
            await stranger.receives_data_for_it()
    await abort(transport, protocol)
    stranger.check()
    stranger.close()
    peer.close()


@pytest.mark.parametrize("way", ["close", "detach"])
async def test_a_stranger_with_the_number_of_a_listener_does_not_wake_its_server(way):
    loop, reports = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _loop, context: reports.append(context))
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    server = await loop.create_server(Recorder, sock=listener)
    await turns(3)
    stranger = Stranger(listener, way)
    stranger.far.send(b"for the other")
    await turns(10)
    assert not reports
    assert stranger.near.recv(100) == b"for the other"
    with pytest.raises(ValueError):
        server.close()  # as in asyncio, which calls the socket's fileno()
    stranger.check()
    stranger.close()


@pytest.mark.parametrize("way", ["close", "detach"])
async def test_a_stranger_with_the_number_of_a_watched_socket_is_not_reported(way):
    loop, calls = asyncio.get_running_loop(), []
    near, peer = socket.socketpair()
    loop.add_reader(near, calls.append, "reader")
    loop.add_writer(peer, peer.fileno)
    await turns(3)
    stranger = Stranger(near, way)
    stranger.far.send(b"for the other")
    await turns(10)
    assert not calls
    loop.add_reader(stranger.near, lambda: calls.append(stranger.near.recv(100)))
    if monitor_of(loop) != STOCK:  # stock asyncio's selector takes the number for one that it watches
        await until(lambda: calls)
        assert calls == [b"for the other"]
    loop.remove_reader(stranger.near)
    loop.remove_writer(peer)
    stranger.close()
    peer.close()


async def test_the_peer_reads_what_was_sent_and_then_the_end():
    """The socket is closed while the transport waits for room."""
    transport, protocol, near, peer = await given()
    shrink_buffers(near, peer)
    data = pattern(2_000_000)
    transport.write(data)
    await turns(3)
    near.close()
    peer.settimeout(10)
    got = b""
    while chunk := peer.recv(1 << 20):
        got += chunk
    assert data.startswith(got)
    await turns(3)
    assert not protocol.lost.is_set()
    peer.close()
    await abort(transport, protocol)


@WAYS
@STATES
async def test_a_closed_listener_of_a_server_accepts_nothing_and_frees_its_port(state, way):
    loop = asyncio.get_running_loop()
    protocols = []

    def factory():
        protocols.append(Recorder())
        return protocols[-1]

    server = await loop.create_server(factory, "127.0.0.1", 0)
    listener = server.sockets[0]._sock
    address = listener.getsockname()
    peers = []

    async def use():
        peers.append(socket.create_connection(address, timeout=10))
        await until(lambda: len(protocols) == len(peers) and protocols[-1].transport is not None)
        protocols[-1].transport.abort()
        await protocols[-1].lost.wait()

    await bring_into(state, use)
    number = listener.fileno()
    if way == "close":
        listener.close()
    else:
        os.close(listener.detach())

    def is_closed():
        try:
            socket.create_connection(address, timeout=10).close()
        except ConnectionRefusedError:
            return True
        return False

    await closed_soon(state, is_closed)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(address)
        other.listen()
    await turns(3)
    assert len(protocols) == len(peers)
    assert number not in loop._transports
    with pytest.raises(ValueError, match="file descriptor"):
        server.close()
    for peer in peers:
        peer.close()


@STATES
@pytest.mark.parametrize("is_given", [False, True])
async def test_a_closed_datagram_socket_frees_its_port(is_given, state):
    loop = asyncio.get_running_loop()
    if is_given:
        sock = socket.socket(type=socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        transport, protocol = await loop.create_datagram_endpoint(Datagrams, sock=sock)
    else:
        transport, protocol = await loop.create_datagram_endpoint(Datagrams, local_addr=("127.0.0.1", 0))
        sock = transport.get_extra_info("socket")._sock
    address = sock.getsockname()
    with socket.socket(type=socket.SOCK_DGRAM) as peer:

        async def use():
            peer.sendto(b"x", address)
            await protocol.received.get()

        await bring_into(state, use)
        sock.close()

        def is_closed():
            with socket.socket(type=socket.SOCK_DGRAM) as other:
                try:
                    other.bind(address)
                except OSError:
                    return False
                return True

        await closed_soon(state, is_closed)
    await turns(3)
    assert not protocol.lost.is_set()
    transport.abort()
    await protocol.lost.wait()


@STATES
@pytest.mark.parametrize("method", ["sock_recv", "sock_recv_into", "sock_recvfrom", "sock_recvfrom_into"])
async def test_the_peer_of_a_socket_that_is_closed_under_a_receive_sees_the_end(method, state):
    """The receive itself waits until it is cancelled."""
    loop = asyncio.get_running_loop()
    near, far = socketpair("tcp")
    near.setblocking(False)
    far.setblocking(False)

    def receive():
        return asyncio.ensure_future(
            getattr(loop, method)(near, bytearray(10) if method.endswith("into") else 10)
        )

    receiving = receive()

    async def use():
        nonlocal receiving
        far.send(b"x")
        await receiving
        receiving = receive()
        await turns(2)

    await bring_into(state, use)
    near.close()
    await closed_soon(state, sees_end(far))
    await turns(3)
    assert not receiving.done()
    receiving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await receiving
    far.close()


async def test_a_socket_that_was_quiet_still_receives_everything():
    """Whether the epoll set or the ring watches it, no data is lost, and the end is seen."""
    transport, protocol, _near, peer = await given(kind="tcp")
    expected = bytearray()

    def is_complete():
        return len(protocol.data) == len(expected)

    for round in range(3):
        await until(is_quiet)
        for size in (1, 5_000, 100_000):
            data = pattern(size + round)
            await asyncio.get_running_loop().sock_sendall(peer, data)
            expected += data
            await until(is_complete)
        transport.pause_reading()
        await turns(2)
        peer.send(b"while paused")
        expected += b"while paused"
        await turns(3)
        transport.resume_reading()
        await until(is_complete)
    assert protocol.data == expected
    await until(is_quiet)
    peer.close()
    await protocol.lost.wait()
    assert protocol.error is None


async def test_the_peer_of_a_socket_that_another_thread_closed_sees_the_end():
    async with open_transport(kind="tcp") as (transport, _protocol, peer):
        await turns(3)
        sock = await asyncio.to_thread(lambda: transport.get_extra_info("socket")._sock)
        await turns(3)
        sock.close()
        await until(sees_end(peer))


@STATES
async def test_the_peer_of_a_seqpacket_socket_sees_the_end(state):
    near, peer = socket.socketpair(type=socket.SOCK_SEQPACKET)
    peer.setblocking(False)
    transport, protocol = await connect_unshared(asyncio.get_running_loop(), Recorder, near)
    n_received = 0

    async def use():
        nonlocal n_received
        peer.send(b"x")
        n_received += 1
        await until(lambda: len(protocol.data) == n_received)

    await bring_into(state, use)
    near.close()
    await closed_soon(state, sees_end(peer))
    transport.abort()
    await protocol.lost.wait()
    peer.close()

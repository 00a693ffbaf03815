"""The program closes the socket under a transport, a server, or a sock_recv().

Its file is closed then: the peer sees the end, and its port is free.  Its number becomes another file's: nothing goes
there.
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
    """Nothing waits on the ring that has to leave it if nothing comes."""
    loop = asyncio.get_running_loop()
    if monitor_of(loop) != "io_uring":
        return True
    from drivers.ring import is_sweeping

    return not is_sweeping(loop.aio_context)


async def bring_into(state, use):
    """Call use() again and again until what the program may close is fresh, busy, or quiet after it was busy.

    On io_uring what is busy waits on the ring, which holds its file; after a while it leaves.
    """
    await turns(3)
    if state != "fresh":
        for _ in range(3):
            await use()
    if state == "quiet":
        await until(is_quiet)


async def closed_soon(state, is_closed):
    """At once, except for what is busy: with a later turn."""
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
    """Stock asyncio's abort() raises once if it waits for room, and has removed its writer then."""
    with contextlib.suppress(OSError):
        transport.abort()
    transport.abort()
    await protocol.lost.wait()


def skip_on_poll():
    if monitor_of(asyncio.get_running_loop()) == "poll":
        pytest.skip("poll(2) knows numbers only")


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

    async def gets_what_is_sent_to_it(self):
        self.far.send(b"for the other")
        await turns(5)
        assert self.near.recv(100) == b"for the other"

    def close(self):
        self.near.close()
        self.far.close()


async def end(transport, protocol, stranger, peer):
    """The transport goes, and takes nothing of the other with it."""
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
    await stranger.gets_what_is_sent_to_it()
    assert protocol.data == b""
    await end(transport, protocol, stranger, peer)


async def test_a_transport_that_begins_to_read_in_the_turn_of_the_close():
    transport, protocol, near, peer = await given()
    transport.pause_reading()
    await turns(2)
    transport.resume_reading()
    stranger = Stranger(near, "close")
    await stranger.gets_what_is_sent_to_it()
    assert protocol.data == b""
    await end(transport, protocol, stranger, peer)


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
    await end(transport, protocol, stranger, peer)


@WAYS
async def test_the_socket_of_get_extra_info_is_closed(way):
    """The loop makes the socket; writes wait for the end of the turn until the socket is requested."""
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
    await end(transport, protocol, stranger, peer)


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
        await stranger.gets_what_is_sent_to_it()
        assert protocol.received.empty()
        transport.abort()
        await protocol.lost.wait()
        await turns(2)
        stranger.check()
        stranger.close()


async def test_a_file_is_not_sent_to_the_other(tmp_path):
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


# its file is closed


@WAYS
@STATES
@pytest.mark.parametrize("origin", ["given", "made", "accepted"])
async def test_the_peer_sees_the_end(origin, state, way):
    """And the protocol nothing, until it closes the transport."""
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
async def test_the_peer_of_one_whose_number_was_closed_sees_the_end(is_sending):
    """The socket object does not know of it; the number is another file's at once."""
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
    await stranger.gets_what_is_sent_to_it()
    assert protocol.data == b""
    assert not protocol.lost.is_set()
    await abort(transport, protocol)
    stranger.check()
    stranger.close()
    peer.close()


async def test_one_whose_number_is_another_files_while_it_is_busy_takes_nothing_of_that():
    skip_on_poll()
    transport, protocol, near, peer = await given(kind="tcp")
    for n_bytes in range(1, 4):
        peer.send(b"x")
        await until(lambda n_bytes=n_bytes: len(protocol.data) == n_bytes)
    stranger = Stranger(near.dup(), "close")
    os.dup2(stranger.near.fileno(), near.fileno())
    await until(sees_end(peer))
    await until(is_quiet)
    await stranger.gets_what_is_sent_to_it()
    assert protocol.data == b"xxx"
    await end(transport, protocol, stranger, peer)


@pytest.mark.parametrize("origin", ["given", "requested"])
async def test_what_waits_for_room_does_not_go_to_the_file_that_got_the_number_when_reading_changes(origin):
    """The set of an epoll monitor has forgotten the number, and is asked to watch less of it."""
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
        with contextlib.suppress(OSError):  # stock asyncio, and here where there is something new to watch
            change()
        await turns(5)
        stranger.check()
        if monitor_of(asyncio.get_running_loop()) != STOCK:  # which reads from it in the end
            await stranger.gets_what_is_sent_to_it()
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
        server.close()  # as asyncio, which calls the socket's fileno()
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
    if monitor_of(loop) != STOCK:  # whose selector takes the number for one that it watches
        await until(lambda: calls)
        assert calls == [b"for the other"]
    loop.remove_reader(stranger.near)
    loop.remove_writer(peer)
    stranger.close()
    peer.close()


async def test_the_peer_reads_what_was_sent_and_then_the_end():
    """While the transport waits for room."""
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
async def test_a_listener_under_its_server_accepts_nothing_and_gives_back_its_port(state, way):
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
async def test_a_datagram_endpoint_gives_back_its_port(is_given, state):
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
    """And the receive waits until it is cancelled."""
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


async def test_a_socket_that_was_quiet_goes_on():
    """Whichever of the epoll set and the ring watches for it, nothing is lost, and the end is seen."""
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


async def test_the_peer_of_one_that_another_thread_requested_sees_the_end():
    async with open_transport(kind="tcp") as (transport, _protocol, peer):
        await turns(3)
        sock = await asyncio.to_thread(lambda: transport.get_extra_info("socket")._sock)
        await turns(3)
        sock.close()
        await until(sees_end(peer))


@STATES
async def test_the_peer_of_a_socket_that_keeps_records_sees_the_end(state):
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

"""Writes to a transport and the program's own operations on its socket keep the order of the program."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap

import pytest
from support.connections import KINDS
from support.helpers import (
    STOCK,
    Datagrams,
    Recorder,
    abort,
    client_tls,
    connect_unshared,
    monitor_of,
    open_transport,
    read_exactly,
    read_to_end,
    run_script,
    server_tls,
    socketpair,
    turns,
)


def now(peer):
    """The data that has arrived, without a turn of the loop."""
    try:
        return peer.recv(1000)
    except BlockingIOError:
        return b""


def socket_of(transport):
    return transport.get_extra_info("socket")


# Streams


@KINDS
async def test_shutdown_follows_the_written_data(kind):
    async with open_transport(kind=kind) as (transport, protocol, peer):
        transport.write(b"bye")
        socket_of(transport).shutdown(socket.SHUT_WR)
        assert await read_to_end(peer) == b"bye"
        assert protocol.error is None


@pytest.mark.parametrize(
    "use",
    [
        lambda sock: sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        lambda sock: sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR),
        lambda sock: sock.fileno(),
        lambda sock: sock.dup().close(),
        lambda sock: sock._sock,
        lambda sock: sock.getpeername(),
        lambda sock: sock.getsockname(),
    ],
    ids=["setsockopt", "getsockopt", "fileno", "dup", "_sock", "getpeername", "getsockname"],
)
async def test_written_data_is_sent_before_the_program_uses_the_socket(use):
    async with open_transport() as (transport, _protocol, peer):
        sock = socket_of(transport)
        transport.write(b"1")
        use(sock)
        assert now(peer) == b"1"
        transport.write(b"2")
        use(sock)
        assert now(peer) == b"2"


async def test_harmless_attributes_do_not_send_before_the_end_of_the_turn():
    if monitor_of(asyncio.get_running_loop()) == STOCK:
        pytest.skip("stock asyncio sends within write()")
    async with open_transport() as (transport, _protocol, peer):
        sock = socket_of(transport)
        transport.write(b"1")
        assert (sock.family, sock.type) == (socket.AF_INET, socket.SOCK_STREAM)
        assert sock.proto in (0, socket.IPPROTO_TCP)
        assert "TransportSocket" in repr(sock)
        assert isinstance(sock, asyncio.trsock.TransportSocket)
        sock.settimeout(0)
        sock.setblocking(False)
        assert sock.gettimeout() == 0
        assert not sock.get_inheritable()
        assert now(peer) == b""
        transport.write(b"2")
        assert await read_exactly(peer, 2) == b"12"


@pytest.mark.parametrize("way", ["_sock", "_sock_fd", "fileno", "of the transport"])
async def test_a_write_of_the_program_between_two_writes_keeps_the_order(way):
    async with open_transport(kind="unix") as (transport, _protocol, peer):
        transport.write(b"1")
        if way == "_sock":
            socket_of(transport)._sock.send(b"2")
        elif way == "of the transport":
            transport._sock.send(b"2")
        else:
            os.write(transport._sock_fd if way == "_sock_fd" else socket_of(transport).fileno(), b"2")
        transport.write(b"3")
        assert now(peer) == b"123"


async def test_descriptors_passed_between_two_writes_keep_the_order():
    async with open_transport(kind="unix") as (transport, _protocol, peer):
        transport.write(b"1")
        socket.send_fds(socket_of(transport)._sock, [b"2"], [0])
        transport.write(b"3")
        got = b""
        while len(got) < 3:
            piece, fds, _flags, _address = socket.recv_fds(peer, 10, 1)
            got += piece
            for fd in fds:
                os.close(fd)
        assert got == b"123"


async def test_writes_to_an_older_duplicate_stay_in_order():
    async with open_transport(kind="unix") as (transport, _protocol, peer):
        with socket_of(transport).dup() as copy:
            for number in range(0, 30, 3):
                transport.write(b"%02d" % number)
                copy.send(b"%02d" % (number + 1))
                transport.writelines([b"%02d" % (number + 2)])
        assert now(peer) == b"".join(b"%02d" % number for number in range(30))


@KINDS
async def test_a_program_may_write_to_the_socket_that_it_gave(kind):
    near, peer = socketpair(kind)
    peer.setblocking(False)
    with near.dup() as copy, peer:
        transport, protocol = await asyncio.get_running_loop().create_connection(Recorder, sock=near)
        transport.write(b"1")
        near.send(b"2")
        transport.write(b"3")
        copy.send(b"4")
        transport.writelines([b"5", b"6"])
        assert now(peer) == b"123456"
        await abort(protocol)


async def test_a_program_may_write_to_an_accepted_socket_that_it_gave():
    near, peer = socketpair("tcp")
    with peer:
        transport, protocol = await asyncio.get_running_loop().connect_accepted_socket(Recorder, near)
        transport.write(b"1")
        near.send(b"2")
        assert peer.recv(10) == b"12"
        await abort(protocol)


async def test_a_child_with_the_socket_as_its_output_writes_after_the_head():
    async with open_transport(kind="unix") as (transport, _protocol, peer):
        transport.write(b"head ")
        command = [sys.executable, "-c", "print('body', end='')"]
        subprocess.run(command, stdout=socket_of(transport).fileno(), check=True)
        transport.write(b" foot")
        assert await read_exactly(peer, 14) == b"head body foot"


async def test_accepted_connections_keep_the_order():
    """Their Python socket is made when it is requested."""
    protocol = Recorder()
    server = await asyncio.get_running_loop().create_server(lambda: protocol, "127.0.0.1", 0)
    with socket.create_connection(server.sockets[0].getsockname()) as peer:
        peer.setblocking(False)
        while protocol.transport is None:
            await turns(1)
        protocol.transport.write(b"1")
        socket_of(protocol.transport)._sock.send(b"2")
        protocol.transport.write(b"3")
        assert await read_exactly(peer, 3) == b"123"
        await abort(protocol)
    server.close()
    await server.wait_closed()


async def test_tls_records_are_sent_before_the_program_shuts_down():
    loop = asyncio.get_running_loop()
    near, far = socketpair("tcp")
    reader = asyncio.StreamReader()
    serving = asyncio.ensure_future(
        loop.connect_accepted_socket(lambda: asyncio.StreamReaderProtocol(reader), far, ssl=server_tls())
    )
    transport, protocol = await connect_unshared(
        loop, Recorder, near, ssl=client_tls(), server_hostname="localhost"
    )
    other, _ = await serving
    transport.write(b"last")
    socket_of(transport).shutdown(socket.SHUT_WR)
    assert await reader.read(4) == b"last"
    other.abort()
    await abort(protocol)
    await turns(3)


async def test_a_send_that_fails_in_the_middle_is_reported_by_connection_lost():
    async with open_transport(kind="unix") as (transport, protocol, peer):
        transport.write(b"1")
        peer.close()
        socket_of(transport).setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        await protocol.lost.wait()


# drain()


@pytest.mark.parametrize("kind", ["tcp", "tls"])
async def test_after_drain_the_kernel_has_what_was_written(kind):
    loop = asyncio.get_running_loop()
    got = []

    async def serve(reader, writer):
        got.append(await reader.read(5))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_tls() if kind == "tls" else None)
    options = {"ssl": client_tls(), "server_hostname": "localhost"} if kind == "tls" else {}
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), **options)
    below = writer.transport if kind == "tcp" else writer.transport._ssl_protocol._transport
    writer.write(b"hello")
    await writer.drain()
    assert below.get_write_buffer_size() == 0
    while not got:
        await turns(1)
    assert got == [b"hello"]
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    server.close()
    await server.wait_closed()
    assert loop.is_running()


@KINDS
@pytest.mark.parametrize("others", [1, 2])
async def test_with_many_ready_callbacks_drain_leaves_sending_to_the_end_of_the_turn(kind, others):
    """Many connections can then share system calls for their sends."""
    loop = asyncio.get_running_loop()
    protocol = asyncio.StreamReaderProtocol(asyncio.StreamReader())
    near, peer = socketpair(kind)
    peer.setblocking(False)
    transport, _ = await connect_unshared(loop, lambda: protocol, near)
    writer = asyncio.StreamWriter(transport, protocol, None, loop)
    with peer:
        await turns(3)
        for _ in range(others):
            loop.call_soon(int)
        writer.write(b"hello")
        await writer.drain()
        assert now(peer) == (b"" if others == 2 and monitor_of(loop) != STOCK else b"hello")
        await turns(2)
        assert transport.get_write_buffer_size() == 0
        writer.write(b", world")
        for _ in range(others):
            loop.call_soon(int)
        await writer.drain()
        os.kill(os.getpid(), 0)  # as before the program forks, ends, or signals another process
        assert now(peer).endswith(b", world")
        transport.abort()
        await turns(2)


# Processes

ENDINGS = {
    "fork": (
        """
        if not os.fork():
            os.write(number, b"child ")
            os._exit(0)
        os.wait()
        """,
        b"parent child ",
        0,
    ),
    "exec": ('os.execv(sys.executable, [sys.executable, "-c", ""])', b"parent ", 0),
    "kill": ("os.kill(os.getpid(), signal.SIGKILL)", b"parent ", -signal.SIGKILL),
    "drain and _exit": (
        "await asyncio.StreamWriter(transport, protocol, None, loop).drain(); os._exit(0)",
        b"parent ",
        0,
    ),
    "popen": (
        """
        subprocess.run([sys.executable, "-c", f"import os; os.write({number}, b'child ')"], pass_fds=[number])
        """,
        b"parent child ",
        0,
    ),
    "drain": (
        """
        await asyncio.StreamWriter(transport, protocol, None, loop).drain()
        os.write(number, b"child ")
        """,
        b"parent child ",
        0,
    ),
}


# An address that no other program connects to: where tests run beside others, a client that looks for a server which is
# gone may find this one, and its bytes came first (ZeroMQ's did).
ELSEWHERE = ("127.0.7.3", 0)


@pytest.mark.parametrize("ending", ENDINGS)
def test_written_data_is_sent_before_the_process_ends(monitor, ending):
    body, expected, status = ENDINGS[ending]
    with socket.create_server(ELSEWHERE) as listener:
        source = f"""
import re, signal, subprocess
address = {listener.getsockname()!r}
loop = make_loop(MONITOR)
async def main():
    protocol = asyncio.StreamReaderProtocol(asyncio.StreamReader())
    transport, _ = await loop.create_connection(lambda: protocol, *address)
    number = int(re.search(r"fd=([0-9]+)", repr(transport)).group(1))  # the loop does not notice this
    transport.write(b"parent ")
{textwrap.indent(textwrap.dedent(body), "    ")}
    transport.abort()
loop.run_until_complete(main())
os._exit(0)
"""
        run_script(source, monitor, expect=status)
        peer, _ = listener.accept()
        with peer:
            got = b""
            while piece := peer.recv(100):
                got += piece
        assert got == expected


def test_data_written_while_the_loop_does_not_run_is_sent_when_the_interpreter_exits(monitor):
    with socket.create_server(ELSEWHERE) as listener:
        run_script(
            f"""
            loop = make_loop(MONITOR)
            warnings.simplefilter("ignore")
            transport, _ = loop.run_until_complete(loop.create_connection(Recorder, *{listener.getsockname()!r}))
            transport.write(b"last words")
            """.replace("loop = ", "import warnings\n            loop = ", 1),
            monitor,
        )
        peer, _ = listener.accept()
        with peer:
            assert peer.recv(100) == b"last words"


# Datagrams


@contextlib.asynccontextmanager
async def datagram_pair(**kwargs):
    """A transport, and a non-blocking socket with its address, which reports TTL and TOS of what it receives."""
    with socket.socket(type=socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.setblocking(False)
        receiver.setsockopt(socket.IPPROTO_IP, 12, 1)  # IP_RECVTTL
        receiver.setsockopt(socket.IPPROTO_IP, 13, 1)  # IP_RECVTOS
        kwargs = kwargs or {"local_addr": ("127.0.0.1", 0)}
        transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(Datagrams, **kwargs)
        try:
            yield transport, protocol, receiver, receiver.getsockname()
        finally:
            transport.abort()
            await protocol.lost.wait()


@pytest.mark.parametrize(("option", "reported"), [(socket.IP_TTL, 2), (socket.IP_TOS, 1)], ids=["TTL", "TOS"])
async def test_each_datagram_is_sent_with_the_option_set_before_it(option, reported):
    async with datagram_pair() as (transport, _protocol, receiver, address):
        sock = socket_of(transport)
        for value in (4, 8, 16, 32):
            sock.setsockopt(socket.IPPROTO_IP, option, value)
            transport.sendto(b"%d" % value, address)
        await turns(1)
        for value in (4, 8, 16, 32):
            data, ancillary, _flags, _origin = receiver.recvmsg(100, 100)
            options = {number: raw for _level, number, raw in ancillary}
            assert data == b"%d" % value
            assert int.from_bytes(options[reported], sys.byteorder) == value


async def test_broadcasting_can_be_allowed_for_one_datagram():
    async with datagram_pair() as (transport, protocol, _receiver, address):
        sock = socket_of(transport)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        transport.sendto(b"to all", ("127.255.255.255", address[1]))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 0)
        await turns(3)
        assert protocol.errors.empty()


async def test_datagrams_of_the_program_and_of_the_transport_stay_in_order():
    async with datagram_pair() as (transport, _protocol, receiver, address):
        transport.sendto(b"1", address)
        with socket_of(transport).dup() as copy:
            copy.sendto(b"2", address)
            transport.sendto(b"3", address)
            copy.sendto(b"4", address)
            assert [receiver.recv(10) for _ in range(4)] == [b"1", b"2", b"3", b"4"]


async def test_a_program_may_send_on_the_datagram_socket_that_it_gave():
    given = socket.socket(type=socket.SOCK_DGRAM)
    given.bind(("127.0.0.1", 0))
    async with datagram_pair(sock=given) as (transport, _protocol, receiver, address):
        transport.sendto(b"1", address)
        given.sendto(b"2", address)
        transport.sendto(b"3", address)
        given.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 7)
        ttl = {}
        for _ in range(3):
            data, ancillary, _flags, _origin = receiver.recvmsg(100, 100)
            ttl[data] = {number: raw for _level, number, raw in ancillary}[2]
        assert list(ttl) == [b"1", b"2", b"3"]
        assert int.from_bytes(ttl[b"3"], sys.byteorder) != 7


async def test_the_first_datagram_binds_the_socket():
    async with datagram_pair(family=socket.AF_INET) as (transport, _protocol, _receiver, address):
        transport.sendto(b"binds", address)
        assert socket_of(transport).getsockname()[1] != 0

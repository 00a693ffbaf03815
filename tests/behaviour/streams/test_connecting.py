"""create_connection, sock_connect and their parameters: which addresses are tried, in which order, what is closed."""

import asyncio
import errno
import socket
import sys

import pytest
from support.helpers import STOCK, Recorder, monitor_of, turns, until

TCP = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
TCP6 = (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")


@pytest.fixture
def refused():
    """Addresses without a listener: their ports are bound."""
    socks = [socket.socket() for _ in range(3)]
    for sock in socks:
        sock.bind(("127.0.0.1", 0))
    yield [sock.getsockname() for sock in socks]
    for sock in socks:
        sock.close()


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()


@pytest.fixture
def resolve_to(monkeypatch):
    """A function that sets the results of the running loop's resolver."""

    def answer(*infos):
        async def getaddrinfo(*_args, **_kwargs):
            return list(infos)

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
        return asyncio.get_running_loop()

    return answer


@pytest.fixture
def tried(monkeypatch):
    """A function that records which addresses the running loop connects to; a verdict of None waits forever."""

    def record(verdicts):
        loop = asyncio.get_running_loop()
        addresses = []

        async def sock_connect(sock, address):
            addresses.append(address[0])
            verdict = verdicts.get(address[0])
            if verdict is None:
                await loop.create_future()
            if isinstance(verdict, BaseException):
                raise verdict

        monkeypatch.setattr(loop, "sock_connect", sock_connect)
        return addresses

    return record


async def end(transport, protocol):
    transport.abort()
    await protocol.lost.wait()
    await turns(3)


# create_connection


async def test_addresses_are_tried_in_the_resolvers_order(resolve_to, refused, listening):
    loop = resolve_to(*((*TCP, address) for address in (*refused, listening)))
    transport, protocol = await loop.create_connection(Recorder, "four.invalid", 1)
    assert transport.get_extra_info("peername") == listening
    await end(transport, protocol)


async def test_different_errors_are_reported_together(resolve_to, refused):
    loop = resolve_to(*((*TCP, address) for address in refused))
    with pytest.raises(OSError, match="Multiple exceptions") as caught:
        await loop.create_connection(Recorder, "three.invalid", 1)
    assert all(str(port) in str(caught.value) for _, port in refused)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="all_errors is new in Python 3.12")
async def test_all_errors_has_one_exception_for_each_address(resolve_to, refused):
    loop = resolve_to(*((*TCP, address) for address in refused))
    with pytest.raises(ExceptionGroup) as caught:
        await loop.create_connection(Recorder, "three.invalid", 1, all_errors=True)
    assert [type(error) for error in caught.value.exceptions] == [ConnectionRefusedError] * 3


@pytest.mark.parametrize(
    ("interleave", "order"),
    [(None, "a b c x y"), (1, "a x b y c"), (2, "a b x c y")],
)
async def test_interleave_mixes_the_families(resolve_to, tried, interleave, order):
    loop = resolve_to(
        *((*TCP6, (name, 1, 0, 0)) for name in "abc"),
        *((*TCP, (name, 1)) for name in "xy"),
    )
    addresses = tried({name: ConnectionRefusedError(errno.ECONNREFUSED, name) for name in "abcxy"})
    with pytest.raises(OSError):
        await loop.create_connection(Recorder, "mixed.invalid", 1, interleave=interleave)
    assert " ".join(addresses) == order


async def test_happy_eyeballs_starts_the_next_address_when_one_is_slow(resolve_to, monkeypatch, listening):
    """The first address never answers; the second starts after the delay, and the first socket is closed."""
    loop = resolve_to((*TCP, ("slow", 1)), (*TCP, listening))
    socks = []
    connect = loop.sock_connect

    async def sock_connect(sock, address):
        socks.append(sock)
        if address[0] == "slow":
            await loop.create_future()
        await connect(sock, address)

    monkeypatch.setattr(loop, "sock_connect", sock_connect)
    transport, protocol = await loop.create_connection(Recorder, "two.invalid", 1, happy_eyeballs_delay=0.001)
    assert transport.get_extra_info("peername") == listening
    assert [sock.fileno() == -1 for sock in socks] == [True, False]
    await end(transport, protocol)


async def test_happy_eyeballs_does_not_wait_after_a_failure(resolve_to, refused, listening):
    loop = resolve_to((*TCP, refused[0]), (*TCP, listening))
    transport, protocol = await loop.create_connection(Recorder, "two.invalid", 1, happy_eyeballs_delay=1000)
    assert transport.get_extra_info("peername") == listening
    await end(transport, protocol)


async def test_happy_eyeballs_interleaves_by_itself(resolve_to, tried):
    loop = resolve_to((*TCP6, ("a", 1, 0, 0)), (*TCP6, ("b", 1, 0, 0)), (*TCP, ("x", 1)))
    addresses = tried({name: ConnectionRefusedError(errno.ECONNREFUSED, name) for name in "abx"})
    with pytest.raises(OSError):
        await loop.create_connection(Recorder, "mixed.invalid", 1, happy_eyeballs_delay=1000)
    assert addresses == ["a", "x", "b"]


async def test_cancelled_happy_eyeballs_closes_every_socket(resolve_to, tried):
    loop = resolve_to((*TCP, ("a", 1)), (*TCP, ("b", 1)))
    addresses = tried({})
    task = asyncio.ensure_future(
        loop.create_connection(Recorder, "two.invalid", 1, happy_eyeballs_delay=0.001)
    )
    await until(lambda: len(addresses) == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_local_addr_of_another_family_is_refused(listening):
    with pytest.raises(OSError):
        await asyncio.get_running_loop().create_connection(Recorder, *listening, local_addr=("::1", 0))


async def test_local_addr_in_use_is_reported(listening):
    with pytest.raises(OSError, match="error while attempting to bind on") as caught:
        await asyncio.get_running_loop().create_connection(Recorder, *listening, local_addr=listening)
    assert caught.value.errno == errno.EADDRINUSE


async def test_a_given_socket_becomes_non_blocking():
    near, far = socket.socketpair()
    transport, protocol = await asyncio.get_running_loop().create_connection(Recorder, sock=near)
    assert near.gettimeout() == 0
    await end(transport, protocol)
    far.close()


@pytest.mark.parametrize("timeouts", [{"ssl_handshake_timeout": 1}, {"ssl_shutdown_timeout": 1}])
async def test_connect_accepted_socket_refuses_useless_arguments_and_sockets(timeouts):
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    with near, far, pytest.raises(ValueError):
        await loop.connect_accepted_socket(Recorder, near, **timeouts)
    with socket.socket(type=socket.SOCK_DGRAM) as datagram, pytest.raises(ValueError, match="Stream"):
        await loop.connect_accepted_socket(Recorder, datagram)


# sock_connect


@pytest.fixture
def full_backlog():
    """(listener, clients): no further client can connect before one is accepted."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    clients = [socket.create_connection(listener.getsockname())]
    yield listener, clients
    for sock in (listener, *clients):
        sock.close()


async def accept_all(listener):
    listener.setblocking(False)
    accepted = []

    def more():
        try:
            accepted.append(listener.accept()[0])
        except BlockingIOError:
            return False
        return True

    await until(more)
    while more():
        pass
    return accepted


async def test_a_socket_whose_sock_connect_was_cancelled_can_connect_again(full_backlog):
    loop = asyncio.get_running_loop()
    listener, _ = full_backlog
    with socket.socket() as sock:
        sock.setblocking(False)
        for _ in range(3):
            task = asyncio.ensure_future(loop.sock_connect(sock, listener.getsockname()))
            await turns(3)
            assert not task.done()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not loop.remove_writer(sock)
        task = asyncio.ensure_future(loop.sock_connect(sock, listener.getsockname()))
        await turns(3)
        accepted = await accept_all(listener)
        await task
        assert sock.getpeername() == listener.getsockname()
        for peer in accepted:
            peer.close()


async def test_connecting_a_connected_socket_raises(listening):
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setblocking(False)
        with pytest.raises(OSError) as caught:
            for _ in range(3):  # on Linux the first connect() after the connection was made succeeds
                await loop.sock_connect(sock, listening)
        assert caught.value.errno == errno.EISCONN


async def test_a_datagram_socket_is_connected_at_once():
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", 9))
        assert sock.getpeername() == ("127.0.0.1", 9)


async def test_an_invalid_address_raises(tmp_path):
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.setblocking(False)
        with pytest.raises(FileNotFoundError):
            await loop.sock_connect(sock, str(tmp_path / "missing"))
        with pytest.raises(TypeError):
            await loop.sock_connect(sock, 5)


async def test_connecting_to_a_busy_unix_listener_waits_for_room(tmp_path):
    """connect(2) returns EAGAIN then, and the socket counts as writable."""
    loop = asyncio.get_running_loop()
    if monitor_of(loop) == STOCK:
        pytest.skip("stock asyncio reports that it is connected")
    path = str(tmp_path / "busy")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)
        with socket.socket(socket.AF_UNIX) as second, socket.socket(socket.AF_UNIX) as third:
            for sock in (second, third):
                sock.setblocking(False)
            connecting = asyncio.ensure_future(loop.sock_connect(second, path))
            cancelled = asyncio.ensure_future(loop.sock_connect(third, path))
            await turns(20)
            assert not connecting.done()
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            listener.accept()[0].close()
            await connecting
            listener.accept()[0].close()
            assert second.getpeername() == path

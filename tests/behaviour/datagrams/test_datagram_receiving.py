"""Datagram endpoints: what arrives, in batches, and how an endpoint stops in the middle of one."""

import asyncio
import contextlib
import contextvars
import os
import socket
import struct

import pytest
from support.helpers import STOCK, Datagrams, monitor_of, one_turn, run, turn_until, turns, until

MANY = 150  # more than one batch


class Listener(asyncio.DatagramProtocol):
    """Records the datagrams, and calls `react` for each."""

    def __init__(self, react=lambda listener: None):
        self.react = react
        self.got = []
        self.errors = []
        self.lost = asyncio.Event()
        self.transport = None

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        self.got.append((data, addr))
        self.react(self)

    def error_received(self, error):
        self.errors.append(error)

    def connection_lost(self, error):
        self.lost.set()

    @property
    def data(self):
        return [data for data, _ in self.got]


@contextlib.asynccontextmanager
async def listening(react=lambda listener: None, **kwargs):
    """A Listener on the loopback and a socket connected to it."""
    if not kwargs:
        kwargs = {"local_addr": ("127.0.0.1", 0)}
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(lambda: Listener(react), **kwargs)
    name = transport.get_extra_info("sockname")
    with socket.socket(transport.get_extra_info("socket").family, socket.SOCK_DGRAM) as sock:
        sock.connect(name)
        yield protocol, sock
    transport.abort()
    await protocol.lost.wait()


def numbered(count):
    return [b"%d" % number for number in range(count)]


def send_all(sock, datagrams):
    for data in datagrams:
        sock.send(data)


# What arrives


async def test_more_than_a_batch_arrives_whole_and_in_order():
    async with listening() as (listener, sock):
        send_all(sock, numbered(MANY))
        await until(lambda: len(listener.got) == MANY)
        assert listener.data == numbered(MANY)
        assert {addr for _, addr in listener.got} == {sock.getsockname()}


@pytest.mark.parametrize("size", [0, 1, 2047, 2048, 2049, 4096, 65507])
async def test_a_datagram_of_any_size_arrives_whole(size):
    async with listening() as (listener, sock):
        data = os.urandom(size)
        send_all(sock, [b"before", data, b"after"])
        await until(lambda: len(listener.got) == 3)
        assert listener.data == [b"before", data, b"after"]


async def test_large_unix_datagrams_arrive_whole(tmp_path):
    path = str(tmp_path / "far")
    async with listening(local_addr=path, family=socket.AF_UNIX) as (listener, sock):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 400_000)
        for size in (150_000, 1, 100_000):
            data = os.urandom(size)
            sock.send(data)
            await until(lambda: listener.got)
            assert listener.got == [(data, None)]
            listener.got.clear()


async def test_addresses_of_unix_datagrams_are_the_same_as_of_the_socket_module(tmp_path):
    path = str(tmp_path / "near")
    names = [None, str(tmp_path / "far"), str(tmp_path / "f\N{LATIN SMALL LETTER U WITH DIAERESIS}r")]
    names += [b"\0uringloop-%d" % os.getpid(), os.fsdecode(os.fsencode(str(tmp_path)) + b"/\xff")]
    async with listening(local_addr=path, family=socket.AF_UNIX) as (listener, _):
        for name in names:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                if name is not None:
                    sock.bind(name)
                sock.sendto(b"x", path)
        await until(lambda: len(listener.got) == len(names))
        assert [addr for _, addr in listener.got] == names


async def test_thousands_of_peers_are_distinguished_and_answered():
    """More than any table of addresses holds; each answer reaches its peer."""

    def answer(listener):
        data, addr = listener.got[-1]
        listener.transport.sendto(data, addr)

    async with listening(answer) as (listener, _):
        name = listener.transport.get_extra_info("sockname")
        hosts = [f"127.1.{number // 125}.{number % 125 + 1}" for number in range(1500)]
        for begin in (*range(0, 1500, 125), 0):
            with contextlib.ExitStack() as stack:
                listener.got.clear()
                socks = []
                for host in hosts[begin : begin + 125]:
                    sock = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
                    sock.bind((host, 0))
                    sock.setblocking(False)
                    sock.sendto(host.encode(), name)
                    socks.append(sock)
                await until(lambda: len(listener.got) == 125)
                await turns(2)
                assert {addr for _, addr in listener.got} == {sock.getsockname() for sock in socks}
                for sock in socks:
                    assert sock.recvfrom(100) == (sock.getsockname()[0].encode(), name)


async def test_ipv6_addresses_have_four_items():
    async with listening(local_addr=("::1", 0)) as (listener, sock):
        sock.send(b"x")
        await until(lambda: listener.got)
        assert listener.got == [(b"x", sock.getsockname())]
        assert len(sock.getsockname()) == 4
        sock.setblocking(False)
        host, port = sock.getsockname()[:2]
        for addr in (sock.getsockname(), (host, port), (host, port, 0)):
            listener.transport.sendto(repr(addr).encode(), addr)
            await turns(2)
            assert sock.recv(100) == repr(addr).encode()


async def test_ipv4_peers_of_an_ipv6_endpoint_have_mapped_addresses():
    sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("::", 0))
    loop = asyncio.get_running_loop()
    transport, listener = await loop.create_datagram_endpoint(Listener, sock=sock)
    with socket.socket(type=socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        other.setblocking(False)
        other.sendto(b"x", ("127.0.0.1", sock.getsockname()[1]))
        await until(lambda: listener.got)
        assert listener.got[0][1] == ("::ffff:127.0.0.1", other.getsockname()[1], 0, 0)
        transport.sendto(b"y", listener.got[0][1])
        await turns(2)
        assert other.recv(10) == b"y"
    transport.abort()
    await listener.lost.wait()


async def test_netlink_sockets_work():
    """A family whose addresses only the socket module knows."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 0)  # NETLINK_ROUTE
    sock.bind((0, 0))
    loop = asyncio.get_running_loop()
    transport, listener = await loop.create_datagram_endpoint(Listener, sock=sock)
    get_link, dump, done = 18, 0x301, 3
    request = struct.pack("=IHHIIBxHiII", 32, get_link, dump, 7, 0, 0, 0, 0, 0, 0)
    transport.sendto(request, (0, 0))

    def is_done():
        return listener.got and struct.unpack_from("=IHHII", listener.data[-1])[1] == done

    await until(is_done)
    assert {addr for _, addr in listener.got} == {(0, 0)}
    assert b"lo\0" in listener.data[0]
    assert not listener.errors
    transport.abort()
    await listener.lost.wait()


async def test_a_broadcast_reaches_the_loopback():
    loop = asyncio.get_running_loop()
    async with listening(local_addr=("0.0.0.0", 0)) as (listener, _):
        port = listener.transport.get_extra_info("sockname")[1]
        transport, sender = await loop.create_datagram_endpoint(
            Listener, remote_addr=("127.255.255.255", port), allow_broadcast=True
        )
        assert transport.get_extra_info("peername") is None
        transport.sendto(b"all")
        transport.sendto(b"of you", ("127.255.255.255", port))
        with pytest.raises(ValueError, match=r"Invalid address: must be None or"):
            transport.sendto(b"x", ("127.0.0.1", port))
        await until(lambda: len(listener.got) == 2)
        assert listener.data == [b"all", b"of you"]
        transport.abort()
        await sender.lost.wait()


@pytest.mark.parametrize("kind", ["udp", "unix"])
async def test_senders_names_do_not_depend_on_the_family_of_the_socket_object(tmp_path, kind):
    """A socket may be wrapped as one of another family; received data is not truncated, either."""
    loop = asyncio.get_running_loop()
    if kind == "udp":
        near, far, wrapped_as = (
            socket.socket(type=socket.SOCK_DGRAM),
            socket.socket(type=socket.SOCK_DGRAM),
            socket.AF_UNIX,
        )
        near.bind(("127.0.0.1", 0))
        far.bind(("127.0.0.1", 0))
    else:
        if monitor_of(loop) == STOCK:
            pytest.skip("socket.socket truncates names that are longer than those of its own family")
        near, far = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
        wrapped_as = socket.AF_INET
        near.bind(str(tmp_path / "near"))
        far.bind(str(tmp_path / "longer than fourteen"))
    address = near.getsockname()
    wrapped = socket.fromfd(near.fileno(), wrapped_as, socket.SOCK_DGRAM)
    near.close()
    wrapped.setblocking(False)
    transport, listener = await loop.create_datagram_endpoint(Listener, sock=wrapped)
    data = bytes(60_000 if kind == "udp" else 100_000)
    far.sendto(data, address)
    await until(lambda: listener.got)
    assert listener.got == [(data, far.getsockname())]
    far.close()
    transport.abort()
    await listener.lost.wait()


async def test_a_multicast_reaches_the_members_of_the_group():
    group = "224.0.0.251"
    membership = socket.inet_aton(group) + socket.inet_aton("127.0.0.1")
    async with listening(local_addr=("0.0.0.0", 0)) as (listener, _), listening() as (sender, _):
        near = listener.transport.get_extra_info("socket")
        near.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        far = sender.transport.get_extra_info("socket")
        far.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        sender.transport.sendto(b"group", (group, near.getsockname()[1]))
        await until(lambda: listener.got)
        assert listener.got == [(b"group", far.getsockname())]


# In the middle of a batch


async def test_nothing_is_delivered_after_close_in_the_middle_of_a_batch():
    async with listening(lambda listener: listener.transport.close()) as (listener, sock):
        send_all(sock, numbered(5))
        await listener.lost.wait()
        assert listener.data == [b"0"]


async def test_nothing_is_delivered_after_abort_in_the_middle_of_a_batch():
    def react(listener):
        if len(listener.got) == 3:
            listener.transport.abort()

    async with listening(react) as (listener, sock):
        send_all(sock, numbered(5))
        await listener.lost.wait()
        assert listener.data == numbered(3)


@pytest.mark.stock_since((3, 11, 7))  # 3.11.2, of Debian 12, has the bug
async def test_pause_reading_in_the_middle_of_a_batch_keeps_the_rest():
    def react(listener):
        if len(listener.got) in (2, 3):
            listener.transport.pause_reading()

    async with listening(react) as (listener, sock):
        send_all(sock, numbered(5))
        await until(lambda: len(listener.got) == 2)
        await turns(5)
        assert listener.data == numbered(2)
        assert not listener.transport.is_reading()
        send_all(sock, [b"later"])
        listener.transport.resume_reading()
        await until(lambda: len(listener.got) == 3)
        await turns(5)
        assert listener.data == numbered(3)
        listener.transport.resume_reading()
        await until(lambda: len(listener.got) == 6)
        assert listener.data == [*numbered(5), b"later"]


async def test_the_rest_of_a_batch_is_delivered_when_reading_resumes():
    """Although no datagram comes that would wake the endpoint."""

    def react(listener):
        if len(listener.got) == 2:
            listener.transport.pause_reading()

    async with listening(react) as (listener, sock):
        send_all(sock, numbered(5))
        await until(lambda: len(listener.got) == 2)
        await turns(5)
        listener.transport.resume_reading()
        await until(lambda: len(listener.got) == 5)
        assert listener.data == numbered(5)


@pytest.mark.stock_since((3, 11, 7))  # 3.11.2, of Debian 12, has the bug
async def test_pausing_and_resuming_at_once_loses_and_duplicates_nothing():
    def react(listener):
        listener.transport.pause_reading()
        listener.transport.resume_reading()

    async with listening(react) as (listener, sock):
        send_all(sock, numbered(MANY))
        await until(lambda: len(listener.got) == MANY)
        await turns(5)
        assert listener.data == numbered(MANY)


@pytest.mark.stock_since((3, 11, 7))  # 3.11.2, of Debian 12, has the bug
async def test_close_while_paused_drops_the_rest():
    async with listening(lambda listener: listener.transport.pause_reading()) as (listener, sock):
        send_all(sock, numbered(5))
        await until(lambda: listener.got)
        listener.transport.close()
        await listener.lost.wait()
        assert listener.data == [b"0"]


async def test_another_protocol_gets_the_rest_of_a_batch():
    other = Listener()

    def react(listener):
        if len(listener.got) == 2:
            listener.transport.set_protocol(other)

    async with listening(react) as (listener, sock):
        send_all(sock, numbered(5))
        await until(lambda: len(other.got) == 3)
        assert listener.data + other.data == numbered(5)
        assert listener.transport.get_protocol() is other
        listener.transport.set_protocol(listener)


@pytest.mark.expects_loop_errors
async def test_each_exception_of_a_batch_is_reported_and_the_rest_arrives(loop_errors):
    def react(listener):
        if len(listener.got) in (1, 3):
            raise ZeroDivisionError

    async with listening(react) as (listener, sock):
        send_all(sock, numbered(4))
        await until(lambda: len(listener.got) == 4)
        assert listener.data == numbered(4)
        assert [type(context["exception"]) for context in loop_errors] == [ZeroDivisionError] * 2
        assert "_SelectorDatagramTransport._read_ready()" in loop_errors[0]["message"]


def test_the_rest_of_a_batch_arrives_after_an_interrupt(loop):
    def react(listener):
        if len(listener.got) == 2:
            raise KeyboardInterrupt

    async def begin():
        stack = contextlib.AsyncExitStack()
        return stack, *await stack.enter_async_context(listening(react))

    stack, listener, sock = run(loop, begin())
    send_all(sock, numbered(5))
    with pytest.raises(KeyboardInterrupt):
        while True:
            one_turn(loop)
    assert listener.data == numbered(2)
    for _ in range(5):
        one_turn(loop)
    assert listener.data == numbered(5)
    run(loop, stack.aclose())


async def test_datagram_received_runs_in_one_context_of_its_own():
    variable = contextvars.ContextVar("variable", default=0)
    seen = []

    def react(listener):
        seen.append(variable.get())
        variable.set(variable.get() + 1)

    variable.set(5)
    async with listening(react) as (listener, sock):
        variable.set(50)
        send_all(sock, numbered(3))
        await until(lambda: len(listener.got) == 3)
        send_all(sock, numbered(1))
        await until(lambda: len(listener.got) == 4)
    assert seen == [5, 6, 7, 8]
    assert variable.get() == 50


async def test_a_patched_method_is_called():
    """Stock asyncio looks the method up for each datagram."""
    async with listening() as (listener, sock):
        sock.send(b"1")
        await until(lambda: listener.got)
        patched = []
        listener.datagram_received = lambda data, addr: patched.append(data)
        sock.send(b"2")
        await until(lambda: patched)
        assert (listener.data, patched) == ([b"1"], [b"2"])


async def test_errors_of_receiving_reach_error_received():
    """An ICMP message for a socket that only listens."""
    with socket.socket(type=socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        unused = other.getsockname()
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.connect(unused)
    sock.send(b"x")
    loop = asyncio.get_running_loop()
    transport, listener = await loop.create_datagram_endpoint(Listener, sock=sock)
    await until(lambda: listener.errors)
    assert isinstance(listener.errors[0], ConnectionRefusedError)
    await turns(3)
    assert len(listener.errors) == 1
    assert not transport.is_closing()
    transport.abort()
    await listener.lost.wait()


async def test_endpoints_with_reuse_port_share_a_port():
    async with listening(local_addr=("127.0.0.1", 0), reuse_port=True) as (first, _):
        name = first.transport.get_extra_info("sockname")
        async with listening(local_addr=name, reuse_port=True) as (second, _):
            with contextlib.ExitStack() as stack:
                for number in range(64):
                    sock = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
                    sock.sendto(b"%d" % number, name)
                await until(lambda: len(first.got) + len(second.got) == 64)
            assert sorted(first.data + second.data) == sorted(numbered(64))
            assert first.got
            assert second.got


async def test_one_batch_is_one_turn():
    """Unlike stock asyncio: docs/differences.md."""
    loop = asyncio.get_running_loop()
    if monitor_of(loop) == STOCK:
        pytest.skip("stock asyncio delivers one datagram per turn")
    marks = []

    def react(listener):
        marks.append("datagram")
        loop.call_soon(marks.append, "turn")

    async with listening(react) as (_, sock):
        send_all(sock, numbered(3))
        await until(lambda: len(marks) == 6)
        assert marks == ["datagram"] * 3 + ["turn"] * 3


async def test_an_endpoint_with_a_literal_address_starts_no_thread(monkeypatch):
    loop = asyncio.get_running_loop()

    def refuse(*args):
        raise AssertionError("a thread was used")

    monkeypatch.setattr(loop, "run_in_executor", refuse)
    for host in ("127.0.0.1", "::1"):
        transport, protocol = await loop.create_datagram_endpoint(Datagrams, local_addr=(host, 0))
        name = transport.get_extra_info("sockname")
        client, asking = await loop.create_datagram_endpoint(Datagrams, remote_addr=name[:2])
        client.sendto(b"x")
        assert (await protocol.received.get())[0] == b"x"
        for endpoint, recorder in ((transport, protocol), (client, asking)):
            endpoint.abort()
            await recorder.lost.wait()


def test_interrupts_from_the_last_datagram_of_a_batch_lose_nothing(loop):
    """Otherwise the batch grows beyond its memory."""
    got = []

    class Interrupted(asyncio.DatagramProtocol):
        def datagram_received(self, data, addr):
            got.append(data)
            raise KeyboardInterrupt

    transport, _ = run(loop, loop.create_datagram_endpoint(Interrupted, local_addr=("127.0.0.1", 0)))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for number in range(200):
            sender.sendto(b"%d" % number, transport.get_extra_info("sockname"))
            with pytest.raises(KeyboardInterrupt):
                turn_until(loop, lambda: False)
    assert got == [b"%d" % number for number in range(200)]
    transport.close()
    one_turn(loop)
    one_turn(loop)


def test_bytes_with_a_finalizer_may_be_sent(loop):
    """The last reference to each datagram is dropped while the queue is being updated."""
    sent = []

    class Resending(bytes):
        def __del__(self):
            if len(sent) < 400:
                for _ in range(40):
                    sent.append(b"again")
                    transport.sendto(b"again", address)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        receiver.settimeout(10)
        address = receiver.getsockname()
        transport, _ = run(
            loop, loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
        )
        for number in range(5):
            transport.sendto(Resending(b"%d" % number), address)
            one_turn(loop)
        one_turn(loop)
        got = [receiver.recv(100) for _ in range(5 + len(sent))]
    assert [data for data in got if data != b"again"] == [b"%d" % number for number in range(5)]
    transport.close()
    one_turn(loop)
    one_turn(loop)

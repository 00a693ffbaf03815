"""getaddrinfo and getnameinfo, without queries to any server."""

import asyncio
import socket
import threading

import pytest
from support.helpers import STOCK, Recorder, monitor_of, turns


@pytest.mark.parametrize(
    ("host", "port", "kwargs"),
    [
        ("127.0.0.1", 80, {}),
        ("127.0.0.1", 80, {"type": socket.SOCK_STREAM}),
        ("127.0.0.1", 80, {"type": socket.SOCK_DGRAM}),
        ("127.0.0.1", "80", {"type": socket.SOCK_STREAM}),
        ("127.0.0.1", "http", {"type": socket.SOCK_STREAM}),
        ("127.0.0.1", None, {"type": socket.SOCK_STREAM}),
        ("::1", 443, {"type": socket.SOCK_STREAM}),
        ("::1", 443, {"family": socket.AF_INET6}),
        ("fe80::1%lo", 80, {"type": socket.SOCK_STREAM}),
        (None, 80, {"type": socket.SOCK_STREAM, "flags": socket.AI_PASSIVE}),
        (None, 80, {"type": socket.SOCK_STREAM}),
        (b"127.0.0.1", 80, {"type": socket.SOCK_STREAM}),
        ("localhost", 80, {"type": socket.SOCK_STREAM}),
        ("127.1", 80, {"type": socket.SOCK_STREAM}),
    ],
)
async def test_getaddrinfo_answers_as_the_socket_module_does(host, port, kwargs):
    expected = socket.getaddrinfo(host, port, **kwargs)
    answer = await asyncio.get_running_loop().getaddrinfo(host, port, **kwargs)
    assert answer == expected
    assert [type(item[0]) for item in answer] == [type(item[0]) for item in expected]
    assert [type(item[1]) for item in answer] == [type(item[1]) for item in expected]


@pytest.mark.parametrize(
    ("host", "port", "kwargs"),
    [
        ("::1", 80, {"family": socket.AF_INET}),
        ("127.0.0.1", "no-such-service", {}),
        ("999.999.999.999", 80, {"flags": socket.AI_NUMERICHOST}),
        ("not.numeric.invalid", 80, {"flags": socket.AI_NUMERICHOST}),
        ("127.0.0.1", 80, {"type": 77}),
    ],
)
async def test_getaddrinfo_fails_as_the_socket_module_does(host, port, kwargs):
    with pytest.raises(socket.gaierror) as expected:
        socket.getaddrinfo(host, port, **kwargs)
    with pytest.raises(socket.gaierror) as caught:
        await asyncio.get_running_loop().getaddrinfo(host, port, **kwargs)
    assert caught.value.args == expected.value.args


async def test_getnameinfo_answers_as_the_socket_module_does():
    flags = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    answer = await asyncio.get_running_loop().getnameinfo(("127.0.0.1", 80), flags)
    assert answer == ("127.0.0.1", "80")


async def test_a_slow_resolver_does_not_stop_the_loop(monkeypatch):
    """The resolver waits until the loop has run turns: a resolver in the loop's own thread would hang."""
    turned = threading.Event()

    def slow(*args, **kwargs):
        assert turned.wait(10)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 1))]

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    loop = asyncio.get_running_loop()
    answer = asyncio.ensure_future(loop.getaddrinfo("slow.invalid", 1))
    await turns(5)
    assert not answer.done()
    turned.set()
    assert (await answer)[0][4] == ("127.0.0.1", 1)


async def test_create_connection_uses_the_loops_own_getaddrinfo(monkeypatch):
    """Programs replace loop.getaddrinfo to resolve names in their own way."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Recorder, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    hosts = []

    async def mine(host, port, **kwargs):
        hosts.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(loop, "getaddrinfo", mine)
    transport, protocol = await loop.create_connection(Recorder, "my.name.invalid", port)
    assert hosts == ["my.name.invalid"]
    transport.close()
    await protocol.lost.wait()
    server.close()
    await turns(3)


async def test_empty_answer_of_the_resolver_is_an_oserror(monkeypatch):
    loop = asyncio.get_running_loop()

    async def nothing(*_args, **_kwargs):
        return []

    monkeypatch.setattr(loop, "getaddrinfo", nothing)
    with pytest.raises(OSError, match="empty list"):
        await loop.create_connection(Recorder, "missing.invalid", 1)


async def test_cancelled_lookup_raises_cancelled_error_and_leaves_the_loop_usable(monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_kwargs: release.wait(10) and [])
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(loop.getaddrinfo("slow.invalid", 1))
    await turns(3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    release.set()
    await turns(3)


# Numbers never reach a thread


@pytest.fixture
def no_thread(monkeypatch):
    """A function that makes run_in_executor of the running loop fail."""

    def forbid():
        loop = asyncio.get_running_loop()
        if monitor_of(loop) == STOCK:
            pytest.skip("stock asyncio uses a thread")

        def refuse(*_args):
            raise AssertionError("run_in_executor was called")

        monkeypatch.setattr(loop, "run_in_executor", refuse)
        return loop

    return forbid


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("127.0.0.1", 80),
        ("127.0.0.1", "80"),
        (b"127.0.0.1", b"80"),
        ("127.1", 80),
        ("0x7f.1", 80),
        ("::1", None),
        ("::ffff:127.0.0.1", 80),
        ("fe80::1%lo", 80),
        (None, 80),
    ],
)
@pytest.mark.parametrize("debug", [False, True])
async def test_numbers_are_resolved_without_a_thread(no_thread, host, port, debug):
    loop = no_thread()
    loop.set_debug(debug)
    answer = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    loop.set_debug(False)
    assert answer == socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


@pytest.mark.parametrize("host", ["localhost", "1.2.3.4.invalid", "cafe", "", "a:b", "1.2.3", "fe80::1%"])
async def test_names_are_never_resolved_in_the_loops_thread(monkeypatch, host):
    """A lookup must not block the loop; only numeric addresses are parsed in its thread."""
    loop_thread = threading.get_ident()

    def look_up(host, port, family=0, type=0, proto=0, flags=0):
        if not flags & socket.AI_NUMERICHOST:
            assert threading.get_ident() != loop_thread
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with pytest.raises(socket.gaierror):
        await asyncio.get_running_loop().getaddrinfo(host, 80)


async def test_getnameinfo_of_numbers_needs_no_thread(no_thread):
    flags = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    assert await no_thread().getnameinfo(("127.0.0.1", 80), flags) == ("127.0.0.1", "80")
    with pytest.raises(socket.gaierror):
        await asyncio.get_running_loop().getnameinfo(("no.number.invalid", 80), flags)


async def test_connecting_and_serving_by_number_need_no_thread(no_thread):
    loop = no_thread()
    for host in (None, "127.0.0.1", ["127.0.0.1", "127.0.0.2"]):
        server = await loop.create_server(Recorder, host, 0)
        port = server.sockets[0].getsockname()[1]
        where = server.sockets[0].getsockname()[0]
        connect = loop.create_connection(Recorder, where, port, local_addr=(where, 0))
        transport, protocol = await connect
        transport.close()
        await protocol.lost.wait()
        await turns(5)
        server.close()
    endpoint, _ = await loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, ("127.0.0.1", 0), remote_addr=("127.0.0.1", 9)
    )
    endpoint.close()
    await turns(3)


async def test_the_zone_of_an_ipv6_address_survives(no_thread):
    loop = no_thread()
    scope = socket.if_nametoindex("lo")
    answer = await loop.getaddrinfo("fe80::1%lo", 80, type=socket.SOCK_STREAM)
    assert answer[0][4] == ("fe80::1", 80, 0, scope)
    addresses = []

    async def record(sock, address):
        addresses.append(address)
        raise ConnectionRefusedError("refused by the test")

    loop.sock_connect = record
    try:
        with pytest.raises(ConnectionRefusedError):
            await loop.create_connection(Recorder, "fe80::1%lo", 80)
    finally:
        del loop.sock_connect
    assert addresses == [("fe80::1", 80, 0, scope)]

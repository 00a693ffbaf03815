"""Datagram endpoints: what sendto() accepts, and when it is sent."""

import asyncio
import socket

import pytest
from support.datagram_tools import Sender, everything, forget, numbered, sending
from support.helpers import one_turn, run, run_script, turns

# Data and addresses


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_bytes_like_objects_are_copied_at_the_call(kind):
    async with sending() as (transport, _, far):
        mutable = bytearray(b"before")
        data = mutable if kind is bytearray else kind(mutable)
        transport.sendto(data, far.getsockname())
        mutable[:] = b"after!"
        await turns(2)
        assert everything(far) == [b"before"]


@pytest.mark.parametrize("data", ["text", 5, None, [1]])
async def test_objects_that_are_not_bytes_like_are_refused(data):
    async with sending() as (transport, _, far):
        with pytest.raises(TypeError, match="data argument must be a bytes-like object, not"):
            transport.sendto(data, far.getsockname())


async def test_names_are_looked_up_and_the_order_is_kept():
    async with sending() as (transport, _, far):
        port = far.getsockname()[1]
        for number, host in enumerate(["127.0.0.1", "localhost", "127.0.0.1", "127.1", "127.0.0.1"]):
            transport.sendto(b"%d" % number, (host, port))
        await turns(2)
        assert everything(far) == numbered(5)


@pytest.mark.expects_loop_errors
@pytest.mark.parametrize(
    ("addr", "error"),
    [
        (None, TypeError),
        ("127.0.0.1", TypeError),
        (("127.0.0.1",), TypeError),
        (("127.0.0.1", 5, 0, 0), TypeError),
        (("127.0.0.1", "5"), TypeError),
        (("127.0.0.1", 70000), OverflowError),
        (("127.0.0.1", -1), OverflowError),
        (("127.0.0.1", 1 << 80), OverflowError),
        (("127.0.0.1\0", 5), (ValueError, TypeError)),
        (("\udc80", 5), TypeError),
    ],
)
async def test_an_invalid_address_ends_the_endpoint(addr, error, loop_errors):
    async with sending() as (transport, protocol, _):
        transport.sendto(b"x", addr)
        await protocol.lost.wait()
        assert isinstance(protocol.error, error)
        assert [context["message"] for context in loop_errors] == ["Fatal write error on datagram transport"]


@pytest.mark.parametrize(
    ("host", "port", "error"),
    [("127.0.0.1", 0, OSError), ("::1", 5, socket.gaierror), ("127.255.255.255", 5, PermissionError)],
)
async def test_an_unreachable_address_is_reported_and_the_endpoint_stays_open(host, port, error):
    async with sending() as (transport, protocol, far):
        transport.sendto(b"0", far.getsockname())
        transport.sendto(b"x", (host, port))
        transport.sendto(b"1", far.getsockname())
        await turns(2)
        assert isinstance(protocol.errors.get_nowait(), error)
        assert protocol.errors.empty()
        assert everything(far) == numbered(2)


async def test_each_failed_datagram_of_many_is_reported():
    async with sending() as (transport, protocol, far):
        name = far.getsockname()
        for number in range(100):
            transport.sendto(b"%d" % number, name)
            if number % 10 == 0:
                transport.sendto(b"x", ("127.0.0.1", 0))
        await turns(2)
        assert everything(far) == numbered(100)
        assert protocol.calls == ["OSError"] * 10


async def test_one_address_tuple_may_be_used_with_endpoints_of_two_families():
    """The same object is valid for IPv6 and then invalid for IPv4, and the other way round."""
    async with sending() as (four, errors, far), sending(local_addr=("::1", 0)) as (six, errors_six, _):
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as far_six:
            far_six.bind(("::1", 0))
            far_six.setblocking(False)
            names = (far_six.getsockname()[:2], far.getsockname())
            for number in range(3):
                for addr in names:
                    for transport in (four, six):
                        transport.sendto(b"%d" % number, addr)
                await turns(2)
            assert everything(far) == everything(far_six) == numbered(3)
            assert errors.calls == errors_six.calls == ["gaierror"] * 3


async def test_a_given_connected_socket_ignores_the_address():
    with socket.socket(type=socket.SOCK_DGRAM) as near:
        near.setblocking(False)
        near.bind(("127.0.0.1", 0))
        sock = socket.socket(type=socket.SOCK_DGRAM)
        sock.connect(near.getsockname())
        async with sending(sock=sock) as (transport, _, far):
            transport.sendto(b"0", far.getsockname())
            transport.sendto(b"1")
            await turns(2)
            assert everything(near) == numbered(2)


async def test_abstract_unix_names():
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as far:
        far.bind("")  # the kernel chooses an abstract name
        far.setblocking(False)
        transport, protocol = await loop.create_datagram_endpoint(
            Sender, remote_addr="\0" + far.getsockname()[1:].decode(), family=socket.AF_UNIX
        )
        transport.sendto(b"x")
        assert everything(far) == [b"x"]
        transport.abort()
        await protocol.lost.wait()


async def test_unix_datagrams_to_given_addresses(tmp_path):
    async with sending(local_addr=str(tmp_path / "near"), family=socket.AF_UNIX) as (transport, protocol, _):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as far:
            far.bind(str(tmp_path / "far"))
            far.setblocking(False)
            transport.sendto(b"0", str(tmp_path / "far"))
            transport.sendto(b"x", str(tmp_path / "missing"))
            transport.sendto(b"1", str(tmp_path / "far"))
            assert everything(far) == numbered(2)
        assert protocol.calls == ["FileNotFoundError"]


def test_zones_of_ipv6_addresses_survive(monitor):
    """In a network namespace of its own, where the loopback gets a link-local address."""
    output = run_script(
        """
        import errno, fcntl

        new_user, new_net = 0x10000000, 0x40000000
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(new_user | new_net):
            print("no namespaces")
            sys.exit()
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            fcntl.ioctl(sock, 0x8914, struct.pack("16sH14x", b"lo", 0x49))  # SIOCSIFFLAGS: up, running
            address = socket.inet_pton(socket.AF_INET6, "fe80::7") + struct.pack("Ii", 64, 1)
            fcntl.ioctl(sock, 0x8916, address)  # SIOCSIFADDR

        # the kernel's workqueue makes the address usable, later where others use the CPUs
        deadline = time.monotonic() + 30
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            while True:
                try:
                    sock.bind(("fe80::7", 0, 0, 1))
                    break
                except OSError as error:
                    assert error.errno == errno.EADDRNOTAVAIL and time.monotonic() < deadline, error
                    os.sched_yield()

        async def main():
            loop = asyncio.get_running_loop()

            def refuse(*args):
                raise AssertionError("a thread was used")

            if MONITOR != STOCK:
                loop.run_in_executor = refuse
            server, serving = await loop.create_datagram_endpoint(Datagrams, local_addr=("fe80::7%lo", 0))
            name = server.get_extra_info("sockname")
            assert (name[0], name[3]) == ("fe80::7", 1), name
            client, asking = await loop.create_datagram_endpoint(
                Datagrams, remote_addr=("fe80::7%lo", name[1])
            )
            assert client.get_extra_info("peername") == name
            client.sendto(b"question")
            data, origin = await serving.received.get()
            assert origin == client.get_extra_info("sockname") and origin[3] == 1, origin
            for addr in (origin, ("fe80::7%lo", origin[1]), ("fe80::7%1", origin[1], 0, 0)):
                server.sendto(repr(addr).encode(), addr)
                assert await asking.received.get() == (repr(addr).encode(), name)
            for transport, protocol in ((server, serving), (client, asking)):
                transport.abort()
                await protocol.lost.wait()
            print("done")

        loop = make_loop(MONITOR)
        run(loop, main())
        loop.close()
        """,
        monitor,
    )
    if "no namespaces" in output:
        pytest.skip("no user namespaces here")
    assert output == "done\n"


# When it is sent


async def test_datagrams_are_sent_at_the_end_of_the_turn_at_the_latest():
    async with sending() as (transport, _, far):
        for data in numbered(100):
            transport.sendto(data, far.getsockname())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert everything(far) == numbered(100)


async def test_a_connected_endpoint_sends_at_once():
    async with sending() as (_, _, far):
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_datagram_endpoint(Sender, remote_addr=far.getsockname())
        transport.sendto(b"now")
        assert everything(far) == [b"now"]
        transport.abort()
        await protocol.lost.wait()


async def test_datagrams_that_the_kernel_takes_do_not_count_as_buffered():
    async with sending() as (transport, protocol, far):
        for data in numbered(10):
            transport.sendto(data, far.getsockname())
            assert transport.get_write_buffer_size() == 0
        transport.set_write_buffer_limits(high=0)
        for data in numbered(10):
            transport.sendto(data, far.getsockname())
        assert everything(far) == numbered(10) * 2
        assert protocol.calls == []


@pytest.mark.parametrize("method", ["close", "abort"])
async def test_datagrams_sent_before_the_end_arrive(method):
    async with sending() as (transport, protocol, far):
        for data in numbered(5):
            transport.sendto(data, far.getsockname())
        getattr(transport, method)()
        assert everything(far) == numbered(5)
        await protocol.lost.wait()
        assert protocol.error is None


async def test_an_unconnected_endpoint_sends_until_connection_lost():
    async with sending() as (transport, protocol, far):
        transport.close()
        transport.sendto(b"x", far.getsockname())
        assert everything(far) == [b"x"]
        await protocol.lost.wait()


def test_datagrams_sent_before_stop_arrive(loop):
    with socket.socket(type=socket.SOCK_DGRAM) as far:
        far.bind(("127.0.0.1", 0))
        far.setblocking(False)
        transport, protocol = run(loop, loop.create_datagram_endpoint(Sender, local_addr=("127.0.0.1", 0)))

        def send():
            transport.sendto(b"x", far.getsockname())
            loop.stop()

        loop.call_soon(send)
        loop.run_forever()
        assert everything(far) == [b"x"]
        transport.sendto(b"while it does not run", far.getsockname())
        one_turn(loop)
        assert everything(far) == [b"while it does not run"]
        transport.abort()
        run(loop, protocol.lost.wait())


def test_datagrams_sent_before_the_loop_is_closed_arrive(loop):
    with socket.socket(type=socket.SOCK_DGRAM) as far:
        far.bind(("127.0.0.1", 0))
        far.setblocking(False)
        transport, protocol = run(loop, loop.create_datagram_endpoint(Sender, local_addr=("127.0.0.1", 0)))
        transport.sendto(b"x", far.getsockname())
        loop.close()
        assert everything(far) == [b"x"]
        transport = None
        assert any("unclosed transport" in text for text in forget(protocol))


async def test_a_long_queue_is_sent_in_order_as_room_appears(tmp_path):
    """A UNIX socket has room for a few datagrams only."""
    loop = asyncio.get_running_loop()
    path = str(tmp_path / "far")
    sent = numbered(2000)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as far:
        far.bind(path)
        far.setblocking(False)
        transport, protocol = await loop.create_datagram_endpoint(
            Sender, family=socket.AF_UNIX, remote_addr=path
        )
        for data in sent:
            transport.sendto(data)
        received = []
        for _ in range(1000):
            received += everything(far)
            if len(received) == len(sent):
                break
            await turns(2)
        assert received == sent
        transport.abort()
        await protocol.lost.wait()

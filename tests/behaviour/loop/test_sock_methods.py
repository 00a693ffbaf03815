"""loop.sock_*: raw non-blocking sockets."""

import asyncio
import errno
import gc
import os
import socket

import pytest
from support.helpers import pattern, read_exactly, server_tls, shrink_buffers, socketpair, turns


@pytest.fixture(params=["tcp", "unix"])
def pair(request):
    near, far = socketpair(request.param)
    for end in (near, far):
        end.setblocking(False)
    yield near, far
    near.close()
    far.close()


@pytest.fixture
def datagram_pair():
    socks = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(2)]
    for sock in socks:
        sock.setblocking(False)
        sock.bind(("127.0.0.1", 0))
    yield socks
    for sock in socks:
        sock.close()


async def test_recv_returns_what_is_there(pair):
    near, far = pair
    far.send(b"data")
    assert await asyncio.get_running_loop().sock_recv(near, 100) == b"data"


async def test_recv_waits_for_data(pair):
    near, far = pair
    task = asyncio.ensure_future(asyncio.get_running_loop().sock_recv(near, 100))
    await turns(3)
    assert not task.done()
    far.send(b"data")
    assert await task == b"data"


async def test_recv_takes_no_more_than_requested(pair):
    near, far = pair
    loop = asyncio.get_running_loop()
    far.send(b"abcdef")
    assert [await loop.sock_recv(near, 2) for _ in range(3)] == [b"ab", b"cd", b"ef"]


async def test_recv_returns_nothing_at_the_end(pair):
    near, far = pair
    far.close()
    assert await asyncio.get_running_loop().sock_recv(near, 100) == b""


async def test_recv_of_a_reset_connection_raises():
    from support.helpers import reset_on_close, tcp_socketpair

    near, far = tcp_socketpair()
    near.setblocking(False)
    task = asyncio.ensure_future(asyncio.get_running_loop().sock_recv(near, 100))
    await turns(3)
    reset_on_close(far)
    far.close()
    with pytest.raises(ConnectionResetError) as caught:
        await task
    assert caught.value.errno == errno.ECONNRESET
    near.close()


@pytest.mark.parametrize("early", [True, False])
async def test_recv_into_fills_the_buffer(pair, early):
    near, far = pair
    loop = asyncio.get_running_loop()
    buffer = bytearray(10)
    if early:
        far.send(b"hello")
    task = asyncio.ensure_future(loop.sock_recv_into(near, memoryview(buffer)[2:]))
    await turns(3)
    if not early:
        far.send(b"hello")
    assert await task == 5
    assert buffer == b"\0\0hello\0\0\0"


@pytest.mark.parametrize("early", [True, False])
async def test_recvfrom_returns_the_sender(datagram_pair, early):
    near, far = datagram_pair
    loop = asyncio.get_running_loop()
    if early:
        far.sendto(b"datagram", near.getsockname())
    task = asyncio.ensure_future(loop.sock_recvfrom(near, 100))
    await turns(3)
    if not early:
        far.sendto(b"datagram", near.getsockname())
    assert await task == (b"datagram", far.getsockname())


@pytest.mark.parametrize("early", [True, False])
async def test_recvfrom_into_fills_the_buffer(datagram_pair, early):
    near, far = datagram_pair
    loop = asyncio.get_running_loop()
    buffer = bytearray(100)
    if early:
        far.sendto(b"datagram", near.getsockname())
    task = asyncio.ensure_future(loop.sock_recvfrom_into(near, buffer))
    await turns(3)
    if not early:
        far.sendto(b"datagram", near.getsockname())
    assert await task == (8, far.getsockname())
    assert buffer[:8] == b"datagram"


async def test_recvfrom_into_respects_its_count(datagram_pair):
    near, far = datagram_pair
    buffer = bytearray(100)
    far.sendto(b"datagram", near.getsockname())
    length, _ = await asyncio.get_running_loop().sock_recvfrom_into(near, buffer, 4)
    assert length == 4
    assert buffer[:8] == b"data\0\0\0\0"


async def test_recvfrom_into_refuses_a_count_beyond_the_buffer(datagram_pair):
    near, far = datagram_pair
    far.sendto(b"datagram", near.getsockname())
    with pytest.raises(ValueError):
        await asyncio.get_running_loop().sock_recvfrom_into(near, bytearray(4), 5)


async def test_sendto_sends_to_an_address(datagram_pair):
    near, far = datagram_pair
    loop = asyncio.get_running_loop()
    assert await loop.sock_sendto(near, b"datagram", far.getsockname()) == 8
    assert await loop.sock_recvfrom(far, 100) == (b"datagram", near.getsockname())
    assert await loop.sock_sendto(near, b"", far.getsockname()) == 0
    assert (await loop.sock_recvfrom(far, 100))[0] == b""


async def test_sendto_too_large_raises(datagram_pair):
    near, far = datagram_pair
    with pytest.raises(OSError) as caught:
        await asyncio.get_running_loop().sock_sendto(near, bytes(70_000), far.getsockname())
    assert caught.value.errno == errno.EMSGSIZE


async def test_sendall_sends_everything_to_a_slow_reader(pair):
    near, far = pair
    shrink_buffers(near, far, count=1 << 16)
    data = pattern(1_000_000)
    task = asyncio.ensure_future(asyncio.get_running_loop().sock_sendall(near, data))
    await turns(3)
    assert not task.done()
    assert await read_exactly(far, len(data)) == data
    assert await task is None


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_sendall_takes_any_buffer(pair, kind):
    near, far = pair
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(near, kind(b"buffer"))
    assert await loop.sock_recv(far, 100) == b"buffer"
    await loop.sock_sendall(near, kind(b""))


async def test_sendall_to_a_closed_peer_raises(pair):
    near, far = pair
    far.close()
    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        for _ in range(100):
            await asyncio.get_running_loop().sock_sendall(near, b"x" * 1000)


async def test_connect_and_accept_find_each_other():
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        listener.setblocking(False)
        client.setblocking(False)
        accepting = asyncio.ensure_future(loop.sock_accept(listener))
        await turns(3)
        assert await loop.sock_connect(client, listener.getsockname()) is None
        accepted, address = await accepting
        with accepted:
            assert address == client.getsockname()
            assert accepted.getpeername() == address
            assert accepted.gettimeout() == 0
            assert not accepted.get_inheritable()
            assert accepted.family == socket.AF_INET
            await loop.sock_sendall(client, b"hi")
            assert await loop.sock_recv(accepted, 10) == b"hi"


async def test_accept_takes_a_waiting_connection_at_once():
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        with socket.create_connection(listener.getsockname()) as client:
            accepted, address = await loop.sock_accept(listener)
            assert address == client.getsockname()
            accepted.close()


async def test_unix_connect_and_accept(tmp_path):
    loop = asyncio.get_running_loop()
    path = str(tmp_path / "listener")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(path)
        listener.listen()
        listener.setblocking(False)
        client.setblocking(False)
        await loop.sock_connect(client, path)
        accepted, _ = await loop.sock_accept(listener)
        accepted.close()


async def test_connect_resolves_names():
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        client.setblocking(False)
        await loop.sock_connect(client, ("localhost", listener.getsockname()[1]))
        assert client.getpeername() == listener.getsockname()


async def test_refused_connect_raises_with_the_address_in_the_text():
    with socket.socket() as bound, socket.socket() as client:
        bound.bind(("127.0.0.1", 0))
        client.setblocking(False)
        with pytest.raises(ConnectionRefusedError) as caught:
            await asyncio.get_running_loop().sock_connect(client, bound.getsockname())
        assert caught.value.errno == errno.ECONNREFUSED
        assert str(bound.getsockname()[1]) in str(caught.value)


async def test_several_receivers_on_different_sockets_do_not_mix():
    loop = asyncio.get_running_loop()
    pairs = [socketpair("unix") for _ in range(20)]
    for near, _ in pairs:
        near.setblocking(False)
    tasks = [asyncio.ensure_future(loop.sock_recv(near, 10)) for near, _ in pairs]
    await turns(2)
    for number, (_, far) in reversed(list(enumerate(pairs))):
        far.send(b"%d" % number)
    assert await asyncio.gather(*tasks) == [b"%d" % number for number in range(20)]
    for near, far in pairs:
        near.close()
        far.close()


async def test_one_socket_can_be_read_and_written_at_once(pair):
    near, far = pair
    loop = asyncio.get_running_loop()
    data = pattern(1_000_000)
    sending = asyncio.ensure_future(loop.sock_sendall(near, data))
    receiving = asyncio.ensure_future(loop.sock_recv(near, 10))
    await turns(2)
    far.send(b"back")
    assert await receiving == b"back"
    assert await read_exactly(far, len(data)) == data
    await sending


# Sendfile


@pytest.mark.parametrize(
    ("offset", "count", "start"), [(0, None, 0), (1000, 50_000, 1000), (0, 7, 0), (299_999, None, 299_999)]
)
async def test_sendfile_sends_a_file(pair, tmp_path, offset, count, start):
    near, far = pair
    path = tmp_path / "file"
    path.write_bytes(pattern(300_000))
    expected = path.read_bytes()[start : None if count is None else start + count]
    with open(path, "rb") as file:
        sending = asyncio.ensure_future(asyncio.get_running_loop().sock_sendfile(near, file, offset, count))
        assert await read_exactly(far, len(expected)) == expected
        assert await sending == len(expected)
        assert file.tell() == start + len(expected)


async def test_sendfile_of_an_empty_file_sends_nothing(pair, tmp_path):
    near, _ = pair
    (tmp_path / "empty").touch()
    with open(tmp_path / "empty", "rb") as file:
        assert await asyncio.get_running_loop().sock_sendfile(near, file) == 0


async def test_sendfile_falls_back_for_objects_without_a_descriptor(pair):
    import io

    near, far = pair
    data = pattern(50_000)
    loop = asyncio.get_running_loop()
    sending = asyncio.ensure_future(loop.sock_sendfile(near, io.BytesIO(data)))
    assert await read_exactly(far, len(data)) == data
    assert await sending == len(data)


async def test_sendfile_without_fallback_raises_for_objects_without_a_descriptor(pair):
    import io

    with pytest.raises(asyncio.SendfileNotAvailableError):
        await asyncio.get_running_loop().sock_sendfile(pair[0], io.BytesIO(b"x"), fallback=False)


async def test_sendfile_requires_a_binary_file_and_valid_numbers(pair, tmp_path):
    loop = asyncio.get_running_loop()
    path = tmp_path / "file"
    path.write_bytes(b"text")
    with open(path) as file:
        with pytest.raises(ValueError, match="binary"):
            await loop.sock_sendfile(pair[0], file)
    with open(path, "rb") as file:
        with pytest.raises(ValueError):
            await loop.sock_sendfile(pair[0], file, -1)
        with pytest.raises(ValueError):
            await loop.sock_sendfile(pair[0], file, 0, 0)
        with pytest.raises(TypeError):
            await loop.sock_sendfile(pair[0], file, 0, "all")


# Misuse


async def test_tls_sockets_are_refused():
    loop = asyncio.get_running_loop()
    with socket.socket() as plain:
        wrapped = server_tls().wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        wrapped.setblocking(False)
        for attempt in (
            loop.sock_recv(wrapped, 1),
            loop.sock_recv_into(wrapped, bytearray(1)),
            loop.sock_recvfrom(wrapped, 1),
            loop.sock_sendall(wrapped, b"x"),
            loop.sock_sendto(wrapped, b"x", ("127.0.0.1", 1)),
            loop.sock_accept(wrapped),
            loop.sock_connect(wrapped, ("127.0.0.1", 1)),
        ):
            with pytest.raises(TypeError, match="SSL"):
                await attempt
        wrapped.close()


async def test_blocking_sockets_are_refused_in_debug_mode():
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    try:
        with socket.socket() as sock:
            for attempt in (
                loop.sock_recv(sock, 1),
                loop.sock_recv_into(sock, bytearray(1)),
                loop.sock_recvfrom(sock, 1),
                loop.sock_recvfrom_into(sock, bytearray(1)),
                loop.sock_sendall(sock, b"x"),
                loop.sock_sendto(sock, b"x", ("127.0.0.1", 1)),
                loop.sock_accept(sock),
                loop.sock_connect(sock, ("127.0.0.1", 1)),
            ):
                with pytest.raises(ValueError, match="non-blocking"):
                    await attempt
    finally:
        loop.set_debug(False)


async def test_closed_sockets_raise():
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.setblocking(False)
    sock.close()
    with pytest.raises((OSError, ValueError)):
        await loop.sock_recv(sock, 1)
    with pytest.raises((OSError, ValueError)):
        await loop.sock_sendall(sock, b"x")


async def test_a_transports_socket_cannot_be_used_beside_the_transport():
    """add_reader on a transport's fd is refused, so that nothing else takes its data."""
    from support.helpers import open_transport

    async with open_transport() as (transport, _protocol, _peer):
        loop = asyncio.get_running_loop()
        fd = transport.get_extra_info("socket").fileno()
        for method in (loop.add_reader, loop.add_writer):
            with pytest.raises(RuntimeError, match="used by transport"):
                method(fd, print)
        for method in (loop.remove_reader, loop.remove_writer):
            with pytest.raises(RuntimeError, match="used by transport"):
                method(fd)


async def test_many_rounds_of_recv_and_send_keep_the_data_in_order(pair):
    near, far = pair
    loop = asyncio.get_running_loop()
    for number in range(300):
        await loop.sock_sendall(near, b"%04d" % number)
        assert await loop.sock_recv(far, 4) == b"%04d" % number


async def test_random_data_arrives_whole(pair):
    near, far = pair
    loop = asyncio.get_running_loop()
    data = os.urandom(1 << 20)

    async def receive():
        got = bytearray()
        while len(got) < len(data):
            got += await loop.sock_recv(far, 1 << 16)
        return got

    got, _ = await asyncio.gather(receive(), loop.sock_sendall(near, data))
    assert got == data


# Two calls on one socket, and reused fd numbers


async def test_a_second_receiver_replaces_the_first(pair):
    near, far = pair
    loop = asyncio.get_running_loop()
    first = asyncio.ensure_future(loop.sock_recv(near, 10))
    await turns(2)
    second = asyncio.ensure_future(loop.sock_recv(near, 10))
    await turns(2)
    first.cancel()  # must not remove the second one's reader
    await turns(2)
    assert first.cancelled()
    far.send(b"data")
    assert await second == b"data"
    assert not loop.remove_reader(near)


async def test_cancelled_sendall_leaves_no_writer(pair):
    near, _far = pair
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(loop.sock_sendall(near, bytes(64 << 20)))
    await turns(3)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not loop.remove_writer(near)


async def test_sendall_of_wide_items_sends_every_byte(pair):
    from array import array

    from support.helpers import STOCK, monitor_of

    loop = asyncio.get_running_loop()
    if monitor_of(loop) == STOCK:
        pytest.skip("stock asyncio counts items where send(2) counts bytes, and never ends")
    near, far = pair
    data = array("I", range(400_000))
    sending = asyncio.ensure_future(loop.sock_sendall(near, data))
    assert await read_exactly(far, 1_600_000) == data.tobytes()
    await sending
    await loop.sock_sendall(near, array("I"))


async def test_a_reused_fd_number_belongs_to_the_new_socket():
    """A receiver's socket is closed under it, and a new socket gets its number."""
    from support.helpers import STOCK, monitor_of

    loop = asyncio.get_running_loop()
    if monitor_of(loop) == STOCK:
        pytest.skip("stock asyncio's selector does not notice")
    near, far = socket.socketpair()
    near.setblocking(False)
    forgotten = asyncio.ensure_future(loop.sock_recv(near, 10))
    await turns(2)
    number = near.fileno()
    near.close()
    left, right = socket.socketpair()
    left.setblocking(False)
    assert number in (left.fileno(), right.fileno())
    new, peer = (left, right) if left.fileno() == number else (right, left)
    new.setblocking(False)
    receiving = asyncio.ensure_future(loop.sock_recv(new, 10))
    await turns(2)
    forgotten.cancel()
    await turns(2)
    peer.send(b"new")
    assert await receiving == b"new"
    for sock in (far, left, right):
        sock.close()


async def test_a_listener_closed_under_sock_accept_accepts_nothing_and_frees_its_port():
    loop = asyncio.get_running_loop()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    address = listener.getsockname()
    accepting = asyncio.ensure_future(loop.sock_accept(listener))
    await turns(3)
    listener.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=10)
    with socket.socket() as other:
        other.bind(address)
        other.listen()
    await turns(3)
    assert not accepting.done()
    accepting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await accepting


async def test_a_receive_goes_on_while_a_writer_on_its_socket_is_added_and_removed(pair):
    loop = asyncio.get_running_loop()
    near, far = pair
    called = []
    receiving = asyncio.ensure_future(loop.sock_recv(near, 10))
    await turns(3)
    loop.add_writer(near, called.append, 1)
    while not called:
        await turns(1)
    loop.remove_writer(near)
    await turns(3)
    assert not receiving.done()
    await loop.sock_sendall(far, b"x")
    assert await receiving == b"x"


async def test_the_peer_of_a_socket_that_is_closed_under_sock_sendall_sees_the_end():
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    near.setblocking(False)
    sending = asyncio.ensure_future(loop.sock_sendall(near, bytes(8 << 20)))
    await turns(3)
    near.close()
    far.settimeout(10)
    while far.recv(1 << 20):
        pass
    await turns(3)
    assert not sending.done()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    far.close()


async def test_a_refused_connection_leaves_no_cycle():
    loop = asyncio.get_running_loop()
    with socket.socket() as unused, socket.socket() as sock:
        unused.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        gc.collect()
        gc.disable()
        try:
            try:
                await loop.sock_connect(sock, unused.getsockname())
            except ConnectionRefusedError:
                pass
            await turns(3)
            assert not [found for found in gc.get_objects() if type(found) is ConnectionRefusedError]
        finally:
            gc.enable()

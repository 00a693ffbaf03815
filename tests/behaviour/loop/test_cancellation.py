"""Cancelling anything that waits loses no data, connections or descriptors."""

import asyncio
import socket

import pytest
from support.helpers import STOCK, Recorder, fill, monitor_of, read_exactly, socketpair, turns


def stock_loses(count, turns):
    """Stock asyncio loses the result if cancel() is called just before the task's next step."""
    if monitor_of(asyncio.get_running_loop()) == STOCK and count in turns:
        pytest.skip("stock asyncio loses what arrived in the turn of the cancel")


@pytest.fixture
def pair():
    near, far = socketpair("tcp")
    for end in (near, far):
        end.setblocking(False)
    yield near, far
    near.close()
    far.close()


async def cancel(task):
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_sleep_can_be_cancelled():
    task = asyncio.ensure_future(asyncio.sleep(1000))
    await turns(1)
    await cancel(task)


async def test_cancelled_sock_recv_loses_no_data(pair):
    near, far = pair
    loop = asyncio.get_running_loop()
    for _ in range(20):
        task = asyncio.ensure_future(loop.sock_recv(near, 10))
        await turns(2)
        await cancel(task)
    far.send(b"kept")
    assert await loop.sock_recv(near, 10) == b"kept"


@pytest.mark.parametrize("count", range(6))
async def test_sock_recv_cancelled_while_data_arrives_either_returns_it_or_leaves_it(pair, count):
    """The cancel races with the data: it is called `count` turns after they were sent."""
    stock_loses(count, {1, 2})
    near, far = pair
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(loop.sock_recv(near, 10))
    await turns(2)
    far.send(b"raced")
    await turns(count)
    task.cancel()
    try:
        got = await task
    except asyncio.CancelledError:
        got = await asyncio.wait_for(loop.sock_recv(near, 10), 2)
    assert got == b"raced"


@pytest.mark.parametrize("count", range(6))
async def test_sock_recv_into_cancelled_while_data_arrives_loses_nothing(pair, count):
    stock_loses(count, {1, 2})
    near, far = pair
    loop = asyncio.get_running_loop()
    buffer = bytearray(10)
    task = asyncio.ensure_future(loop.sock_recv_into(near, buffer))
    await turns(2)
    far.send(b"raced")
    await turns(count)
    task.cancel()
    try:
        length = await task
    except asyncio.CancelledError:
        length = await asyncio.wait_for(loop.sock_recv_into(near, buffer), 2)
    assert bytes(buffer[:length]) == b"raced"


async def test_the_buffer_of_a_cancelled_sock_recv_into_is_not_written_to(pair):
    near, far = pair
    loop = asyncio.get_running_loop()
    buffer = bytearray(b"untouched!")
    task = asyncio.ensure_future(loop.sock_recv_into(near, buffer))
    await turns(2)
    await cancel(task)
    buffer.extend(b"!")  # raises BufferError while the buffer is still exported
    far.send(b"later")
    assert await loop.sock_recv(near, 10) == b"later"
    assert buffer == b"untouched!!"


@pytest.mark.parametrize("count", range(6))
async def test_sock_accept_cancelled_while_a_client_arrives_loses_no_connection(count):
    stock_loses(count, {1, 2})
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        task = asyncio.ensure_future(loop.sock_accept(listener))
        await turns(2)
        with socket.create_connection(listener.getsockname()) as client:
            await turns(count)
            task.cancel()
            try:
                accepted, address = await task
            except asyncio.CancelledError:
                accepted, address = await asyncio.wait_for(loop.sock_accept(listener), 2)
            assert address == client.getsockname()
            accepted.close()


async def test_cancelled_sock_sendall_can_be_followed_by_another(pair):
    near, far = pair
    loop = asyncio.get_running_loop()
    filled = fill(near)
    task = asyncio.ensure_future(loop.sock_sendall(near, b"x" * 10))
    await turns(2)
    await cancel(task)
    await read_exactly(far, filled)
    await loop.sock_sendall(near, b"next")
    assert (await loop.sock_recv(far, 100)).endswith(b"next")


async def test_cancelled_sock_connect_does_not_close_the_socket():
    loop = asyncio.get_running_loop()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        with socket.socket() as sock:
            sock.setblocking(False)
            task = asyncio.ensure_future(loop.sock_connect(sock, address))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert sock.fileno() >= 0


async def test_cancelled_create_connection_leaves_no_socket_open():
    """The fixture that counts descriptors makes the assertion."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Recorder, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    for count in range(6):
        task = asyncio.ensure_future(loop.create_connection(Recorder, *address))
        await turns(count)
        task.cancel()
        try:
            transport, _ = await task
        except asyncio.CancelledError:
            continue
        transport.abort()
    server.close()
    await turns(20)


async def test_connection_timed_out_by_wait_for_leaves_nothing():
    loop = asyncio.get_running_loop()

    async def silent(*_args, **_kwargs):
        await loop.create_future()

    loop.getaddrinfo = silent
    try:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(loop.create_connection(Recorder, "slow.invalid", 1), 0.001)
    finally:
        del loop.getaddrinfo


async def test_cancelled_reader_of_a_stream_loses_no_data():
    near, far = socketpair("unix")
    reader, writer = await asyncio.open_connection(sock=near)
    far.setblocking(False)
    task = asyncio.ensure_future(reader.readexactly(4))
    await turns(2)
    far.send(b"ab")
    await turns(5)
    await cancel(task)
    far.send(b"cd")
    assert await reader.readexactly(4) == b"abcd"
    writer.close()
    await writer.wait_closed()
    far.close()


async def test_cancelled_drain_loses_no_written_data():
    near, far = socketpair("unix")
    _, writer = await asyncio.open_connection(sock=near)
    far.setblocking(False)
    data = b"0123456789" * 100_000
    writer.write(data)
    task = asyncio.ensure_future(writer.drain())
    await turns(2)
    await cancel(task)
    assert await read_exactly(far, len(data)) == data
    writer.close()
    await writer.wait_closed()
    far.close()


async def test_a_closed_socket_ends_no_other_request(pair):
    """One socket is closed and its number reused while another waits."""
    near, far = pair
    loop = asyncio.get_running_loop()
    waiting = asyncio.ensure_future(loop.sock_recv(near, 10))
    for _ in range(5):
        left, right = socketpair("unix")
        left.setblocking(False)
        task = asyncio.ensure_future(loop.sock_recv(left, 10))
        await turns(2)
        await cancel(task)
        left.close()
        right.close()
    far.send(b"mine")
    assert await waiting == b"mine"


async def test_shielded_requests_go_on(pair):
    near, far = pair
    loop = asyncio.get_running_loop()
    inner = asyncio.ensure_future(loop.sock_recv(near, 10))
    outer = asyncio.ensure_future(asyncio.wait_for(asyncio.shield(inner), 0.001))
    with pytest.raises(TimeoutError):
        await outer
    far.send(b"shielded")
    assert await inner == b"shielded"

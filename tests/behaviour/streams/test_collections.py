"""Garbage collections run destructors at any time: before Python 3.12 any new object may start a collection."""

import asyncio
import contextlib
import gc

import pytest
from support.connections import KINDS
from support.helpers import Datagrams, Recorder, monitor_of, open_pair, turns, until

MANY_TURNS = 60


@contextlib.contextmanager
def each_collection(act, times):
    """Collect as often as possible and call `act` after each collection, like a destructor; at most `times` times."""
    left = times
    is_busy = False

    def hook(phase, _info):
        nonlocal left, is_busy
        if phase == "stop" and left and not is_busy:
            is_busy = True
            left -= 1
            try:
                act()
            finally:
                is_busy = False

    before = gc.get_threshold()
    gc.callbacks.append(hook)
    gc.set_threshold(1)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(hook)


@KINDS
@pytest.mark.parametrize("size", [50, 20_000, 40_000])
async def test_a_collection_may_write(kind, size):
    if monitor_of(asyncio.get_running_loop()) == "asyncio":
        pytest.skip("stock asyncio: deque mutated during iteration")
    async with open_pair(kind=kind) as one, open_pair(kind=kind) as other:
        sent = ([], [])

        def put(index, data):
            (one, other)[index][0].transport.write(data)
            sent[index].append(len(data))

        def act():
            put(0, bytes(size))
            put(1, bytes(size))

        with each_collection(act, 100):
            for number in range(MANY_TURNS):
                for index in (0, 1):
                    for _ in range(3):
                        put(index, bytes(10 + number))
                await asyncio.sleep(0)
        for pair, sizes in zip((one, other), sent, strict=True):
            assert len(await pair[1].received(sum(sizes))) == sum(sizes)


@KINDS
async def test_a_collection_may_pause_and_resume(kind):
    async with open_pair(kind=kind) as (near, far):

        def act():
            far.transport.pause_reading()
            far.transport.resume_reading()

        with each_collection(act, 200):
            for number in range(MANY_TURNS):
                near.transport.write(number.to_bytes(4, "big") * 5)
                far.transport.pause_reading()
                await asyncio.sleep(0)
                far.transport.resume_reading()
        expected = b"".join(number.to_bytes(4, "big") * 5 for number in range(MANY_TURNS))
        assert await far.received(len(expected)) == expected


@KINDS
@pytest.mark.parametrize("end", ["close", "abort"])
@pytest.mark.parametrize("after", [1, 2, 3, 5, 8])
async def test_a_collection_may_end_the_connection(kind, end, after):
    async with open_pair(kind=kind) as (near, far):
        count = 0

        def act():
            nonlocal count
            count += 1
            if count == after:
                getattr(near.transport, end)()

        with each_collection(act, after):
            for _ in range(5):
                for _ in range(3):
                    near.transport.write(bytes(100))
                await asyncio.sleep(0)
        getattr(near.transport, end)()
        await near.lost.wait()
        await far.lost.wait()
        assert near.calls.count("connection_lost") == far.calls.count("connection_lost") == 1


@KINDS
async def test_a_collection_may_write_while_a_server_accepts(kind, tmp_path):
    loop = asyncio.get_running_loop()
    accepted = []

    def factory():
        accepted.append(Recorder())
        return accepted[-1]

    if kind == "tcp":
        server = await loop.create_server(factory, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        connect = lambda: loop.create_connection(Recorder, *address)  # noqa: E731
    else:
        server = await loop.create_unix_server(factory, str(tmp_path / "s"))
        connect = lambda: loop.create_unix_connection(Recorder, str(tmp_path / "s"))  # noqa: E731

    def act():
        for protocol in accepted:
            if protocol.transport is not None:
                protocol.transport.write(b"x")

    clients = []
    with each_collection(act, 100):
        for _ in range(10):
            clients.append((await connect())[1])
    await until(lambda: len(accepted) == 10 and all(protocol.transport for protocol in accepted))
    for protocol in (*accepted, *clients):
        protocol.transport.abort()
    for protocol in (*accepted, *clients):
        await protocol.lost.wait()
    server.close()
    await server.wait_closed()
    await turns(2)


async def test_a_collection_may_send_datagrams():
    loop = asyncio.get_running_loop()
    receiving, receiver = await loop.create_datagram_endpoint(Datagrams, local_addr=("127.0.0.1", 0))
    sending, sender = await loop.create_datagram_endpoint(Datagrams, local_addr=("127.0.0.1", 0))
    address = receiving.get_extra_info("sockname")
    sent = []

    def put():
        sending.sendto(b"x", address)
        sent.append(1)

    with each_collection(put, 50):
        for _ in range(30):
            put()
            put()
            await asyncio.sleep(0)
    for _ in sent:
        assert (await receiver.received.get())[0] == b"x"
    assert receiver.received.empty()
    for transport, protocol in ((receiving, receiver), (sending, sender)):
        transport.close()
        await protocol.lost.wait()

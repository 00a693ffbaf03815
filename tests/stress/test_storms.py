"""Storms of cancellations and of connections; nothing may be left afterwards."""

import asyncio
import contextlib
import os
import random
import socket

import pytest
from support.helpers import STOCK, Recorder, monitor_of, socketpair, turns


async def cancel_storm(rounds, seed):
    """Receives, sends, sleeps and queues, cancelled at random turns: no data may be lost."""
    loop = asyncio.get_running_loop()
    dice = random.Random(seed)
    pairs = [socketpair("unix") for _ in range(30)]
    for pair in pairs:
        for sock in pair:
            sock.setblocking(False)
    sent = [bytearray() for _ in pairs]
    got = [bytearray() for _ in pairs]

    async def receive(number):
        while True:
            got[number] += await loop.sock_recv(pairs[number][0], 100)

    for _ in range(rounds):
        tasks = [asyncio.ensure_future(receive(number)) for number in range(len(pairs))]
        tasks += [asyncio.ensure_future(asyncio.sleep(dice.random() * 0.001)) for _ in range(30)]
        await turns(dice.randrange(4))
        for number, (_, far) in enumerate(pairs):
            if dice.random() < 0.5:
                piece = b"%d;" % dice.randrange(1000)
                far.send(piece)
                sent[number] += piece
        await turns(dice.randrange(6))
        dice.shuffle(tasks)
        for task in tasks:
            task.cancel()
            if dice.random() < 0.2:
                await turns(1)
        await asyncio.gather(*tasks, return_exceptions=True)
    for number, (near, far) in enumerate(pairs):
        with contextlib.suppress(BlockingIOError):
            while True:
                got[number] += near.recv(1000)
        near.close()
        far.close()
    if monitor_of(loop) != STOCK:  # it loses data that arrive in the turn of the cancellation
        assert got == sent


async def test_cancelled_requests_leave_nothing_behind():
    await cancel_storm(25, 1)


@pytest.mark.slow
async def test_cancelled_requests_leave_nothing_behind_for_long():
    for seed in range(20):
        await cancel_storm(60, seed)


async def test_cancelled_wait_for_on_connections_leaves_nothing_behind():
    server = await asyncio.start_server(_swallow, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    for number in range(60):
        task = asyncio.ensure_future(_connect_and_ask(address))
        await turns(number % 12)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    server.close()
    await turns(30)


async def _swallow(reader, writer):
    with contextlib.suppress(OSError):
        while await reader.read(1000):
            pass
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def _connect_and_ask(address):
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(b"x" * 1000)
        await writer.drain()
        await reader.read(1)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def connection_storm(count, concurrent, seed):
    """Clients that connect, send or stay silent, and leave in different ways; the server answers and counts."""
    loop = asyncio.get_running_loop()
    live = set()
    totals = {"made": 0, "lost": 0}

    class Echo(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            live.add(self)
            totals["made"] += 1

        def data_received(self, data):
            self.transport.write(data)

        def connection_lost(self, error):
            super().connection_lost(error)
            live.discard(self)
            totals["lost"] += 1

    server = await loop.create_server(Echo, "127.0.0.1", 0, backlog=1024)
    address = server.sockets[0].getsockname()
    dice = random.Random(seed)
    gate = asyncio.Semaphore(concurrent)

    async def client(number):
        async with gate:
            transport, protocol = await loop.create_connection(Recorder, *address)
            manner = dice.randrange(5)
            if manner >= 2:
                data = b"%d" % number * (1 if manner < 4 else 5_000)
                transport.write(data)
                if manner >= 3:
                    assert await protocol.received(len(data)) == data
            if manner in (1, 2):
                transport.abort()
            else:
                transport.close()
            await protocol.lost.wait()
            assert protocol.calls.count("connection_lost") == 1

    await asyncio.gather(*(client(number) for number in range(count)))
    while live or totals["made"] < count:
        await asyncio.sleep(0.0005)
    server.close()
    await turns(5)
    assert totals == {"made": count, "lost": count}


async def test_many_short_connections():
    await connection_storm(400, 50, 1)


@pytest.mark.slow
async def test_many_short_connections_for_long():
    for seed in range(5):
        await connection_storm(4_000, 200, seed)


async def unclean_storm(count):
    """Clients outside the loop that send a little and disappear, with and without a reset."""
    from support.helpers import reset_on_close

    loop = asyncio.get_running_loop()
    protocols = []

    def factory():
        protocols.append(Recorder())
        return protocols[-1]

    server = await loop.create_server(factory, "127.0.0.1", 0, backlog=1024)
    address = server.sockets[0].getsockname()
    for number in range(count):
        sock = socket.create_connection(address)
        if number % 2:
            sock.send(b"x" * (number % 100))
        if number % 3 == 0:
            reset_on_close(sock)
        sock.close()
        if number % 10 == 0:
            await turns(2)
    with socket.create_connection(address):
        while not protocols or not any(
            protocol.connected.is_set() and not protocol.lost.is_set() for protocol in protocols
        ):
            await turns(1)
    while not all(protocol.lost.is_set() for protocol in protocols):
        await asyncio.sleep(0.0005)
    server.close()
    await turns(3)
    assert all(protocol.calls.count("connection_lost") == 1 for protocol in protocols)


async def test_clients_that_disappear():
    await unclean_storm(200)


@pytest.mark.slow
async def test_clients_that_disappear_for_long():
    await unclean_storm(5_000)


async def reader_storm(rounds):
    """add_reader() and remove_reader() on fds whose numbers are constantly reused."""
    loop = asyncio.get_running_loop()
    dice = random.Random(9)
    calls = []
    for _ in range(rounds):
        pairs = [os.pipe() for _ in range(10)]
        for number, (read_fd, write_fd) in enumerate(pairs):
            loop.add_reader(read_fd, calls.append, (number, read_fd))
            if dice.random() < 0.5:
                os.write(write_fd, b"x")
        await turns(dice.randrange(3))
        for read_fd, write_fd in pairs:
            assert loop.remove_reader(read_fd) is True
            os.close(read_fd)
            os.close(write_fd)
        calls.clear()
        if dice.random() < 0.3:
            await turns(1)
        assert calls == []


async def test_readers_on_reused_fd_numbers():
    await reader_storm(200)


@pytest.mark.slow
async def test_readers_on_reused_fd_numbers_for_long():
    await reader_storm(20_000)


async def test_thousands_of_timers_made_and_cancelled():
    loop = asyncio.get_running_loop()
    dice = random.Random(4)
    ran, expected = [], 0
    for number in range(20_000):
        handle = loop.call_later(dice.random() * 0.01, ran.append, number)
        if dice.random() < 0.9:
            handle.cancel()
        else:
            expected += 1
        if number % 500 == 0:
            await turns(1)
    while len(ran) < expected:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.012)
    assert len(ran) == expected

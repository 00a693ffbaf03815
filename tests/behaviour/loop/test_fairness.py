"""How much one source of work may do in a turn before the others are served."""

import asyncio
import contextlib
import socket

import pytest
from support.helpers import Recorder, open_transport, turns

READ_MOST = 1 << 20  # per connection and turn; docs/reliability.md
SO_SNDBUFFORCE = 32


class Eater(asyncio.Protocol):
    """Counts what comes."""

    def __init__(self):
        self.n_bytes = 0
        self.lost = asyncio.Event()

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.n_bytes += len(data)

    def connection_lost(self, error):
        self.lost.set()


def fill(sock, data=bytes(1 << 20)):
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(data)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
async def test_a_connection_that_floods_gets_its_share_of_a_turn(kind):
    flood = Eater()
    async with (
        open_transport(flood, kind=kind) as (_, _, flooding),
        open_transport(kind=kind) as (_, other, peer),
    ):
        with contextlib.suppress(PermissionError):
            flooding.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 8 << 20)
        waited, largest = 0, 0
        for count in range(1, 40):
            peer.send(b"x")
            waited = 0
            while len(other.data) < count:
                fill(flooding)
                before = flood.n_bytes
                await turns(1)
                largest = max(largest, flood.n_bytes - before)
                waited += 1
            assert waited <= 3  # of turns
        assert 0 < largest <= READ_MOST


async def test_ready_tasks_do_not_keep_timers_and_connections_waiting():
    n_turns, is_over = 0, False

    async def busy():
        while not is_over:
            await asyncio.sleep(0)

    async def count():
        nonlocal n_turns
        while not is_over:
            n_turns += 1
            await asyncio.sleep(0)

    loop = asyncio.get_running_loop()
    async with open_transport(Recorder()) as (_, protocol, peer):
        tasks = [asyncio.ensure_future(one) for one in [count(), *[busy() for _ in range(20_000)]]]
        await turns(2)
        try:
            for number in range(1, 4):
                expired = []
                loop.call_later(0, expired.append, True)
                peer.send(b"x")
                before = n_turns
                while not expired or len(protocol.data) < number:
                    await asyncio.sleep(0)
                assert n_turns - before <= 3
        finally:
            is_over = True
            await asyncio.gather(*tasks)


@pytest.mark.slow
async def test_a_million_timers_are_run_in_order_and_let_others_follow():
    loop = asyncio.get_running_loop()
    n_timers, ran = 1_000_000, []
    begun_s = loop.time()
    async with open_transport(Recorder()) as (_, protocol, peer):
        handles = [loop.call_at(begun_s + number * 1e-9, ran.append, number) for number in range(n_timers)]
        for handle in handles[1::2]:
            handle.cancel()
        del handles, handle
        peer.send(b"x")
        n_turns = 0
        while len(ran) < n_timers // 2 or not protocol.data:
            await asyncio.sleep(0)
            n_turns += 1
        # all that are due run in a turn, as with asyncio: data that came meanwhile is in one of the next
        assert n_turns <= 4
    assert ran == list(range(0, n_timers, 2))

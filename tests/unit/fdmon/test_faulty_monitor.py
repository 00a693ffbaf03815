"""A whole loop on a monitor that returns early, reports late, in random order, and fds that are not ready."""

import asyncio
import threading

import pytest
from support.helpers import pattern, run
from support.monitors import make_monitor

import uringloop
import uringloop.eventloop.loop

SEEDS = range(6)


@pytest.fixture(params=SEEDS, ids=lambda seed: f"seed{seed}")
def nasty_loop(request, monkeypatch):
    monkeypatch.setattr(
        uringloop.eventloop.loop,
        "make_monitor",
        lambda name: (make_monitor("nasty", request.param), "a fake"),
    )
    loop = uringloop.Loop()
    assert loop.fdmon == "fake"
    yield loop
    loop.close()


def test_streams_lose_nothing(nasty_loop):
    data = pattern(300_000)

    async def echo(reader, writer):
        while chunk := await reader.read(10_000):
            writer.write(chunk)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def client(port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data)
        writer.write_eof()
        received = await reader.read()
        writer.close()
        await writer.wait_closed()
        return received

    async def main():
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        received = await asyncio.gather(*[client(port) for _ in range(5)])
        server.close()
        await server.wait_closed()
        assert received == [data] * 5

    run(nasty_loop, main())


def test_no_callback_of_a_thread_is_lost(nasty_loop):
    each, threads = 50, 4
    finished = 0

    def publish():
        for _ in range(each):
            done = threading.Event()
            nasty_loop.call_soon_threadsafe(done.set)
            assert done.wait(20)
        nasty_loop.call_soon_threadsafe(finish)

    def finish():
        nonlocal finished
        finished += 1
        if finished == threads:
            nasty_loop.stop()

    workers = [threading.Thread(target=publish) for _ in range(threads)]
    for worker in workers:
        worker.start()
    nasty_loop.run_forever()
    for worker in workers:
        worker.join()
    assert finished == threads


def test_sleeps_are_never_too_short(nasty_loop):
    async def main():
        for delay in (0.0, 0.0005, 0.003):
            before = nasty_loop.time()
            await asyncio.sleep(delay)
            assert nasty_loop.time() - before >= delay

    run(nasty_loop, main())

"""Loops and threads: call_soon_threadsafe, loops that move between threads, loops in many threads."""

import asyncio
import socket
import sys
import threading
import time

import pytest
from support.helpers import (
    STOCK,
    Recorder,
    connect_unshared,
    monitor_of,
    one_turn,
    run,
    turns,
    until,
)


def in_thread(function, *args):
    """Call a function in a new thread and return its result here."""
    result, errors = [], []

    def target():
        try:
            result.append(function(*args))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join(30)
    assert not thread.is_alive(), "the thread hangs"
    if errors:
        raise errors[0]
    return result[0]


def test_call_soon_threadsafe_wakes_a_sleeping_loop(loop):
    timer = threading.Timer(0.01, loop.call_soon_threadsafe, [loop.stop])
    timer.start()
    guard = loop.call_later(20, print)
    loop.run_forever()
    guard.cancel()
    timer.join()  # its frame holds the handle


def test_call_soon_threadsafe_before_the_run_is_not_lost(loop):
    ran = []
    in_thread(loop.call_soon_threadsafe, ran.append, 1)
    one_turn(loop)
    assert ran == [1]


def test_call_soon_threadsafe_from_the_loops_own_thread_keeps_the_order(loop):
    ran = []
    loop.call_soon(ran.append, 1)
    loop.call_soon_threadsafe(ran.append, 2)
    loop.call_soon(ran.append, 3)
    one_turn(loop)
    assert ran == [1, 2, 3]


def test_call_soon_threadsafe_returns_a_handle_that_can_be_cancelled(loop):
    ran = []
    handle = in_thread(loop.call_soon_threadsafe, ran.append, 1)
    assert isinstance(handle, asyncio.Handle)
    handle.cancel()
    one_turn(loop)
    assert ran == []


@pytest.mark.skipif(sys.version_info < (3, 14), reason="handles wait for their callback since Python 3.14")
def test_cancel_in_another_thread_waits_while_the_callback_runs(loop):
    started, cancelling = threading.Event(), threading.Event()
    order = []

    def callback():
        started.set()
        assert cancelling.wait(10)
        time.sleep(0.05)  # a cancel that does not wait would return in this time
        order.append("ran")

    def other():
        handle = loop.call_soon_threadsafe(callback)
        assert isinstance(handle, asyncio.Handle)
        assert started.wait(10)
        cancelling.set()
        handle.cancel()
        order.append("cancelled")
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=other)
    thread.start()
    loop.run_forever()
    thread.join()
    assert order == ["ran", "cancelled"]


@pytest.mark.skipif(sys.version_info < (3, 14), reason="handles wait for their callback since Python 3.14")
def test_a_callback_may_cancel_its_own_thread_safe_handle(loop):
    handles, ran = [], []

    def callback():
        handles[0].cancel()
        ran.append(handles[0].cancelled())

    handles.append(loop.call_soon_threadsafe(callback))
    one_turn(loop)
    handles.pop().cancel()
    assert ran == [True]


def test_many_threads_lose_no_call_and_keep_their_own_order(loop):
    count, threads = 2000, 6
    ran = [[] for _ in range(threads)]

    def storm(number):
        for call in range(count):
            loop.call_soon_threadsafe(ran[number].append, call)

    async def main():
        workers = [threading.Thread(target=storm, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        await until(lambda: all(len(calls) == count for calls in ran))
        for worker in workers:
            worker.join()

    run(loop, main())
    assert ran == [list(range(count))] * threads


def test_run_coroutine_threadsafe_returns_results_to_another_thread(loop):
    async def answer(number):
        await asyncio.sleep(0)
        return number * 2

    def ask():
        try:
            return [asyncio.run_coroutine_threadsafe(answer(number), loop).result(20) for number in range(50)]
        finally:
            loop.call_soon_threadsafe(loop.stop)

    answers = []
    thread = threading.Thread(target=lambda: answers.extend(ask()))
    thread.start()
    loop.run_forever()
    thread.join()
    assert answers == [number * 2 for number in range(50)]


def test_call_soon_threadsafe_while_the_loop_is_closed_raises_and_nothing_worse(new_loop):
    """To a thread that does not know that the loop closes, nothing but RuntimeError may happen."""
    for _ in range(10):
        loop = new_loop()
        errors = []

        def storm(loop=loop, errors=errors):
            try:
                while True:
                    loop.call_soon_threadsafe(int)
            except RuntimeError as error:
                errors.append(str(error))

        thread = threading.Thread(target=storm)
        thread.start()
        run(loop, asyncio.sleep(0.001))
        loop.close()
        thread.join(20)
        assert len(errors) == 1
        assert "closed" in errors[0]
        if type(loop) is asyncio.SelectorEventLoop:
            loop._ready.clear()  # stock asyncio checks first whether the loop is closed, and then appends


def test_a_loop_made_here_runs_in_another_thread(loop):
    assert in_thread(run, loop, asyncio.sleep(0.001, "done")) == "done"


def test_a_loop_made_in_another_thread_runs_here(new_loop):
    loop = in_thread(new_loop)
    assert run(loop, asyncio.sleep(0.001, "done")) == "done"


def test_a_loop_runs_in_one_thread_and_then_in_others(loop):
    assert run(loop, asyncio.sleep(0, 1)) == 1
    for number in range(5):
        assert in_thread(run, loop, asyncio.sleep(0.0005, number)) == number
    assert run(loop, asyncio.sleep(0, 2)) == 2


def test_a_loop_that_ran_in_a_thread_is_closed_here(new_loop):
    for _ in range(5):
        loop = new_loop()
        in_thread(run, loop, asyncio.sleep(0))
        loop.close()


def test_a_loop_that_ran_here_is_closed_in_a_thread(loop):
    run(loop, asyncio.sleep(0))
    in_thread(loop.close)
    assert loop.is_closed()


def test_a_loop_is_made_run_and_closed_in_three_threads(new_loop):
    loop = in_thread(new_loop)
    in_thread(run, loop, asyncio.sleep(0))
    in_thread(loop.close)


def test_readers_and_timers_that_were_added_before_the_thread_work_in_it(loop):
    near, far = socket.socketpair()
    near.setblocking(False)
    got = []
    loop.add_reader(near, lambda: got.append(near.recv(10)))
    loop.call_later(0.001, got.append, "timer")
    far.send(b"x")

    async def main():
        while len(got) < 2:
            await asyncio.sleep(0.0005)

    in_thread(run, loop, main())
    assert set(got) == {b"x", "timer"}
    loop.remove_reader(near)
    near.close()
    far.close()


def test_a_reader_moves_with_its_loop_from_thread_to_thread(loop):
    near, far = socket.socketpair()
    near.setblocking(False)
    got = []
    loop.add_reader(near, lambda: got.append(near.recv(10)))

    async def main(count):
        while len(got) < count:
            await asyncio.sleep(0.0005)

    for number in range(4):
        one_turn(loop)
        far.send(b"%d" % number)
        if number % 2:
            in_thread(run, loop, main(number + 1))
        else:
            run(loop, main(number + 1))
    assert got == [b"0", b"1", b"2", b"3"]
    loop.remove_reader(near)
    near.close()
    far.close()


def test_loops_in_many_threads_at_once_talk_to_each_other(new_loop):
    """Each thread has a server and connects to its neighbour's."""
    count = 6
    addresses = [None] * count
    barrier = threading.Barrier(count)

    async def main(number):
        async def handle(reader, writer):
            writer.write(b"%d:" % number + await reader.readline())
            await writer.drain()
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        addresses[number] = server.sockets[0].getsockname()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, barrier.wait, 20)
        neighbour = (number + 1) % count
        for turn in range(10):
            reader, writer = await asyncio.open_connection(*addresses[neighbour])
            writer.write(b"%d\n" % turn)
            assert await reader.read() == b"%d:%d\n" % (neighbour, turn)
            writer.close()
            await writer.wait_closed()
        await loop.run_in_executor(None, barrier.wait, 20)
        server.close()
        await turns(5)
        await loop.shutdown_default_executor()
        return number

    loops = [new_loop() for _ in range(count)]
    results = [None] * count

    def target(number):
        results[number] = run(loops[number], main(number))

    threads = [threading.Thread(target=target, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == list(range(count))


@pytest.mark.parametrize("here", [True, False])
def test_live_connections_move_with_their_loop_to_another_thread(loop, here):
    near, far = socket.socketpair()
    far.settimeout(20)
    protocol = Recorder()

    async def connect():
        await connect_unshared(loop, lambda: protocol, near)
        protocol.transport.write(b"from the first thread;")

    async def more():
        await protocol.received(5)
        protocol.transport.write(b"from the second thread;")
        while protocol.transport.get_write_buffer_size():
            await asyncio.sleep(0)

    async def end():
        protocol.transport.close()
        await protocol.lost.wait()

    run(loop, connect()) if here else in_thread(run, loop, connect())
    assert far.recv(100) == b"from the first thread;"
    far.send(b"hello")
    in_thread(run, loop, more()) if here else run(loop, more())
    assert protocol.data == b"hello"
    assert far.recv(100) == b"from the second thread;"
    in_thread(run, loop, end())
    assert far.recv(100) == b""
    assert protocol.error is None
    far.close()


def test_a_server_moves_with_its_loop_to_another_thread(loop):
    protocols = []

    def factory():
        protocols.append(Recorder())
        return protocols[-1]

    server = run(loop, loop.create_server(factory, "127.0.0.1", 0))
    address = server.sockets[0].getsockname()

    async def accept(count):
        await until(lambda: sum(len(protocol.data) for protocol in protocols) >= count)

    socks = []
    for number in range(4):
        socks.append(socket.create_connection(address))
        socks[-1].send(b"x")
        in_thread(run, loop, accept(number + 1))
    for sock in socks:
        sock.close()

    async def end():
        for protocol in protocols:
            await protocol.lost.wait()
        server.close()
        await turns(3)

    run(loop, end())
    assert len(protocols) == 4


def test_threads_that_schedule_faster_than_the_loop_runs_wait_for_it(loop):
    """Otherwise callbacks would pile up, and timers and I/O would wait for all of them."""
    n_threads, n_callbacks = 3, 30_000
    scheduled, counts = [0] * n_threads, [0] * n_threads
    most_queued = 0

    def ran(number):
        nonlocal most_queued
        counts[number] += 1
        most_queued = max(most_queued, sum(scheduled) - sum(counts))

    def flood(number):
        for _ in range(n_callbacks):
            loop.call_soon_threadsafe(ran, number)
            scheduled[number] += 1

    async def main():
        threads = [threading.Thread(target=flood, args=(number,)) for number in range(n_threads)]
        for thread in threads:
            thread.start()
        while counts != [n_callbacks] * n_threads:
            await asyncio.sleep(0)
        for thread in threads:
            thread.join()
        # Without a GIL nothing holds a thread back; nor does asyncio's own loop, on a machine that is busy.
        if getattr(sys, "_is_gil_enabled", lambda: True)() and monitor_of(loop) != STOCK:
            assert most_queued < 15_000

    run(loop, main())

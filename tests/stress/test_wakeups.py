"""No wake-up is ever lost: a loop that missed one would sleep for ever."""

import asyncio
import random
import threading

import pytest
from support.helpers import run


def ping_pong(new_loop, rounds):
    """Two loops in two threads wake each other in turn, without timers."""
    loops = [new_loop(), new_loop()]
    count = 0

    def ball(side):
        nonlocal count
        count += 1
        if count >= rounds:
            for loop in loops:
                loop.call_soon_threadsafe(loop.stop)
        else:
            loops[1 - side].call_soon_threadsafe(ball, 1 - side)

    other = threading.Thread(target=loops[1].run_forever)
    other.start()
    loops[0].call_soon(ball, 0)
    loops[0].run_forever()
    other.join(20)
    assert not other.is_alive()
    assert count == rounds


def test_two_loops_wake_each_other(new_loop):
    ping_pong(new_loop, 5_000)


@pytest.mark.slow
def test_two_loops_wake_each_other_for_long(new_loop):
    ping_pong(new_loop, 200_000)


def storm(loop, threads, calls, seed):
    """Threads schedule at random moments, while the loop goes to sleep again and again."""
    total = threads * calls
    received = 0
    done = threading.Event()

    def receive():
        nonlocal received
        received += 1
        if received == total:
            loop.stop()
            done.set()

    def worker(number):
        dice = random.Random(seed * 1000 + number)
        for _ in range(calls):
            loop.call_soon_threadsafe(receive)
            for _ in range(dice.randrange(200)):
                pass
            if dice.random() < 0.02:
                threading.Event().wait(0.0001)

    workers = [threading.Thread(target=worker, args=(number,)) for number in range(threads)]
    for each in workers:
        each.start()
    loop.run_forever()
    for each in workers:
        each.join(20)
    assert done.is_set()
    assert received == total


def test_threads_schedule_at_random_moments(loop):
    for seed in range(3):
        storm(loop, 4, 800, seed)


@pytest.mark.slow
def test_threads_schedule_at_random_moments_for_long(loop):
    for seed in range(30):
        storm(loop, 8, 5_000, seed)


def answers(loop, threads, rounds):
    """Each thread waits for its answer before its next request: one lost wake-up stops it."""

    async def answer(value):
        return value

    wrong = []

    def ask(number):
        for turn in range(rounds):
            value = asyncio.run_coroutine_threadsafe(answer((number, turn)), loop).result(30)
            if value != (number, turn):
                wrong.append(value)

    async def main():
        await asyncio.gather(*(loop.run_in_executor(None, ask, number) for number in range(threads)))
        await loop.shutdown_default_executor()

    run(loop, main(), seconds=200)
    assert wrong == []


def test_threads_wait_for_their_answers(loop):
    answers(loop, 4, 150)


@pytest.mark.slow
def test_threads_wait_for_their_answers_for_long(loop):
    answers(loop, 16, 2_000)


def test_wake_ups_of_a_loop_busy_with_descriptors_and_timers(loop):
    import socket

    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    received = []

    def echo():
        near.send(near.recv(10))

    async def main():
        loop.add_reader(near, echo)
        loop.add_reader(far, lambda: far.send(far.recv(10)))
        far.send(b"ball")
        worker = threading.Thread(
            target=lambda: [loop.call_soon_threadsafe(received.append, number) for number in range(3000)]
        )
        worker.start()
        while len(received) < 3000:
            await asyncio.sleep(0.0002)
        worker.join()
        loop.remove_reader(near)
        loop.remove_reader(far)

    run(loop, main())
    near.close()
    far.close()
    assert received == list(range(3000))

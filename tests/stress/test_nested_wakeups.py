"""Eight threads against a loop that busy-polls, sleeps, or runs inside its own callbacks: no wake-up is lost.

In each round all threads schedule at about the same time, and none does so again before all have their answers. So no
other wake-up can hide a lost one, and a single lost wake-up stops everything.
"""

import asyncio
import random
import sys
import threading

import pytest

THREADS = 8
ROUNDS = 1500
DEPTH = 3
FOREVER_NS = 10**10  # longer than any round, so a loop that has learned to poll never sleeps


class Rounds:
    """The threads, and the callbacks that they schedule."""

    def __init__(self, loop, rounds, nest):
        self.loop = loop
        self.left = rounds
        self.nest = nest
        self.answers = [threading.Semaphore(0) for _ in range(THREADS)]
        self.waiting = []
        self.ran = [0] * THREADS
        self.failures = []
        self.over = loop.create_future()
        self.threads = [threading.Thread(target=self.work, args=(number,)) for number in range(THREADS)]

    def work(self, number):
        dice = random.Random(number)
        for turn in range(self.left):
            for _ in range(dice.randrange(300)):
                pass
            self.loop.call_soon_threadsafe(self.publish, number)
            if not self.answers[number].acquire(timeout=20):
                self.failures.append((number, turn))
                self.loop.call_soon_threadsafe(self.end)
                return

    def publish(self, number):
        self.ran[number] += 1
        self.waiting.append(number)
        if self.nest and len(self.waiting) % 3 == 1:
            # a nested turn without sleeping, which runs what the others have scheduled meanwhile
            self.loop.aio_context.poll(False)
        if len(self.waiting) == THREADS:
            self.answer()

    def answer(self):
        waiting, self.waiting = self.waiting, []
        self.left -= 1
        for number in waiting:
            self.answers[number].release()
        if not self.left:
            self.end()

    def end(self):
        if not self.over.done():
            self.over.set_result(None)

    async def all(self):
        for thread in self.threads:
            thread.start()
        await self.over

    async def nested(self, depth):
        if depth:
            self.loop.run_nested(self.nested(depth - 1))
        else:
            await self.all()


@pytest.fixture
def switching_often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("nest", [False, True], ids=["flat", "nested"])
@pytest.mark.parametrize("is_polling", [False, True], ids=["sleeping", "polling"])
def test_eight_threads_lose_no_wake_up(loop, switching_often, is_polling, nest):
    if is_polling:
        loop.set_poll_params(FOREVER_NS, FOREVER_NS)
    rounds = Rounds(loop, ROUNDS, nest)
    before = loop.statistics()
    try:
        loop.run_until_complete(asyncio.wait_for(rounds.nested(DEPTH) if nest else rounds.all(), 40))
    finally:
        for thread in rounds.threads:
            thread.join(30)
    assert rounds.failures == []
    assert rounds.ran == [ROUNDS] * THREADS
    n_written = loop.statistics()["wakeups"] - before["wakeups"]
    if is_polling and loop.fdmon == "io_uring":
        assert loop.statistics()["poll_hits"] > 0
        assert (
            n_written < ROUNDS / 4
        )  # it sleeps only until it has learned; afterwards it is woken without an eventfd
    else:
        assert n_written > 0

"""Polled handlers: io_poll and io_poll_ready (QEMU: test-nested-aio-poll.c), with and without an fd."""

import asyncio
import gc
import logging
import time
import weakref

import pytest
from drivers.core import polling_of

import uringloop

MS = 1_000_000
LONG_NS = 5_000 * MS
LEARN_NS = 20_000  # polling starts with 4_000


@pytest.fixture
def context(real_fdmon_name):
    context = uringloop.AioContext(real_fdmon_name)
    yield context
    context.close()


@pytest.fixture
def notifier():
    notifier = uringloop.EventNotifier()
    yield notifier
    notifier.close()


def settle(context):
    while context.poll(False):
        pass


class Memory:
    """Work in memory: `waiting` items, of which io_poll_ready takes one."""

    def __init__(self, waiting=0):
        self.waiting, self.n_calls, self.n_done = waiting, 0, 0
        self.after = []  # an item appears after each of these numbers of calls
        self.takes_ns = 0  # how long io_poll takes

    def io_poll(self):
        self.n_calls += 1
        end_ns = time.monotonic_ns() + self.takes_ns
        while time.monotonic_ns() < end_ns:
            pass
        if self.after and self.n_calls >= self.after[0]:
            self.after.pop(0)
            self.waiting += 1
        return self.waiting > 0

    def io_poll_ready(self):
        assert self.waiting > 0, "called although it is not ready"
        self.waiting -= 1
        self.n_done += 1


def learned(context, notifier, callback=None, max_ns=LONG_NS):
    """Enable polling, and make the context learn to poll for a long time: an event arrives while it would have polled.
    Only a wait that takes longer than the polling, which starts with 4 us, makes it poll longer. A notifier that is set
    before the wait does not ensure that, so io_poll takes that long. Polling for 4 us would end before the memory of a
    test has an item, and the context would then sleep until its fd is ready, which never happens.
    """
    context.set_poll_params(max_ns, grow=max_ns)
    memory = Memory()
    memory.takes_ns = LEARN_NS
    context.set_event_notifier(
        notifier, lambda: notifier.test_and_clear(), memory.io_poll, callback or memory.io_poll_ready
    )
    for _ in range(4):
        notifier.set()
        while not context.poll(True):
            pass
    memory.takes_ns = 0
    return memory


# With an fd


def test_a_handler_that_is_ready_is_called_without_its_fd(context, notifier):
    memory = learned(context, notifier)
    before = context.statistics()["poll_hits"]
    memory.after = [memory.n_calls + 5]
    while not memory.n_done:
        context.poll(True)
    assert memory.n_done == 1
    assert context.statistics()["poll_hits"] > before
    context.notify()
    context.poll(True)
    assert memory.n_done == 1


def test_a_handler_that_is_not_ready_is_not_called(context, notifier):
    """Not even if another handler is ready, or an fd has an event."""
    memory = learned(context, notifier)
    other = uringloop.EventNotifier()
    others = Memory()
    context.set_event_notifier(other, other.test_and_clear, others.io_poll, others.io_poll_ready)
    other.set()
    while not context.poll(True):
        pass
    memory.after = [memory.n_calls + 3]
    while not memory.n_done:
        context.poll(True)
    assert others.n_done == 0
    assert others.n_calls > 0
    context.set_event_notifier(other)
    other.close()


def test_a_handler_without_io_poll_does_not_keep_others_from_being_polled(context, notifier):
    """QEMU on epoll and poll: one such handler switches polling off for all."""
    plain = uringloop.EventNotifier()
    notified = []
    context.set_event_notifier(plain, lambda: notified.append(plain.test_and_clear()))
    memory = learned(context, notifier)
    before = context.statistics()["poll_hits"]
    memory.after = [memory.n_calls + 5]
    while not memory.n_done:
        context.poll(True)
    assert context.statistics()["poll_hits"] > before
    assert notified == []
    plain.set()
    while not notified:
        context.poll(True)
    context.set_event_notifier(plain)
    plain.close()


def test_a_nested_turn_in_io_poll_ready_does_not_call_it_again(context, notifier):
    """/nested-aio-poll: one handler is always ready, the inner blocking turn needs progress by another one."""
    other = uringloop.EventNotifier()
    seen, depths = [], []
    depth = 0

    def io_poll_ready():
        nonlocal depth
        depth += 1
        depths.append(depth)
        other.set()
        count = len(seen)
        while len(seen) == count:
            assert context.poll(True) or len(seen) == count
        depth -= 1

    context.set_poll_params(LONG_NS, grow=LONG_NS)
    context.set_event_notifier(other, lambda: seen.append(other.test_and_clear()))
    context.set_event_notifier(notifier, notifier.test_and_clear, lambda: True, io_poll_ready)
    assert not context.poll(False)  # the notify() of set_event_notifier
    for _ in range(3):  # events of its fd make it a polled handler
        notifier.set()
        while not context.poll(True):
            pass
    for _ in range(3):
        count = len(depths)
        while len(depths) == count:
            context.poll(True)
    assert set(depths) == {1}
    assert seen == [True] * len(depths)
    context.set_event_notifier(notifier)
    context.set_event_notifier(other)
    other.close()


def test_a_handler_removed_after_it_was_found_is_not_called(context):
    memories = [Memory(1), Memory(1)]
    handlers = []

    def make(number):
        def ready():
            memories[number].io_poll_ready()
            handlers[1 - number].remove()

        return context.add_poll_handler(memories[number].io_poll, ready)

    handlers += [make(0), make(1)]
    assert context.poll(True)
    context.poll(False)
    assert sum(memory.n_done for memory in memories) == 1
    assert sorted(handler.removed for handler in handlers) == [False, True]


def test_io_poll_without_io_poll_ready_is_ignored(context, notifier):
    polled = []
    context.set_poll_params(LONG_NS)
    context.set_fd_handler(notifier.fileno(), notifier.test_and_clear, None, lambda: polled.append(1))
    for _ in range(3):
        notifier.set()
        while not context.poll(True):
            pass
    assert polled == []


def test_the_time_of_a_handler_does_not_count_as_waiting(context, notifier):
    """A slow io_poll_ready does not make the context stop polling."""

    def slow():
        memory.io_poll_ready()
        time.sleep(0.03)

    memory = learned(context, notifier, slow, max_ns=20 * MS)
    for _ in range(3):
        memory.after = [memory.n_calls + 2]
        count = memory.n_done
        context.call_at_ns(context.time_ns() + 1000 * MS, lambda: None)
        while memory.n_done == count:
            context.poll(True)
    assert len(polling_of(context)) >= 1


def test_idle_handlers_are_no_longer_polled_until_their_next_event(context, notifier, real_fdmon_name):
    memory = Memory()
    busy = Memory()
    context.set_poll_params(LONG_NS, grow=LONG_NS, idle_ns=20 * MS)
    context.set_event_notifier(notifier, notifier.test_and_clear, memory.io_poll, memory.io_poll_ready)
    notifier.set()
    while not context.poll(True):
        pass
    handler = context.add_poll_handler(busy.io_poll, busy.io_poll_ready)
    deadline = time.monotonic() + 0.2
    while time.monotonic() < deadline:
        busy.waiting = 1
        while busy.waiting:
            context.poll(True)
    n_calls = memory.n_calls
    for _ in range(50):
        busy.after = [busy.n_calls + 2]
        while busy.after or busy.waiting:
            context.poll(True)
    assert handler.polled_for
    if real_fdmon_name == "io_uring":
        assert memory.n_calls == n_calls
    else:
        # on other monitors its fd would starve while others are found by polling
        assert memory.n_calls > n_calls
    notifier.set()
    while not context.poll(False):
        pass
    settle(context)
    memory.after = [memory.n_calls + 2]
    while not memory.n_done:
        busy.waiting = max(busy.waiting, 0)
        context.poll(False)
        busy.after = [busy.n_calls + 2]
        context.poll(True)
    assert memory.n_done == 1


# Without an fd


@pytest.mark.parametrize("polling_ns", [0, 100_000])
def test_a_handler_without_an_fd_is_called(context, polling_ns):
    """Nothing wakes the loop for it, whether polling is on or off."""
    context.set_poll_params(polling_ns)
    memory = Memory()
    handler = context.add_poll_handler(memory.io_poll, memory.io_poll_ready)
    for count in range(1, 6):
        memory.after = [memory.n_calls + 10]
        while memory.n_done < count:
            context.poll(True)
    handler.remove()
    handler.remove()
    assert handler.removed
    n_calls = memory.n_calls
    context.notify()
    context.poll(True)
    assert memory.n_calls == n_calls


def test_a_handler_without_an_fd_is_polled_in_turns_that_do_not_block(context):
    memory = Memory()
    context.add_poll_handler(memory.io_poll, memory.io_poll_ready)
    settle(context)
    assert not context.poll(False)
    memory.waiting = 2
    assert context.poll(False)
    assert context.poll(False)
    assert not context.poll(False)
    assert memory.n_done == 2


def test_an_idle_loop_with_a_handler_sleeps(context):
    """At most 100 wake-ups a second after nothing happened for a while, and no spinning before."""
    memory = Memory()
    context.add_poll_handler(memory.io_poll, memory.io_poll_ready)
    deadline = time.monotonic() + 0.5
    cpu = time.process_time()
    while time.monotonic() < deadline:
        context.poll(True)
    assert memory.n_calls < 250
    assert time.process_time() - cpu < 0.25


def test_an_idle_handler_without_an_fd_is_still_called(context):
    """It is no longer polled for, as it was idle for long, but is still called every 10 ms."""
    memory, busy = Memory(), Memory()
    handler = context.add_poll_handler(memory.io_poll, memory.io_poll_ready)
    context.add_poll_handler(busy.io_poll, busy.io_poll_ready)
    context.set_poll_params(LONG_NS, grow=LONG_NS, idle_ns=20 * MS)
    deadline = time.monotonic() + 20
    while handler.polled_for:
        assert time.monotonic() < deadline
        busy.after = [busy.n_calls + 2]
        while busy.after or busy.waiting:
            context.poll(True)
    memory.waiting = 1
    while memory.n_done == 0:
        assert time.monotonic() < deadline
        busy.waiting = 1
        context.poll(True)
    assert handler.polled_for


class WithoutTruthValue:
    def __bool__(self):
        raise ZeroDivisionError


@pytest.mark.parametrize("io_poll", [lambda: 1 / 0, WithoutTruthValue])
def test_an_io_poll_that_raises_is_reported_and_removed(context, caplog, io_poll):
    handler = context.add_poll_handler(io_poll, print)
    with caplog.at_level(logging.ERROR, logger="uringloop"):
        context.poll(False)
        context.poll(False)
    assert [type(record.exc_info[1]) for record in caplog.records] == [ZeroDivisionError]
    assert handler.removed


def test_keyboard_interrupt_in_an_io_poll_ends_the_turn(context):
    def end():
        raise KeyboardInterrupt

    handler = context.add_poll_handler(end, print)
    with pytest.raises(KeyboardInterrupt):
        context.poll(True)
    handler.remove()
    context.notify()
    assert not context.poll(True)


def test_handlers_are_added_and_removed_while_they_are_polled(context):
    handlers, done = [], []

    def replace_handlers():
        if len(done) < 50:
            for handler in handlers:
                handler.remove()
            handlers[:] = [
                context.add_poll_handler(lambda: True, lambda: done.append(True)) for _ in range(3)
            ]
        return False

    context.add_poll_handler(replace_handlers, print)
    for handler in handlers:
        handler.remove()
    context.poll(False)
    first = handlers[:]
    for _ in range(5):
        context.poll(False)
    assert done == [], "polled handlers were removed before they could be called"
    assert all(handler.removed for handler in first)
    done += [True] * 50
    context.poll(False)
    context.poll(False)
    assert len(done) > 50
    for handler in handlers:
        handler.remove()


def test_polling_may_be_switched_while_handlers_are_polled(context, notifier):
    n_calls = 0

    def io_poll():
        nonlocal n_calls
        n_calls += 1
        if n_calls > 10 and n_calls % 7 == 0:
            context.set_poll_params(LONG_NS * (n_calls % 2), LONG_NS)
        return n_calls % 10 == 0

    learned(context, notifier)
    handle = context.add_poll_handler(io_poll, lambda: None)
    while n_calls < 500:
        context.poll(True)
    handle.remove()


def test_poll_handlers_that_cannot_be_called_are_refused(context, notifier):
    for call in (
        lambda: context.add_poll_handler(None, print),
        lambda: context.add_poll_handler(print, None),
        lambda: context.add_poll_handler(1, print),
        lambda: context.add_poll_handler(print, 1),
        lambda: context.set_event_notifier(notifier, 1),
    ):
        with pytest.raises(TypeError):
            call()


def test_a_removed_handler_is_released(context):
    memory = Memory()
    gone = weakref.ref(memory)
    handler = context.add_poll_handler(memory.io_poll, memory.io_poll_ready)
    context.poll(False)
    handler.remove()
    del handler, memory
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("polling_ns", [0, 100_000])
def test_a_loop_calls_poll_handlers(real_fdmon_name, polling_ns):
    loop = uringloop.new_event_loop(fdmon=real_fdmon_name)
    loop.set_poll_params(polling_ns)

    async def main():
        memory = Memory()
        arrived = asyncio.Event()

        def ready():
            memory.io_poll_ready()
            arrived.set()

        handler = loop.add_poll_handler(memory.io_poll, ready)
        for _ in range(5):
            memory.after = [memory.n_calls + 20]
            await asyncio.wait_for(arrived.wait(), 20)
            arrived.clear()
        memory.waiting = 1
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert memory.waiting == 0
        handler.remove()

    loop.run_until_complete(main())
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.add_poll_handler(bool, print)

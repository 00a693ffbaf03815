"""Programs that replace the loop's clock, wait or turn by their own, as tests that travel in time do."""

import asyncio
import functools
import selectors
import socket
import time
import unittest.mock

import pytest
from support.helpers import STOCK, inside_glib, monitor_of, one_turn

pytestmark = pytest.mark.skipif(inside_glib, reason="turns are run by hand, and GLib waits")

real_monotonic = time.monotonic


class Clock:
    """A clock that only moves when the test sets it."""

    def __init__(self, now=1_577_836_800.0):
        self.now = now
        self.n_reads = 0

    def __call__(self):
        self.n_reads += 1
        return self.now


def freeze(monkeypatch, clock, target="time.monotonic"):
    monkeypatch.setattr(target, clock)
    return clock


# time.monotonic


def test_a_replaced_monotonic_is_the_clock_of_loop_and_timers(loop, monkeypatch):
    hits = []
    clock = freeze(monkeypatch, Clock())
    assert loop.time() == clock.now
    handle = loop.call_later(60, hits.append, 1)
    assert handle.when() == clock.now + 60
    for _ in range(3):
        one_turn(loop)
    assert hits == []
    clock.now += 61
    one_turn(loop)
    assert hits == [1]


def test_a_clock_may_be_replaced_and_restored_between_two_turns(loop, monkeypatch):
    hits = []
    before = loop.time()
    loop.call_later(1000, hits.append, "before")
    with monkeypatch.context() as patch:
        clock = freeze(patch, Clock(before + 999))
        loop.call_later(5, hits.append, "while")
        one_turn(loop)
        assert hits == []
        clock.now = before + 1001
        one_turn(loop)
        assert hits == ["before"]
    assert loop.time() < before + 500
    loop.call_later(0, hits.append, "after")
    one_turn(loop)
    assert hits == ["before", "after"]


def test_a_clock_may_be_replaced_in_a_callback(loop, monkeypatch):
    """As `with freeze_time(...)` in a coroutine does."""

    async def main():
        hits = []
        with monkeypatch.context() as patch:
            clock = freeze(patch, Clock())
            loop.call_later(60, hits.append, 1)
            await asyncio.sleep(0)
            assert hits == []
            clock.now += 61
            for _ in range(3):
                await asyncio.sleep(0)
            assert hits == [1]

    loop.run_until_complete(main())


def test_a_module_patched_in_place_of_time_is_used(loop, monkeypatch):
    monkeypatch.setattr("asyncio.base_events.time", unittest.mock.Mock(monotonic=Clock(5.0)))
    assert loop.time() == 5.0
    assert loop.call_later(1, print).when() == 6.0


def test_the_clock_is_read_as_often_as_by_asyncio(loop, monkeypatch):
    """Clocks that move with each read (freezegun's auto_tick_seconds) show how often that is."""
    clock = freeze(monkeypatch, Clock())
    counts = []

    def turn():
        before = clock.n_reads
        loop._run_once()
        counts.append(clock.n_reads - before)

    loop.call_soon(int)
    turn()  # nothing to wait for: it only has to find what is due
    loop.call_later(10, int)
    loop.call_soon(int)
    turn()
    clock.now += 11
    turn()  # it also has to know how long to wait
    assert counts == [1, 1, 2]
    assert not loop._scheduled


@pytest.mark.parametrize("start", [-50.0, 0.0, 9.1e9, 4e12])
def test_times_on_any_clock_keep_their_order(loop, monkeypatch, start):
    hits = []
    clock = freeze(monkeypatch, Clock(start))
    for delay in (3, 1, 2, 40):
        loop.call_later(delay, hits.append, delay)
    assert loop._scheduled[0].when() - start == 1
    clock.now += 2.5
    one_turn(loop)
    assert hits == [1, 2]
    clock.now += 2.5
    one_turn(loop)
    assert hits == [1, 2, 3]


def test_a_timer_may_be_early_by_the_clocks_resolution(loop, monkeypatch):
    hits = []
    clock = freeze(monkeypatch, Clock(100.0))
    monkeypatch.setattr(loop, "_clock_resolution", 0.5)
    loop.call_later(1, hits.append, 1)
    loop.call_later(2, hits.append, 2)
    clock.now += 0.6
    one_turn(loop)
    assert hits == [1]


# loop.time, loop.call_at


def test_time_may_be_replaced_on_the_instance_and_restored(loop):
    with unittest.mock.patch.object(loop, "time", Clock(7.0)):
        assert loop.time() == 7.0
        assert loop.call_later(1, print).when() == 8.0
    assert "time" not in vars(loop)
    assert abs(loop.time() - real_monotonic()) < 60
    assert abs(loop.call_later(0, print).when() - real_monotonic()) < 60


def test_time_may_be_replaced_on_the_class_and_restored(loop):
    """As freezegun's real_asyncio does while time.monotonic is frozen."""
    kind = type(loop)
    original = kind.time
    kind.time = lambda self: 11.0
    try:
        assert loop.call_later(1, print).when() == 12.0
        kind.time = original
        assert abs(loop.call_later(0, print).when() - real_monotonic()) < 60
    finally:
        del kind.time


def test_time_may_be_replaced_on_asyncios_own_class(loop, monkeypatch):
    monkeypatch.setattr(asyncio.BaseEventLoop, "time", lambda self: 11.0)
    assert loop.time() == 11.0
    assert loop.call_later(1, print).when() == 12.0


def test_a_subclass_with_a_clock_of_its_own(loop):
    class Mine(type(loop)):
        now = 0.0

        def time(self):
            return self.now

    hits = []
    loop.__class__ = Mine
    loop.call_later(5, hits.append, 1)
    loop.now = 4.9
    one_turn(loop)
    assert hits == []
    loop.now = 5.0
    one_turn(loop)
    assert hits == [1]


def test_call_later_goes_through_a_replaced_call_at(loop):
    with unittest.mock.patch.object(loop, "call_at", wraps=loop.call_at) as call_at:
        loop.call_later(100, print, 1)
    assert call_at.call_count == 1
    loop.call_later(100, print, 1)
    assert call_at.call_count == 1


# loop._selector.select


class VirtualTime:
    """No time passes: a wait moves the clock by what it would have taken."""

    def __init__(self, loop):
        self.now = 0.0
        self.waits = []
        self.loop = loop
        self.original = loop._selector.select

    def time(self):
        return self.now

    def select(self, timeout):
        self.waits.append(timeout)
        if timeout is not None:
            self.now += timeout
        return self.original(0)

    def __enter__(self):
        self.patches = [
            unittest.mock.patch.object(self.loop._selector, "select", self.select),
            unittest.mock.patch.object(self.loop, "time", self.time),
        ]
        for patch in self.patches:
            patch.__enter__()
        return self

    def __exit__(self, *details):
        for patch in self.patches:
            patch.__exit__(*details)


def test_a_replaced_select_waits(loop):
    async def main():
        begun = real_monotonic()
        with VirtualTime(loop) as virtual:
            await asyncio.sleep(1000)
            assert virtual.now == 1000.0
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(loop.create_future(), 0.1)
            assert virtual.now == pytest.approx(1000.1, abs=1e-9)
        assert real_monotonic() - begun < 100
        assert set(virtual.waits) > {0, 1000.0}
        before = len(virtual.waits)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(virtual.waits) <= before

    loop.run_until_complete(main())


def test_a_long_wait_is_capped_as_in_asyncio(loop):
    async def main():
        with VirtualTime(loop) as virtual:
            await asyncio.sleep(200_000)
            assert max(virtual.waits) == 86400

    loop.run_until_complete(main())


def test_data_arrives_while_select_is_replaced(loop):
    async def main():
        def serve(reader, writer):
            writer.write(b"x" * 100_000)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        found = []

        def select(original, timeout):
            found.extend(original(timeout))
            return found[-1:]

        with unittest.mock.patch.object(
            loop._selector, "select", functools.partial(select, loop._selector.select)
        ):
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            assert await reader.readexactly(100_000) == b"x" * 100_000
            assert await loop.run_in_executor(None, int) == 0
            writer.close()
            await writer.wait_closed()
        assert found
        assert all(isinstance(key, selectors.SelectorKey) and events for key, events in found)
        server.close()
        await server.wait_closed()

    loop.run_until_complete(main())


def test_select_finds_what_is_ready_and_the_turn_dispatches_it(loop):
    near, far = socket.socketpair()
    hits = []
    with near, far:
        near.setblocking(False)
        loop.add_reader(near, lambda: hits.append(near.recv(10)))
        one_turn(loop)
        assert loop._selector.select(0) == []
        far.send(b"hello")
        found = loop._selector.select(None)
        assert [(key.fd, key.events, events) for key, events in found] == [
            (near.fileno(), selectors.EVENT_READ, selectors.EVENT_READ)
        ]
        assert found[0][0].data[0] is loop._selector.get_key(near).data[0]
        assert hits == []
        if monitor_of(loop) != STOCK:
            loop._process_events(
                found
            )  # stock asyncio's makes a callback of each event, and the turn finds the event once more
        loop._run_once()
        assert hits == [b"hello"]
        loop.remove_reader(near)


def test_select_returns_after_its_timeout_and_when_another_thread_schedules(loop):
    assert loop._selector.select(0.001) == []
    assert loop._selector.select(-1) == []
    loop.call_soon_threadsafe(int)
    loop._selector.select(None)


def test_a_program_may_wrap_the_selector(loop):
    class Wrapper:
        def __init__(self, inner):
            self.inner = inner
            self.waits = []

        def select(self, timeout=None):
            self.waits.append(timeout)
            return self.inner.select(timeout)

        def __getattr__(self, name):
            return getattr(self.inner, name)

    wrapper = Wrapper(loop._selector)
    loop._selector = wrapper
    loop.run_until_complete(asyncio.sleep(0.05))
    assert any(wrapper.waits)
    loop._selector = wrapper.inner
    n_waits = len(wrapper.waits)
    one_turn(loop)
    assert len(wrapper.waits) == n_waits


def test_an_exception_in_a_replaced_select_ends_the_run(loop):
    def select(timeout):
        raise ZeroDivisionError

    with unittest.mock.patch.object(loop._selector, "select", select), pytest.raises(ZeroDivisionError):
        loop.call_soon(loop.stop)
        loop.run_forever()
    one_turn(loop)


def test_a_nested_run_waits_in_a_replaced_select(loop):
    if monitor_of(loop) == STOCK:
        pytest.skip("no nested runs")

    async def main():
        with VirtualTime(loop) as virtual:
            loop.run_nested(asyncio.sleep(1000))
            return virtual.now

    assert loop.run_until_complete(main()) == 1000.0


# loop._run_once


def test_run_forever_calls_a_replaced_run_once(loop):
    """Autojump clocks move the time to the next timer before a turn that would wait."""
    clock = Clock(0.0)
    original = loop._run_once

    def run_once():
        if not loop._ready and loop._scheduled:
            clock.now = max(clock.now, loop._scheduled[0].when())
        original()

    async def main():
        await asyncio.sleep(5000)
        return clock.now

    with (
        unittest.mock.patch.object(loop, "_run_once", run_once),
        unittest.mock.patch.object(loop, "time", clock),
    ):
        assert loop.run_until_complete(main()) == 5000.0
    loop.run_until_complete(asyncio.sleep(0))


def test_run_forever_calls_an_overridden_run_once(loop):
    class Mine(type(loop)):
        n_turns = 0

        def _run_once(self):
            self.n_turns += 1
            super()._run_once()

    loop.__class__ = Mine
    one_turn(loop)
    assert loop.n_turns >= 1

"""Adaptive polling: the arithmetic, the list of events, and what a context makes of it."""

import asyncio
import os
import select
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uringloop.testing import PollListDriver

import uringloop
from unit.conftest import handler_with
from uringloop.fdmon.polling import next_ns

MAX_NS = 32768
TIMES = st.integers(0, 1 << 40)


def model(ns, block_ns, max_ns, grow, shrink):
    """The same, as QEMU's text says it."""
    if block_ns <= ns:
        return ns
    if block_ns > max_ns:
        return ns // shrink if shrink else 0
    if ns < max_ns:
        grown = ns * (grow or 2) if ns else 4000
        return min(max(grown, ns + 1), max_ns)
    return ns


@given(TIMES, TIMES, TIMES, st.integers(0, 1000), st.integers(0, 1000))
def test_times_grow_and_shrink_as_the_model_says(ns, block_ns, max_ns, grow, shrink):
    assert next_ns(ns, block_ns, max_ns, grow, shrink) == model(ns, block_ns, max_ns, grow, shrink)


@given(st.integers(0, MAX_NS), st.lists(TIMES, max_size=50), st.integers(0, 9), st.integers(0, 9))
def test_a_time_stays_between_nothing_and_the_most(ns, blocks, grow, shrink):
    for block_ns in blocks:
        ns = next_ns(ns, block_ns, MAX_NS, grow, shrink)
        assert 0 <= ns <= MAX_NS


@pytest.mark.parametrize(
    ("ns", "block_ns", "expected"),
    [
        (0, 0, 0),  # it was there at once
        (0, 100, 4000),  # first step
        (4000, 3000, 4000),  # found while looking: the sweet spot
        (4000, 5000, 8000),
        (30000, 32000, MAX_NS),
        (MAX_NS, MAX_NS, MAX_NS),
        (16000, MAX_NS + 1, 0),  # looking could not have helped
    ],
)
def test_the_steps(ns, block_ns, expected):
    assert next_ns(ns, block_ns, MAX_NS, 2, 0) == expected


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["turn", "forget", "spin"]),
            st.sets(st.integers(0, 5), max_size=4),
            st.integers(0, 50_000),
            st.integers(0, 400),
        ),
        max_size=60,
    )
)
def test_the_list_agrees_with_a_plain_model(steps):
    """Times, who is on the list, the greediest, and who has been idle for too long."""
    idle_ns = 1000
    driver = PollListDriver(MAX_NS, 2, 0, idle_ns)
    times, last, now_ns, expiry_ns = {}, {}, 1, 0
    for what, names, block_ns, passes_ns in steps:
        now_ns += passes_ns
        if what == "turn":
            driver.turn(sorted(names), block_ns, now_ns)
            for name in names:
                times[name] = model(times.get(name, 0), block_ns, MAX_NS, 2, 0)
                last[name] = now_ns
        elif what == "forget":
            for name in names & times.keys():
                driver.forget(name)
                del times[name]
        else:
            if any(times.values()) and now_ns >= expiry_ns:
                expiry_ns = now_ns + idle_ns // 8 + 1
                for name, ns in times.items():
                    if ns and now_ns - last[name] >= idle_ns:
                        times[name] = 0
            assert driver.spin_ns(now_ns) == max(times.values(), default=0)
        assert driver.times() == {name: ns for name, ns in times.items() if ns}
        assert len(driver) == len(driver.times())


def test_an_event_that_goes_takes_its_wish_along():
    driver = PollListDriver(MAX_NS)
    driver.turn(["small", "great"], 1, 1)
    for now_ns in range(2, 5):
        driver.turn(["great"], 20_000, now_ns)
    assert driver.spin_ns(5) == driver.times()["great"] == 32000
    driver.forget("great")
    assert driver.spin_ns(6) == 4000


# -- in a context ------------------------------------------------------------------------------------------


def test_parameters_are_checked(aio):
    for wrong in ((-1,), (1, -1), (1, 2, -1)):
        with pytest.raises(ValueError, match="negative"):
            aio.aio_context.set_poll_params(*wrong)
    aio.aio_context.set_poll_params(1000, 0, 0)
    polling = aio.aio_context.polling
    assert (polling.max_ns, polling.grow, polling.shrink) == (1000, 0, 0)
    aio.aio_context.set_poll_params(0)
    assert aio.aio_context.polling is None


def test_events_are_seen_with_polling_as_without(real_aio, fds):
    real_aio.aio_context.set_poll_params(50_000)
    eventfd = fds.eventfd()
    handler = handler_with(lambda *_: os.eventfd_read(eventfd), eventfd, select.POLLIN)
    real_aio.set_handler(None, handler)
    for n in range(1, 6):
        os.eventfd_write(eventfd, 1)
        while len(handler.calls) < n:
            real_aio.poll(True)
    real_aio.set_handler(handler, None)


@pytest.mark.parametrize("value", ["-1", "many", "1.5", str(1 << 70)])
def test_the_environment_variable_is_checked(monkeypatch, value):
    monkeypatch.setenv("URINGLOOP_POLL_MAX_NS", value)
    with pytest.raises(ValueError, match="URINGLOOP_POLL_MAX_NS"):
        uringloop.new_event_loop()


def test_the_environment_variable_sets_the_most(monkeypatch, real_fdmon_name):
    monkeypatch.setenv("URINGLOOP_POLL_MAX_NS", "12345")
    loop = uringloop.new_event_loop(fdmon=real_fdmon_name)
    assert loop.aio_context.polling.max_ns == 12345
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.set_poll_params(1)


def test_a_fast_peer_is_looked_for_and_found():
    """Both ends in one loop: what is sent is there at once."""
    loop = uringloop.new_event_loop(fdmon="io_uring")
    loop.set_poll_params(1_000_000)

    async def ping_pong():
        served = asyncio.Event()

        async def serve(reader, writer):
            while data := await reader.read(100):
                writer.write(data)
            writer.close()
            await writer.wait_closed()
            served.set()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        for _ in range(200):
            writer.write(b"ping")
            await reader.readexactly(4)
        writer.close()
        await writer.wait_closed()
        await served.wait()
        server.close()
        await server.wait_closed()

    loop.run_until_complete(ping_pong())
    numbers = loop.statistics()
    loop.close()
    assert numbers["poll_hits"] > 200
    assert numbers["poll_misses"] < numbers["poll_hits"] / 10


def test_a_thread_is_seen_while_looking_without_its_eventfd():
    loop = uringloop.new_event_loop(fdmon="io_uring")
    loop.set_poll_params(30_000_000_000, 1_000_000_000_000)  # one step up, and it looks for half a minute
    rounds = []

    def again():
        rounds.append(1)
        if len(rounds) == 5:
            loop.stop()
        else:
            threading.Timer(0.005, loop.call_soon_threadsafe, [again]).start()

    loop.call_soon(again)
    loop.run_forever()
    numbers = loop.statistics()
    loop.close()
    assert numbers["poll_hits"] >= 2
    assert numbers["wakeups"] <= 3  # the first ones, until looking had grown


def test_looking_ends_when_a_timer_is_due():
    loop = uringloop.new_event_loop(fdmon="io_uring")
    loop.set_poll_params(30_000_000_000, 1_000_000_000_000)

    async def work():
        left, right = os.eventfd(0), os.eventfd(0)
        seen = []
        loop.add_reader(left, lambda: seen.append(os.eventfd_read(left)))
        for _ in range(5):  # the reader learns to be looked for
            loop.call_later(0.001, os.eventfd_write, left, 1)
            while not seen:
                await asyncio.sleep(0.0005)
            seen.clear()
        before = loop.time()
        await asyncio.sleep(0.01)
        took = loop.time() - before
        loop.remove_reader(left)
        os.close(left)
        os.close(right)
        return took

    took = loop.run_until_complete(asyncio.wait_for(work(), 20))
    loop.close()
    assert 0.01 <= took < 5

"""Adaptive polling: the arithmetic, the list of events, and how a context uses them."""

import asyncio
import gc
import os
import select
import socket
import threading
import time

import pytest
from drivers.core import PollListDriver, notifier_fd, polling_of
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.helpers import run_script

import uringloop
from unit.conftest import handler_with
from uringloop.fdmon.adaptive_polling import next_ns

MAX_NS = 32768
IDLE_NS = 7_000_000_000
# The whole range of the C type, so that an overflowing product is noticed.
TIMES = st.integers(0, 2**63 - 1) | st.integers(0, 100_000)
FACTORS = st.integers(0, 5) | st.integers(0, 2**63 - 1)


def model(ns, block_ns, max_ns, grow, shrink):
    """The rules for a handler's time in QEMU's documents, in integers of any size."""
    arrived_while_polling = block_ns <= ns
    too_late_for_polling = block_ns > max_ns
    if arrived_while_polling:
        return ns
    if too_late_for_polling:
        return 0 if shrink == 0 else ns // shrink
    if ns == 0:
        grown = 4000
    elif grow == 1:
        grown = ns + 1  # uringloop's own rule: otherwise it would never grow
    else:
        grown = ns * (2 if grow == 0 else grow)
    return min(grown, max_ns) if ns < max_ns and block_ns < max_ns else ns


@given(TIMES, TIMES, TIMES, FACTORS, FACTORS)
@example(4000, 4001, 2**63 - 1, 2**62, 0)
@example(8000, 16000, 16000, 2, 0)
@example(12000, 20000, 32000, 0, 0)
@example(8000, 16001, 16000, 2, 3)
@settings(max_examples=500)
def test_times_grow_and_shrink_as_the_model_says(ns, block_ns, max_ns, grow, shrink):
    assert next_ns(ns, block_ns, max_ns, grow, shrink) == model(ns, block_ns, max_ns, grow, shrink)


@given(st.integers(0, MAX_NS), st.lists(TIMES, max_size=50), st.integers(0, 9), st.integers(0, 9))
def test_a_time_stays_between_zero_and_the_maximum(ns, blocks, grow, shrink):
    for block_ns in blocks:
        ns = next_ns(ns, block_ns, MAX_NS, grow, shrink)
        assert 0 <= ns <= MAX_NS


@pytest.mark.parametrize(
    ("ns", "block_ns", "expected"),
    [
        (0, 0, 0),  # it was ready at once
        (0, 100, 4000),  # first step
        (4000, 3000, 4000),  # found while polling
        (4000, 5000, 8000),
        (30000, 32000, MAX_NS),
        (30000, MAX_NS, 30000),
        (MAX_NS, MAX_NS, MAX_NS),
        (16000, MAX_NS + 1, 0),  # polling could not have helped
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
    ),
    st.sampled_from([0, 3]),
)
def test_the_list_agrees_with_a_simple_model(steps, shrink):
    """Times, the events on the list, the longest time, and events that were idle for too long."""
    idle_ns = 1000
    driver = PollListDriver(MAX_NS, 2, shrink, idle_ns)
    times, last, now_ns, expiry_ns = {}, {}, 1, 0
    for what, names, block_ns, passes_ns in steps:
        now_ns += passes_ns
        if what == "turn":
            driver.turn(sorted(names), block_ns, now_ns)
            for name in names:
                times[name] = model(times.get(name, 0), block_ns, MAX_NS, 2, shrink)
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


def test_forgetting_the_longest_time_lowers_the_polling_time():
    driver = PollListDriver(MAX_NS)
    driver.turn(["small", "great"], 1, 1)
    for now_ns in range(2, 5):
        driver.turn(["great"], 20_000, now_ns)
    assert driver.spin_ns(5) == driver.times()["great"] == 32000
    driver.forget("great")
    assert driver.spin_ns(6) == 4000


def test_collecting_an_event_lowers_the_polling_time():
    driver = PollListDriver(MAX_NS)
    driver.turn(["mine"], 1000, 0)
    cycle = [driver.forget("mine")]
    cycle.append(cycle)
    assert len(driver) == 1
    del cycle
    gc.collect()
    assert len(driver) == 0
    assert driver.spin_ns(1) == 0


def test_shrinking_the_longest_time_lowers_the_polling_time():
    driver = PollListDriver(MAX_NS, 2, 3)
    driver.turn(["small", "great"], 5000, 1)
    driver.turn(["great"], 5000, 2)
    assert driver.spin_ns(3) == 8000
    driver.turn(["great"], MAX_NS + 1, 4)
    assert driver.times() == {"small": 4000, "great": 8000 // 3}
    assert driver.spin_ns(5) == 4000


def test_an_event_that_is_idle_for_too_long_is_dropped_until_it_occurs_again():
    driver = PollListDriver(MAX_NS, 2, 0, 1000)
    driver.turn(["busy", "idle"], 5000, 1)
    assert driver.spin_ns(1) == 4000
    driver.turn(["busy"], 1, 900)
    assert set(driver.times()) == {"busy", "idle"}
    driver.spin_ns(1001)
    assert set(driver.times()) == {"busy"}
    driver.turn(["idle"], 5000, 1002)
    assert set(driver.times()) == {"busy", "idle"}


def mixed_load(driver):
    """A slow disk and a fast peer, in turn; return the remaining times after some rounds."""
    for now_ns in range(1, 1000, 10):
        driver.turn(["slow"], 5_000_000, now_ns)
        for trip in range(1, 10):
            driver.turn(["fast"], 20_000, now_ns + trip)
    driver.turn(["slow"], 5_000_000, 1001)
    return driver.times()


def test_a_parted_event_is_not_polled_for_and_keeps_its_time(fds):
    fd = fds.eventfd()
    polling = PollListDriver(MAX_NS)
    polling.turn(["a", "b"], 5000, 1)
    polling.turn(["a"], 6000, 2)
    polling.part("a", fd)
    assert polling.times() == {"b": 4000}
    assert polling.spin_ns(3) == 4000
    assert polling.rejoin(fd, 6)
    assert polling.times() == {"a": 8000, "b": 4000}
    assert not polling.rejoin(fd, 6)
    polling.part("a", fd)
    polling.turn(["a", "b"], 9000, 4)  # its handler was removed in the turn in which it occurred
    assert polling.times() == {"b": 8000}
    polling.rejoin(fd, 6)
    assert polling.times() == {"a": 16000, "b": 8000}
    polling.part("a", fd)
    polling.turn(["a"], MAX_NS + 1, 5)
    polling.rejoin(fd, 6)
    assert polling.times() == {"b": 8000}
    polling.part("b", fd)
    assert len(polling) == 0
    polling.rejoin(fd, 4 + IDLE_NS - 1)
    assert polling.times() == {"b": 8000}
    polling.part("b", fd)
    assert polling.rejoin(fd, 4 + IDLE_NS)  # it was idle for too long
    assert len(polling) == 0


def test_a_slow_event_does_not_affect_a_fast_one():
    assert mixed_load(PollListDriver(MAX_NS)) == {"fast": 32000}


def test_a_shared_time_would_be_affected():
    """Shows that the test above, and the benchmark with one time for the whole loop, can fail."""
    assert mixed_load(PollListDriver(MAX_NS, shared=True)) == {}


# In a context


def test_parameters_are_checked(aio):
    for wrong in ((-1,), (1, -1), (1, 2, -1)):
        with pytest.raises(ValueError, match="negative"):
            aio.aio_context.set_poll_params(*wrong)
    aio.aio_context.set_poll_params(1000, 0, 0)
    polling = polling_of(aio.aio_context)
    assert (polling.max_ns, polling.grow, polling.shrink) == (1000, 0, 0)
    aio.aio_context.set_poll_params(0)
    assert polling_of(aio.aio_context) is None


def test_events_are_reported_with_polling_enabled(real_aio, fds):
    real_aio.aio_context.set_poll_params(50_000)
    eventfd = fds.eventfd()
    handler = handler_with(lambda *_: os.eventfd_read(eventfd), eventfd, select.POLLIN)
    real_aio.set_handler(None, handler)
    for n in range(1, 6):
        os.eventfd_write(eventfd, 1)
        while len(handler.calls) < n:
            real_aio.poll(True)
    real_aio.set_handler(handler, None)


def test_new_parameters_reset_the_polling_times(real_aio, fds):
    eventfd = fds.eventfd()
    handler = handler_with(lambda *_: os.eventfd_read(eventfd), eventfd, select.POLLIN)
    real_aio.set_handler(None, handler)
    n_learned = []
    for _ in range(3):
        real_aio.aio_context.set_poll_params(10**12)
        n_learned.append(len(polling_of(real_aio.aio_context)))
        n_calls = len(handler.calls)
        os.eventfd_write(eventfd, 1)
        while len(handler.calls) == n_calls:
            real_aio.poll(True)
        n_learned.append(len(polling_of(real_aio.aio_context)))
    assert n_learned == [0, 1, 0, 1, 0, 1]
    real_aio.set_handler(handler, None)


@pytest.mark.parametrize("value", ["-1", "many", "1.5", str(1 << 70)])
def test_the_environment_variable_is_checked(monkeypatch, value):
    monkeypatch.setenv("URINGLOOP_POLL_MAX_NS", value)
    with pytest.raises(ValueError, match="URINGLOOP_POLL_MAX_NS"):
        uringloop.new_event_loop()


def test_the_environment_variable_sets_the_maximum(monkeypatch, real_fdmon_name):
    monkeypatch.setenv("URINGLOOP_POLL_MAX_NS", "12345")
    loop = uringloop.new_event_loop(fdmon=real_fdmon_name)
    assert polling_of(loop.aio_context).max_ns == 12345
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.set_poll_params(1)


@pytest.mark.needs_liburing
def test_a_fast_peer_is_polled_for_and_found():
    """Both ends are in one loop: data arrives at once."""
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


FOREVER_NS = 30_000_000_000


def learned_loop(fdmon):
    """A loop that has learned from another thread to poll for half a minute; any loop if the monitor cannot poll."""
    loop = uringloop.new_event_loop(fdmon=fdmon)
    loop.set_poll_params(FOREVER_NS, FOREVER_NS)
    n_seen_in_a_row = 0
    while n_seen_in_a_row < 3:  # once may be chance
        before = loop.statistics()
        timer = threading.Timer(0.002, loop.call_soon_threadsafe, [loop.stop])
        timer.start()
        loop.run_forever()
        timer.join()
        after = loop.statistics()
        is_seen = after["poll_hits"] > before["poll_hits"] and after["poll_misses"] == before["poll_misses"]
        n_seen_in_a_row = n_seen_in_a_row + 1 if is_seen or fdmon != "io_uring" else 0
    return loop


def eventfd_count(fd):
    with open(f"/proc/self/fdinfo/{fd}") as info:
        return next(int(line.split()[1], 16) for line in info if line.startswith("eventfd-count"))


@pytest.mark.parametrize("how", ["sock_recv", "add_reader", "number"])
@pytest.mark.parametrize("next_is", ["same", "other", "reopened"])
def test_a_new_socket_does_not_inherit_the_polling_time_of_an_old_one(real_fdmon_name, how, next_is):
    """Not even if it has the same fd number, or its object the same address."""
    loop = uringloop.new_event_loop(fdmon=real_fdmon_name)
    loop.set_poll_params(10**12)
    polling = polling_of(loop.aio_context)
    others = []

    async def receive(sock):
        if how == "sock_recv":
            return await loop.sock_recv(sock, 10)
        file = sock if how == "add_reader" else sock.fileno()
        future = loop.create_future()
        loop.add_reader(file, future.set_result, None)
        await future
        loop.remove_reader(file)
        return sock.recv(10)

    async def exchange(sock, other):
        receiving = loop.create_task(receive(sock))
        await asyncio.sleep(0)
        n_polled_for = len(polling)
        other.send(b"x")
        assert await receiving == b"x"
        return n_polled_for

    def connect(number=None):
        one, other = socket.socketpair()
        assert number is None or one.fileno() == number
        one.setblocking(False)
        others.append(other)
        return one

    async def main():
        one = connect()
        number = one.fileno()
        assert [await exchange(one, others[-1]) for _ in range(2)] == [0, 1]
        if next_is == "same":
            assert await exchange(one, others[-1]) == 1
        else:
            one.close()
            if next_is == "reopened":
                del one
            one = connect(number)
            assert [await exchange(one, others[-1]) for _ in range(2)] == [0, 1]
        one.close()

    loop.run_until_complete(main())
    loop.close()
    for other in others:
        other.close()


@pytest.mark.parametrize("how", ["sock_recv", "add_reader"])
def test_a_new_wait_on_the_same_socket_keeps_its_polling_time(real_fdmon_name, how):
    loop = uringloop.new_event_loop(fdmon=real_fdmon_name)
    loop.set_poll_params(10**12)
    polling = polling_of(loop.aio_context)
    n_while_waiting = []
    one, other = socket.socketpair()
    one.setblocking(False)

    async def receive():
        if how == "sock_recv":
            return await loop.sock_recv(one, 10)
        future = loop.create_future()
        loop.add_reader(one, future.set_result, None)
        await future
        loop.remove_reader(one)
        return one.recv(10)

    async def main():
        for _ in range(3):
            receiving = loop.create_task(receive())
            await asyncio.sleep(0)
            n_while_waiting.append(len(polling))
            other.send(b"x")
            assert await receiving == b"x"
            assert len(polling) == 0  # nothing waits: not polled for

    loop.run_until_complete(main())
    loop.close()
    one.close()
    other.close()
    assert n_while_waiting == [0, 1, 1]


def test_another_thread_is_noticed_while_polling_without_eventfd_or_system_call(ring_driver):
    loop = learned_loop("io_uring")
    numbers, counts = [], []

    def work():
        for _ in range(20):
            seen = threading.Event()
            loop.call_soon_threadsafe(seen.set)
            counts.append(eventfd_count(notifier_fd(loop.aio_context)))
            assert seen.wait(20)
            time.sleep(0.001)  # the loop is polling all the time
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=work)
    loop.call_soon(lambda: (numbers.append(loop.statistics()), thread.start()))
    loop.call_soon(loop.call_soon, lambda: numbers.append(loop.statistics()))
    loop.run_forever()
    numbers.append(loop.statistics())
    thread.join()
    loop.close()
    before, after = numbers[0], numbers[-1]
    assert after["poll_hits"] > before["poll_hits"]
    assert after["poll_misses"] == before["poll_misses"]
    assert after["wakeups"] == before["wakeups"]
    assert after["syscalls"] - before["syscalls"] <= 1  # run_forever makes one at its end
    assert counts == [0] * 20


@pytest.mark.parametrize("fdmon", ["epoll", "poll"])
def test_a_monitor_that_cannot_poll_sleeps_and_is_woken(fdmon):
    loop = learned_loop(fdmon)
    before = loop.statistics()
    thread = threading.Timer(0.05, loop.call_soon_threadsafe, [loop.stop])
    cpu_ns = time.thread_time_ns()
    thread.start()
    loop.run_forever()
    cpu_ns = time.thread_time_ns() - cpu_ns
    thread.join()
    after = loop.statistics()
    loop.close()
    assert after["poll_hits"] == 0
    assert after["wakeups"] == before["wakeups"] + 1
    assert cpu_ns < 25_000_000


def test_polling_ends_when_a_timer_is_due(real_fdmon_name):
    loop = learned_loop(real_fdmon_name)
    before = loop.statistics()
    for delay in (0.01, 0.0005):
        begun = loop.time()
        loop.call_later(delay, loop.stop)
        loop.run_forever()
        assert delay <= loop.time() - begun < 10
    after = loop.statistics()
    loop.close()
    assert after["wakeups"] == before["wakeups"]


@pytest.mark.needs_liburing
@pytest.mark.parametrize("how", ["soon", "later", "stop", "off", "raise"])
def test_signals_are_handled_while_polling(how):
    """Without a wake-up fd the loop's thread has to check for them."""
    run_script(
        f"""
        import signal
        from unit.fdmon.test_adaptive_polling import learned_loop

        class Alarm(Exception): pass

        def handler(number, frame):
            ran.append(number)
            if "{how}" == "soon":
                loop.call_soon(loop.stop)
            elif "{how}" == "later":
                loop.call_later(0.001, loop.stop)
            elif "{how}" == "stop":
                loop.stop()
            elif "{how}" == "off":
                loop.set_poll_params(0)
                loop.call_later(0.001, loop.stop)
            else:
                raise Alarm

        ran = []
        loop = learned_loop("io_uring")
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        begun = loop.time()
        try:
            loop.run_forever()
        except Alarm:
            ran.append("raised")
        assert loop.time() - begun < 10
        assert ran == [signal.SIGALRM, *(["raised"] if "{how}" == "raise" else [])], ran
        loop.close()
        """,
        seconds=20,
    )


def test_a_handlers_own_time_does_not_count(real_aio, fds):
    """The event occurred at once, however long its handler takes."""
    real_aio.aio_context.set_poll_params(5_000_000)
    fd = fds.readable()
    handler = handler_with(lambda *_: time.sleep(0.01), fd, select.POLLIN)
    real_aio.set_handler(None, handler)
    for _ in range(4):
        real_aio.poll(True)
        assert len(polling_of(real_aio.aio_context)) == 1
    real_aio.set_handler(handler, None)


# When it is enabled


def test_polling_is_off_by_default_and_can_be_enabled_with_one_cpu():
    """The measurements behind it: docs/decisions/0014."""
    run_script(
        """
        import uringloop
        from drivers.core import polling_of

        def limit(**environment):
            os.environ.update(environment)
            loop = uringloop.new_event_loop()
            polling = polling_of(loop.aio_context)
            loop.close()
            return None if polling is None else polling.max_ns

        assert limit() is None
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        assert limit() is None
        assert limit(URINGLOOP_POLL_MAX_NS="1000") == 1000
        assert limit(URINGLOOP_POLL_MAX_NS="0") is None
        loop = uringloop.new_event_loop()
        loop.set_poll_params(2000)
        assert polling_of(loop.aio_context).max_ns == 2000
        loop.close()
        """
    )

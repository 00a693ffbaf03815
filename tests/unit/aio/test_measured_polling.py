"""Polling that is on by default: it is kept while it costs no more CPU time than to sleep, and only then."""

import asyncio
import socket

import pytest
from drivers.core import ScriptedPolling, measured_polling_of, poll_always

import uringloop

WORK_NS = 8000


def run(polling, n, event_ns, sleep_ns, **more):
    """So many waits; returns (CPU time that they took, CPU time that they would have taken asleep)."""
    before_ns = polling.used_ns
    for _ in range(n):
        polling.wait(event_ns, sleep_ns, WORK_NS, **more)
    return polling.used_ns - before_ns, n * (sleep_ns + WORK_NS)


def test_it_polls_where_sleep_costs_more():
    polling = ScriptedPolling()
    used_ns, asleep_ns = run(polling, 20_000, event_ns=15_000, sleep_ns=30_000)
    assert polling.n_hits > 18_000
    assert used_ns < 0.7 * asleep_ns


def test_it_sleeps_where_sleep_costs_less():
    polling = ScriptedPolling()
    used_ns, asleep_ns = run(polling, 50_000, event_ns=15_000, sleep_ns=5_000)
    assert polling.phase_name != "poll"
    assert polling.n_tries > 1  # it may have changed
    assert used_ns < 1.02 * asleep_ns


def test_peers_at_their_own_pace_cost_nothing():
    polling = ScriptedPolling()
    used_ns, asleep_ns = run(polling, 20_000, event_ns=60_000, sleep_ns=20_000)
    assert polling.n_tries > 1
    assert used_ns < 1.02 * asleep_ns


def test_a_sleep_that_finds_more_data_costs_less_for_each_byte():
    """A message every 20 us: a loop that sleeps takes three at once."""
    polling = ScriptedPolling()
    used_ns = n_bytes = 0
    run(polling, 20_000, event_ns=12_000, sleep_ns=20_000, n_bytes=1024, n_bytes_slept=3072)
    used_ns, n_bytes = polling.used_ns, polling.n_received
    assert polling.phase_name != "poll"
    assert used_ns / n_bytes < 1.02 * (20_000 + WORK_NS) / 3072


def test_long_waits_are_not_tried():
    polling = ScriptedPolling()
    run(polling, 5_000, event_ns=1_000_000, sleep_ns=30_000)
    assert polling.n_tries == 0
    assert polling.n_misses == 0


def test_one_of_eight_waits_is_timed_while_nothing_is_tried():
    polling = ScriptedPolling()
    run(polling, 800, event_ns=1_000_000, sleep_ns=30_000)
    assert polling.n_counted == 100
    run(polling, 2_000, event_ns=15_000, sleep_ns=30_000)
    assert polling.phase_name == "poll"
    polling.n_counted = 0
    run(polling, 800, event_ns=15_000, sleep_ns=30_000)
    assert polling.n_counted == 800


def test_it_stops_when_the_peer_becomes_slow():
    polling = ScriptedPolling()
    run(polling, 2_000, event_ns=15_000, sleep_ns=30_000)
    assert polling.phase_name == "poll"
    n_misses = polling.n_misses
    used_ns, asleep_ns = run(polling, 2_000, event_ns=1_000_000, sleep_ns=30_000)
    assert polling.n_misses - n_misses < 10
    assert used_ns < 1.05 * asleep_ns


def test_it_stops_when_sleep_becomes_cheap():
    """What sleep costs is measured again from time to time."""
    polling = ScriptedPolling()
    run(polling, 5_000, event_ns=15_000, sleep_ns=30_000)
    assert polling.phase_name == "poll"
    run(polling, 60_000, event_ns=15_000, sleep_ns=2_000)
    used_ns, asleep_ns = run(polling, 20_000, event_ns=15_000, sleep_ns=2_000)
    assert used_ns < 1.05 * asleep_ns


def test_it_polls_again_when_sleep_becomes_dear():
    polling = ScriptedPolling()
    run(polling, 5_000, event_ns=15_000, sleep_ns=5_000)
    assert polling.phase_name != "poll"
    run(polling, 200_000, event_ns=15_000, sleep_ns=30_000)
    used_ns, asleep_ns = run(polling, 5_000, event_ns=15_000, sleep_ns=30_000)
    assert used_ns < 0.8 * asleep_ns


def test_a_thread_that_loses_its_cpu_gives_up():
    polling = ScriptedPolling()
    run(polling, 2_000, event_ns=15_000, sleep_ns=30_000)
    assert polling.phase_name == "poll"
    for _ in range(300):
        polling.wait(15_000, 30_000)
        polling.n_switches += 1
    assert polling.phase_name == "watch"


def test_without_a_clock_of_the_thread_it_never_polls():
    polling = ScriptedPolling()
    for _ in range(5_000):
        polling.wait(15_000, 30_000)
        polling.used_ns = -1
    assert polling.n_hits == 0


MEASURING = ("io_uring", "epoll")  # poll(2) looks at each fd


def test_loops_measure_by_default(real_fdmon_name):
    loop = uringloop.new_event_loop(fdmon=real_fdmon_name)
    try:
        assert (measured_polling_of(loop.aio_context) is not None) == (real_fdmon_name in MEASURING)
        loop.set_poll_params(0)
        assert measured_polling_of(loop.aio_context) is None
        loop.set_poll_params(None)
        assert (measured_polling_of(loop.aio_context) is not None) == (real_fdmon_name in MEASURING)
        loop.set_poll_params(1000)
        assert measured_polling_of(loop.aio_context) is None
    finally:
        loop.close()


@pytest.mark.parametrize(("value", "is_on"), [("", True), ("0", False), ("1000", False)])
def test_the_environment_may_switch_it_off(monkeypatch, value, is_on):
    monkeypatch.setenv("URINGLOOP_POLL_MAX_NS", value)
    loop = uringloop.new_event_loop()
    try:
        assert (measured_polling_of(loop.aio_context) is not None) == is_on
    finally:
        loop.close()


def test_a_context_alone_does_not_poll():
    """As in QEMU: its user decides."""
    with uringloop.AioContext() as context:
        assert measured_polling_of(context) is None


def test_what_polling_finds_is_delivered(real_fdmon_name):
    """Data, callbacks of other threads and timers, in waits that poll first."""
    loop = uringloop.new_event_loop(fdmon=real_fdmon_name)
    if real_fdmon_name in MEASURING:
        poll_always(loop.aio_context, 20_000_000)
    ours, theirs = socket.socketpair()

    async def main():
        reader, writer = await asyncio.open_connection(sock=ours)
        loop.call_soon(theirs.send, b"1")
        assert await reader.read(9) == b"1"
        done = loop.create_future()
        loop.call_later(0.001, done.set_result, None)
        await done
        assert await loop.run_in_executor(None, lambda: 5) == 5
        writer.write(b"2")
        theirs.settimeout(30)
        assert await asyncio.to_thread(theirs.recv, 9) == b"2"
        writer.close()

    loop.run_until_complete(main())
    theirs.close()
    if real_fdmon_name in MEASURING:
        assert loop.statistics().poll_hits > 0
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()

"""The notifier: its protocol step by step, and no wake-up lost among many threads."""

import gc
import os
import select
import sys
import threading

import pytest
from drivers.core import NotifierDriver


@pytest.fixture
def notifier():
    driver = NotifierDriver()
    yield driver
    driver.close()


def is_written(notifier):
    return bool(select.select([notifier.fd], [], [], 0)[0])


def test_notifying_a_loop_that_is_awake_writes_nothing(notifier):
    for _ in range(3):
        notifier.notify()
    assert not is_written(notifier)
    assert notifier.notified


def test_notifying_a_loop_that_may_sleep_writes_to_the_eventfd(notifier):
    assert notifier.begin_wait()
    assert not is_written(notifier)
    notifier.notify()
    assert is_written(notifier)


def test_loop_does_not_sleep_after_an_earlier_notify(notifier):
    notifier.notify()
    assert not notifier.begin_wait()
    notifier.end_wait()
    assert notifier.begin_wait()


def test_end_wait_clears_an_earlier_notify(notifier):
    notifier.notify()
    notifier.end_wait()
    assert not notifier.notified
    assert notifier.begin_wait()


def test_notify_between_two_waits_keeps_the_second_from_sleeping(notifier):
    assert notifier.begin_wait()
    notifier.end_wait()
    notifier.notify()
    assert not is_written(notifier)
    assert not notifier.begin_wait()


def test_the_handler_reads_an_eventfd_that_was_written_in_an_ended_wait(notifier):
    assert notifier.begin_wait()
    notifier.notify()
    notifier.notify()
    notifier.end_wait()
    assert is_written(notifier)
    notifier.on_ready()
    assert not is_written(notifier)
    assert notifier.n_wakeups == 1
    assert notifier.begin_wait()


def test_spurious_wake_up_is_harmless(notifier):
    notifier.on_ready()
    assert notifier.begin_wait()
    notifier.notify()
    assert is_written(notifier)


def test_full_counter_is_not_an_error(notifier):
    os.eventfd_write(notifier.fd, 2**64 - 2)
    assert notifier.begin_wait()
    notifier.notify()
    assert is_written(notifier)
    notifier.on_ready()
    assert not is_written(notifier)


def test_fd_is_not_inherited_and_does_not_block(notifier):
    assert not os.get_inheritable(notifier.fd)
    assert not os.get_blocking(notifier.fd)


def test_close_is_idempotent():
    notifier = NotifierDriver()
    fd = notifier.fd
    notifier.close()
    notifier.close()
    assert notifier.fd == -1
    with pytest.raises(OSError):
        os.fstat(fd)


def test_collected_notifier_closes_its_fd():
    notifier = NotifierDriver()
    fd = notifier.fd
    del notifier
    gc.collect()
    with pytest.raises(OSError):
        os.fstat(fd)


def test_nested_waits_leave_nothing_behind(notifier):
    """The inner turn of a callback starts and ends waits of its own, between those of the outer one."""
    assert notifier.begin_wait()
    notifier.end_wait()
    assert notifier.begin_wait()
    notifier.notify()
    notifier.end_wait()
    assert not notifier.notify_me
    notifier.notify()
    assert not notifier.begin_wait()


@pytest.mark.parametrize("threads", [1, 8])
def test_no_wake_up_is_lost_among_many_threads(loop, threads):
    """Each thread schedules only after its last callback has run, so that the loop keeps falling asleep."""
    each = 300
    ran = [0] * threads
    finished = 0

    def finish():
        nonlocal finished
        finished += 1
        if finished == threads:
            loop.stop()

    def publish(number):
        for count in range(each):
            done = threading.Event()
            loop.call_soon_threadsafe(run, number, done)
            assert done.wait(20), f"thread {number}: callback {count} was lost"
        loop.call_soon_threadsafe(finish)

    def run(number, done):
        ran[number] += 1
        done.set()

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    workers = [threading.Thread(target=publish, args=(number,)) for number in range(threads)]
    try:
        for worker in workers:
            worker.start()
        loop.run_forever()
    finally:
        sys.setswitchinterval(before)
        for worker in workers:
            worker.join()
    assert ran == [each] * threads


def test_every_callback_of_eight_flooding_threads_arrives_in_order(loop):
    each = 1000
    arrived = [[] for _ in range(8)]
    missing = 8 * each

    def arrive(number, count):
        nonlocal missing
        arrived[number].append(count)
        missing -= 1
        if not missing:
            loop.stop()

    def flood(number):
        for count in range(each):
            loop.call_soon_threadsafe(arrive, number, count)

    workers = [threading.Thread(target=flood, args=(number,)) for number in range(8)]
    for worker in workers:
        worker.start()
    loop.run_forever()
    for worker in workers:
        worker.join()
    assert arrived == [list(range(each))] * 8


def test_busy_loop_is_notified_without_system_calls(loop):
    """With notify_me 0 nothing is written to the eventfd."""
    before = loop.statistics()["wakeups"]
    count = 0

    def again():
        nonlocal count
        count += 1
        if count == 200:
            loop.stop()
        else:
            loop.call_soon_threadsafe(again)

    loop.call_soon(again)
    loop.run_forever()
    assert loop.statistics()["wakeups"] == before

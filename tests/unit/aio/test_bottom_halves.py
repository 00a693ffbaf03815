"""Bottom halves of uringloop.AioContext: QEMU's bh/* tests by name, and bottom halves in threads."""

import gc
import inspect
import itertools
import logging
import random
import threading
import weakref

import pytest
from support.context_tools import Counter, settle

import uringloop


def test_a_bottom_half_runs_once_in_the_next_turn(context):
    """bh/schedule, bh/flush"""
    settle(context)
    ran = Counter()
    bottom_half = context.new_bottom_half(ran)
    bottom_half.schedule()
    bottom_half.schedule()
    assert ran.n == 0
    assert bottom_half.scheduled
    assert context.poll(True)
    assert ran.n == 1
    assert not context.poll(False)
    assert ran.n == 1


def test_a_bottom_half_that_schedules_itself_runs_once_in_each_turn(context):
    """bh/schedule10"""
    runs = []

    def again():
        runs.append(True)
        if len(runs) < 10:
            bottom_half.schedule()

    bottom_half = context.new_bottom_half(again)
    bottom_half.schedule()
    for count in range(1, 11):
        assert context.poll(True)
        assert len(runs) == count
    assert not context.poll(False)


def test_a_cancelled_bottom_half_does_not_run_and_makes_no_progress(context):
    """bh/cancel"""
    settle(context)
    ran = Counter()
    bottom_half = context.new_bottom_half(ran)
    bottom_half.schedule()
    bottom_half.cancel()
    assert not bottom_half.scheduled
    assert not context.poll(False)
    bottom_half.schedule()
    bottom_half.cancel()
    bottom_half.schedule()
    assert context.poll(True)
    assert ran.n == 1
    assert not context.poll(False)


def test_a_deleted_bottom_half_does_not_run_and_makes_no_progress(context):
    """bh/delete"""
    settle(context)
    ran = Counter()
    bottom_half = context.new_bottom_half(ran)
    bottom_half.schedule()
    bottom_half.delete()
    bottom_half.delete()
    assert not context.poll(False)
    assert ran.n == 0
    with pytest.raises(RuntimeError, match="deleted"):
        bottom_half.schedule()


def test_a_bottom_half_may_delete_itself_in_its_callback(context):
    """bh/callback-delete/one"""
    ran = []

    def end(argument):
        bottom_half.delete()
        ran.append(argument)

    bottom_half = context.new_bottom_half(end, "argument")
    bottom_half.schedule()
    assert context.poll(True)
    assert ran == ["argument"]
    assert not context.poll(False)


def test_bottom_halves_may_delete_themselves_after_different_numbers_of_runs(context):
    """bh/callback-delete/many"""
    lives = [1, 3, 2, 4]
    runs = [0] * 4
    halves = []

    def run(number):
        runs[number] += 1
        if runs[number] == lives[number]:
            halves[number].delete()
        else:
            halves[number].schedule()

    halves = [context.new_bottom_half(run, number) for number in range(4)]
    for half in halves:
        half.schedule()
    assert context.poll(False)
    assert runs == [1, 1, 1, 1]
    settle(context)
    assert runs == lives


def test_bottom_halves_run_first_in_first_out(context):
    """Unlike QEMU's, which run last in, first out."""
    order = []
    for number in range(100):
        context.schedule_one_shot(order.append, number)
    assert context.poll(False)
    assert order == list(range(100))


def test_a_one_shot_is_deleted_after_its_run(context):
    class Owner:
        def run(self):
            self.bottom_half = None

    owner = Owner()
    gone = weakref.ref(owner)
    bottom_half = context.schedule_one_shot(owner.run)
    assert context.poll(True)
    assert bottom_half.deleted
    with pytest.raises(RuntimeError, match="deleted"):
        bottom_half.schedule()
    del owner
    gc.collect()
    assert gone() is None


def test_an_idle_bottom_half_limits_the_wait_and_makes_no_progress(context):
    settle(context)
    ran = []

    def again():
        ran.append(context.time_ns())
        if len(ran) < 4:
            bottom_half.schedule_idle()

    bottom_half = context.new_bottom_half(again)
    started_ns = context.time_ns()
    bottom_half.schedule_idle()
    for count in range(1, 5):
        while len(ran) < count:
            assert not context.poll(True)
    assert not context.poll(False)
    assert ran[1] - ran[0] > 2_000_000, "an idle bottom half does not spin"
    assert all(later - earlier < 1_000_000_000 for earlier, later in itertools.pairwise([started_ns, *ran]))


def test_an_idle_bottom_half_runs_in_a_turn_that_does_not_block(context):
    settle(context)
    ran = Counter()
    bottom_half = context.new_bottom_half(ran)
    bottom_half.schedule_idle()
    assert not context.poll(False)
    assert ran.n == 1
    bottom_half.schedule_idle()
    bottom_half.cancel()
    assert not context.poll(False)
    assert ran.n == 1
    bottom_half.schedule_idle()
    bottom_half.schedule()  # no longer idle: progress
    assert context.poll(True)
    assert not context.poll(False)
    assert ran.n == 2


def test_a_nested_turn_runs_the_bottom_halves_that_the_outer_one_has_left(context):
    order = []

    def nested():
        order.append("outer")
        assert context.poll(True)
        order.append("end")

    context.schedule_one_shot(nested)
    context.schedule_one_shot(order.append, "inner")
    assert context.poll(True)
    assert order == ["outer", "inner", "end"]
    assert not context.poll(False)


def test_a_nested_turn_may_run_the_bottom_half_below_it_again(context):
    """It has one contextvars context, which is already entered."""
    depths = []

    def again():
        depths.append(len(depths))
        if len(depths) < 5:
            bottom_half.schedule()
            assert context.poll(True)
        depths.append("end")

    bottom_half = context.new_bottom_half(again)
    bottom_half.schedule()
    assert context.poll(True)
    assert depths == [0, 1, 2, 3, 4] + 5 * ["end"]
    assert not context.poll(False)


def test_a_bottom_half_that_fails_is_logged_and_others_run(context, caplog):
    ran = Counter()
    context.schedule_one_shot(lambda: 1 / 0)
    context.schedule_one_shot(ran)
    with caplog.at_level(logging.ERROR, logger="uringloop"):
        assert context.poll(True)
    assert ran.n == 1
    assert [type(record.exc_info[1]) for record in caplog.records] == [ZeroDivisionError]


def test_exceptions_in_a_loops_bottom_halves_are_reported_to_the_loop(real_fdmon_name):
    loop = uringloop.new_event_loop(fdmon=real_fdmon_name)
    errors = []
    loop.set_exception_handler(lambda _, details: errors.append(type(details["exception"])))
    loop.aio_context.schedule_one_shot(lambda: 1 / 0)
    loop.aio_context.schedule_one_shot(loop.stop)
    loop.run_forever()
    loop.close()
    assert errors == [ZeroDivisionError]


def test_bottom_halves_are_scheduled_cancelled_and_deleted_by_threads(context):
    counts = [0] * 4
    halves = []

    def run(number):
        counts[number] += 1

    halves = [context.new_bottom_half(run, number) for number in range(4)]
    done = []

    def storm(seed):
        chooser = random.Random(seed)
        for _ in range(2000):
            half = chooser.choice(halves)
            chooser.choice([half.schedule, half.schedule, half.schedule_idle, half.cancel])()
        done.append(seed)
        context.notify()

    threads = [threading.Thread(target=storm, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    while len(done) < 4:
        context.poll(True)
    for thread in threads:
        thread.join()
    settle(context)
    for half in halves:
        half.schedule()
    before = counts[:]
    context.poll(True)
    assert counts == [count + 1 for count in before]


def test_bottom_halves_that_wake_each_other_do_not_grow_the_stack(context):
    """coroutine/queue-chaining"""
    depths, count, most = set(), 0, 25_000
    halves = []

    def run(number):
        nonlocal count
        count += 1
        if count % 1000 == 0:
            depths.add(len(inspect.stack(0)))
        if count < most:
            halves[1 - number].schedule()

    halves = [context.new_bottom_half(run, number) for number in range(2)]
    halves[0].schedule()
    while count < most:
        assert context.poll(True)
    assert not context.poll(False)
    assert len(depths) == 1


def test_a_bottom_half_scheduled_by_a_worker_runs_in_the_contexts_thread(context):
    """coroutine/worker-thread-co-enter"""
    settle(context)
    ran = []
    half = context.new_bottom_half(lambda: ran.append(threading.get_ident()))
    worker = threading.Thread(target=half.schedule)
    worker.start()
    worker.join()
    assert context.poll(True)
    assert ran == [threading.get_ident()]
    assert not context.poll(False)


@pytest.mark.parametrize("polls", [False, True])
def test_eight_threads_that_schedule_one_bottom_half_lose_no_run(context, polls):
    """Each schedule() is followed by a run, whether the context sleeps, polls, or is in a nested turn."""
    if polls:
        context.set_poll_params(1_000_000)
    ended, runs = [], []

    def run():
        runs.append(len(ended))
        if len(runs) % 50 == 0:
            context.poll(False)

    half = context.new_bottom_half(run)

    def work():
        for _ in range(500):
            half.schedule()
        ended.append(True)
        half.schedule()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    while not runs or runs[-1] < 8:
        context.poll(True)  # would hang if a wake-up was lost
    for thread in threads:
        thread.join()

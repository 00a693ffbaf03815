"""gc_policy(): when garbage is collected, what is postponed, and what is as before afterwards."""

import asyncio
import contextlib
import gc
import socket
import subprocess
import sys
import sysconfig
import textwrap
import time

import pytest

import uringloop

pytestmark = pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="refused on a free-threaded Python"
)

YOUNG = 1000  # above the threshold that the fixture sets
NEVER_BOUND = 1_000_000


class Runs:
    """A loop, the collections that begin, and an fd that ends a wait without a timer."""

    def __init__(self, fdmon):
        self.loop = uringloop.new_event_loop(fdmon=fdmon)
        self.near, self.far = socket.socketpair()
        self.loop.add_reader(self.near, self.stop)
        self.begun = []  # (generation, was in a callback)
        self.is_working = False
        self.kept = []

    def stop(self):
        self.near.recv(1)
        self.loop.stop()

    def __call__(self, phase, info):
        if phase == "start":
            self.begun.append((info["generation"], self.is_working))

    def work(self, n):
        """A callback that makes n objects, which stay."""
        self.is_working = True
        self.kept.append([[] for _ in range(n)])
        self.is_working = False

    def run(self, n=0):
        """One turn with such a callback, and one that waits, for which the loop does not know that it will be short."""
        if n:
            self.loop.call_soon(self.work, n)
            self.loop.call_soon(self.far.send, b"x")  # not before: the first turn takes what is there
        else:
            self.far.send(b"x")
        self.loop.run_forever()

    def close(self):
        self.loop.remove_reader(self.near)
        self.loop.close()
        self.near.close()
        self.far.close()


@pytest.fixture
def runs(real_fdmon_name):
    thresholds, is_enabled = gc.get_threshold(), gc.isenabled()
    made = Runs(real_fdmon_name)
    made.run()
    gc.set_threshold(700, 10, 10)
    gc.collect()
    gc.callbacks.append(made)
    yield made
    gc.callbacks.remove(made)
    made.close()
    assert gc.get_threshold() == (700, 10, gc.get_threshold()[2])
    assert gc.get_threshold()[2] in (10, 0)
    gc.set_threshold(*thresholds)
    assert gc.isenabled() == is_enabled


def has_increments():
    return gc.get_threshold()[2] == 0


def test_young_objects_are_collected_before_a_wait(runs):
    with uringloop.gc_policy(runs.loop, freeze=False, bound=NEVER_BOUND) as policy:
        runs.run(YOUNG)
        assert runs.begun == [(1 if has_increments() else 0, False)]
        runs.run(10)  # not enough
        assert len(runs.begun) == 1
    statistics = policy.statistics()
    assert sum(statistics.idle.collections) == 1
    assert statistics.idle.total_s >= statistics.idle.longest_s > 0
    assert statistics.work.collections == statistics.requested.collections == (0, 0, 0)


def test_without_a_policy_the_same_work_is_interrupted(runs):
    runs.run(YOUNG)
    assert [in_work for _, in_work in runs.begun] == [True]


def test_work_is_interrupted_at_the_bound(runs):
    with uringloop.gc_policy(runs.loop, freeze=False, bound=5 * YOUNG) as policy:
        runs.run(4 * YOUNG)
        assert [in_work for _, in_work in runs.begun] == [False]
        runs.run(6 * YOUNG)
        assert [in_work for _, in_work in runs.begun][1] is True
    assert sum(policy.statistics().work.collections) == 1


def test_a_loop_that_never_waits_is_interrupted_at_the_bound(runs):
    """Each turn has a callback for the next."""
    n_left = 12

    def again():
        nonlocal n_left
        runs.work(YOUNG)
        n_left -= 1
        runs.loop.call_soon(again if n_left else runs.loop.stop)

    with uringloop.gc_policy(runs.loop, freeze=False, bound=5 * YOUNG) as policy:
        runs.loop.call_soon(again)
        runs.loop.run_forever()
        assert [in_work for _, in_work in runs.begun] == [True, True]
    assert policy.statistics().idle.collections == (0, 0, 0)


@pytest.mark.skipif(has_increments(), reason="this Python has no middle generation")
def test_the_middle_generation_is_collected_when_it_is_due(runs):
    with uringloop.gc_policy(runs.loop, freeze=False, bound=NEVER_BOUND):
        for _ in range(12):
            runs.run(YOUNG)
    assert runs.begun == [(0, False)] * 11 + [(1, False)]


@pytest.mark.skipif(has_increments(), reason="this Python collects old objects in pieces")
def test_a_full_collection_comes_before_a_wait_when_objects_have_grown(runs):
    with uringloop.gc_policy(runs.loop, freeze=False, bound=NEVER_BOUND) as policy:
        limit = max(len(gc.get_objects()) // 4, 25_000)
        while len(runs.kept) * YOUNG < 0.9 * limit:
            runs.run(YOUNG)
        assert 2 not in [generation for generation, _ in runs.begun]
        # Beyond twice the limit it waits for no quiet moment.  After the first, time decides when the next is due.
        while policy.statistics().idle.collections[2] == 0 and len(runs.kept) * YOUNG < 2.2 * limit:
            runs.run(YOUNG)
        assert [begun for begun in runs.begun if begun[0] == 2] == [(2, False)]
        assert policy.statistics().idle.collections[2] == 1


@pytest.mark.skipif(has_increments(), reason="this Python collects old objects in pieces")
def test_a_full_collection_that_would_delay_a_timer_is_postponed_until_it_is_overdue(runs):
    heap = [[] for _ in range(150_000)]
    gc.collect()
    with uringloop.gc_policy(runs.loop, freeze=False, bound=NEVER_BOUND) as policy:
        limit = len(gc.get_objects()) // 4
        while policy.statistics().idle.collections[2] == 0 and len(runs.kept) * YOUNG < 3 * limit:
            timer = runs.loop.call_later(0.02, print)  # as many objects are expected to take 30 ms at least
            runs.run(YOUNG)
            timer.cancel()
        assert policy.statistics().idle.collections[2] == 1
        assert policy.statistics().postponed > 10
        assert 1.8 * limit < len(runs.kept) * YOUNG < 2.4 * limit
    assert len(heap) == 150_000


@pytest.mark.skipif(has_increments(), reason="this Python collects old objects in pieces")
def test_python_may_make_a_full_collection_only_when_it_is_overdue(runs):
    with uringloop.gc_policy(runs.loop, freeze=False, bound=YOUNG):
        limit = max(len(gc.get_objects()) // 4, 25_000)
        never = gc.get_threshold()[2]
        assert never > 10_000
        runs.loop.call_soon(runs.work, int(1.5 * limit))
        runs.loop.call_soon(runs.loop.stop)
        runs.loop.run_forever()
        assert 2 not in [generation for generation, _ in runs.begun]
        assert gc.get_threshold()[2] == never
        runs.work(int(0.8 * limit))
        assert gc.get_threshold()[2] == 10 or (2, True) in runs.begun


class Slow:
    """Garbage in a circle whose finalizer takes long, or does something."""

    def __init__(self, act):
        self.own = self
        self.act = act

    def __del__(self):
        self.act()


def test_a_collection_that_would_delay_a_timer_is_postponed(runs):
    with uringloop.gc_policy(runs.loop, freeze=False, bound=NEVER_BOUND) as policy:
        for _ in range(2):
            Slow(lambda: time.sleep(0.05))
        runs.run(YOUNG)
        assert len(runs.begun) == 1  # from now on it is expected to take that long
        timer = runs.loop.call_later(0.08, print)
        runs.run(YOUNG)
        assert policy.statistics().postponed >= 1
        assert len(runs.begun) == 1
        timer.cancel()
        runs.run()
        assert len(runs.begun) == 2


@pytest.mark.parametrize("act", ["schedules", "stops", "sets a timer"])
def test_the_loop_does_not_sleep_on_what_a_finalizer_does(runs, act):
    does = {
        "schedules": lambda: runs.loop.call_soon(runs.loop.stop),
        "stops": runs.loop.stop,
        "sets a timer": lambda: runs.loop.call_later(0, runs.loop.stop),
    }
    with uringloop.gc_policy(runs.loop, freeze=False, bound=NEVER_BOUND):
        Slow(does[act])
        runs.loop.call_soon(runs.work, YOUNG)
        runs.loop.run_forever()  # for ever, if that is missed
        assert len(runs.begun) == 1


def test_a_finalizer_may_run_the_loop_nested(runs):
    async def twice():
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        runs.kept.append("nested")

    with uringloop.gc_policy(runs.loop, freeze=False, bound=NEVER_BOUND):
        Slow(lambda: runs.loop.run_nested(twice()))
        runs.run(YOUNG)
        assert "nested" in runs.kept


def test_a_finalizer_may_close_the_policy(runs):
    with uringloop.gc_policy(runs.loop, freeze=False, bound=NEVER_BOUND) as policy:
        Slow(policy.close)
        runs.run(YOUNG)
        assert policy.is_closed
        assert gc.get_threshold()[0] == 700


def test_nothing_is_collected_while_other_code_has_switched_it_off(runs):
    with uringloop.gc_policy(runs.loop, freeze=False, bound=NEVER_BOUND):
        gc.disable()
        runs.run(YOUNG)
        assert runs.begun == []
        gc.enable()
        runs.run()
        assert len(runs.begun) == 1


def test_collections_of_other_code_are_counted_as_work(runs):
    with uringloop.gc_policy(runs.loop, freeze=False) as policy:
        runs.loop.call_soon(gc.collect)
        runs.run()
        assert policy.statistics().work.collections == (0, 0, 1)


@pytest.mark.parametrize("end", ["close", "with the loop"])
def test_what_was_found_is_restored(runs, end):
    gc.disable()
    n_callbacks = len(gc.callbacks)
    try:
        policy = uringloop.gc_policy(runs.loop, freeze=False)
        assert gc.isenabled()
        assert gc.get_threshold()[0] == 20 * 700
        (policy if end == "close" else runs.loop).close()
        assert policy.is_closed
        assert (gc.isenabled(), gc.get_threshold()[:2], len(gc.callbacks)) == (False, (700, 10), n_callbacks)
        policy.close()
        with pytest.raises(RuntimeError, match="closed"):
            policy.freeze()
    finally:
        gc.enable()


def test_thresholds_of_other_code_stay(runs):
    with uringloop.gc_policy(runs.loop, freeze=False):
        gc.set_threshold(800, 10, 10)
        runs.run(YOUNG)
    assert gc.get_threshold()[0] == 800
    gc.set_threshold(700, 10, 10)


def test_it_is_refused(runs):
    with uringloop.gc_policy(runs.loop, freeze=False):
        with pytest.raises(RuntimeError, match="already"):
            uringloop.gc_policy(runs.loop)
    with pytest.raises(ValueError, match="bound"):
        uringloop.gc_policy(runs.loop, bound=0)
    with pytest.raises(RuntimeError, match="no running"):
        uringloop.gc_policy()
    with (
        contextlib.closing(asyncio.SelectorEventLoop()) as stock,
        pytest.raises(TypeError, match="uringloop"),
    ):
        uringloop.gc_policy(stock)
    closed = uringloop.new_event_loop(fdmon="poll")
    closed.close()
    with pytest.raises(RuntimeError, match="closed"):
        uringloop.gc_policy(closed)
    uringloop.gc_policy(runs.loop, freeze=False).close()  # what was refused has left nothing


def script(source, fdmon):
    """In a process of its own, which has nothing frozen."""
    source = (
        f"import gc, os, uringloop\nloop = uringloop.new_event_loop(fdmon={fdmon!r})\n"
        + textwrap.dedent(source)
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", source],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr


def test_what_is_alive_is_frozen_until_the_end(real_fdmon_name):
    script(
        """
        before = gc.get_freeze_count()  # some versions freeze a little at their start
        policy = uringloop.gc_policy(loop)
        frozen = gc.get_freeze_count()
        assert frozen > before + 1000
        assert policy.statistics().requested.collections == (0, 0, 1)
        assert policy.statistics().requested.longest_s > 0
        more = [[] for _ in range(1000)]
        policy.freeze()
        assert gc.get_freeze_count() > frozen + 900
        policy.close()
        assert gc.get_freeze_count() <= before < 1000
        """,
        real_fdmon_name,
    )


def test_what_was_frozen_before_stays_frozen(real_fdmon_name):
    script(
        """
        gc.freeze()
        uringloop.gc_policy(loop).close()
        assert gc.get_freeze_count() > 1000
        """,
        real_fdmon_name,
    )


def test_a_fork_child_begins_without_a_policy(real_fdmon_name):
    script(
        """
        found = gc.get_threshold()
        policy = uringloop.gc_policy(loop)
        pid = os.fork()
        if not pid:
            right = policy.is_closed and gc.get_threshold() == found and gc.get_freeze_count() > 1000
            inner = uringloop.new_event_loop()
            with uringloop.gc_policy(inner, freeze=False) as second:
                right = right and not second.is_closed
            inner.close()
            os._exit(0 if right else 1)
        assert os.waitpid(pid, 0)[1] == 0
        assert not policy.is_closed
        loop.close()
        assert policy.is_closed
        """,
        real_fdmon_name,
    )


def test_a_loop_that_is_forgotten_ends_its_policy(real_fdmon_name):
    script(
        """
        found = gc.get_threshold()
        policy = uringloop.gc_policy(loop, freeze=False)
        del loop
        gc.collect()
        assert policy.is_closed and gc.get_threshold() == found
        """,
        real_fdmon_name,
    )

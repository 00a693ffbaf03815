"""uringloop.AioContext without asyncio: what QEMU's tests check (test-aio.c, test-aio-multithread.c), with their names.

Bottom halves are in test_bottom_halves.py, and the same checks on the turn itself in test_qemu_aio.py. QEMU's legacy
lock (the second half of `acquire`), the stacks of its coroutines and the CoMutex tests of test-aio-multithread.c
(multi/mutex/*) have no counterpart here. `external-client` has been removed from QEMU, too.
"""

import gc
import os
import random
import select
import signal
import socket
import threading
import time
import weakref

import pytest
from drivers.core import notifier_fd
from support.context_tools import Counter, settle
from support.helpers import LINUX, is_asleep, run_script, wait_until

import uringloop

# Events


def test_an_idle_handler_is_added_and_removed_without_a_call(context, new_notifier):
    """event/add-remove"""
    notifier = new_notifier()
    ran = Counter(notifier)
    context.set_event_notifier(notifier, ran)
    settle(context)
    assert not context.poll(False)
    context.set_event_notifier(notifier)
    settle(context)
    assert ran.n == 0


def test_an_event_is_reported_once_and_not_after_its_removal(context, new_notifier):
    """event/wait"""
    notifier = new_notifier()
    ran = Counter(notifier)
    context.set_event_notifier(notifier, ran)
    settle(context)
    notifier.set()
    assert context.poll(False)
    assert ran.n == 1
    assert not context.poll(False)
    context.set_event_notifier(notifier)
    notifier.set()
    settle(context)
    assert ran.n == 1


def test_only_the_notifier_that_was_set_fires(context, new_notifier):
    """event/wait/no-flush-cb"""
    first, second = new_notifier(), new_notifier()
    counters = Counter(first), Counter(second)
    for notifier, counter in zip((first, second), counters, strict=True):
        context.set_event_notifier(notifier, counter)
    first.set()
    while not counters[0].n:
        context.poll(True)
    assert [counter.n for counter in counters] == [1, 0]
    second.set()
    while not counters[1].n:
        context.poll(True)
    assert [counter.n for counter in counters] == [1, 1]


def test_a_handler_that_sets_its_own_event_runs_in_each_next_turn(context, new_notifier):
    """event/flush"""
    notifier = new_notifier()
    ran = Counter(notifier, active=10)
    context.set_event_notifier(notifier, ran)
    settle(context)
    notifier.set()
    for count in range(1, 11):
        assert context.poll(False)
        assert ran.n == count
    assert not context.poll(False)


def test_readable_and_writable_have_separate_callbacks(context):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        reads, writes = Counter(), Counter()
        context.set_fd_handler(ours.fileno(), reads, writes)
        while not writes.n:
            context.poll(True)
        assert reads.n == 0
        context.set_fd_handler(ours.fileno(), lambda: reads() or ours.recv(10))
        writes.n = 0
        theirs.send(b"1")
        while not reads.n:
            context.poll(True)
        assert (reads.n, writes.n) == (1, 0)
        context.set_fd_handler(ours.fileno())
        assert context.statistics()["handlers"] == 1  # the notifier


def test_a_reader_that_removes_its_fd_keeps_the_writer_from_running(context):
    """1.7: deletion is checked between the two callbacks."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"1")
        writes = Counter()
        context.set_fd_handler(ours.fileno(), lambda: context.set_fd_handler(ours.fileno()), writes)
        for _ in range(4):
            context.poll(False)
        assert writes.n == 0


def test_a_hang_up_reaches_the_writer_without_a_reader(context):
    reading, writing = os.pipe()
    done = []
    context.set_fd_handler(writing, None, lambda: done.append(context.set_fd_handler(writing)))
    os.close(reading)
    while not done:
        context.poll(True)
    os.close(writing)
    assert len(done) == 1


def test_files_that_cannot_be_watched_are_refused(context, tmp_path):
    with open(tmp_path / "regular", "w") as file, pytest.raises(PermissionError):
        context.set_fd_handler(file.fileno(), print)
    with pytest.raises(OSError, match="Bad file"):
        context.set_fd_handler(9999, print)
    with pytest.raises(ValueError, match="add_poll_handler"):
        context.set_fd_handler(0, io_poll=bool, io_poll_ready=print)
    with pytest.raises(ValueError, match="watched by a loop"):
        context.set_fd_handler(notifier_fd(context), print)
    context.set_fd_handler(9999)  # nothing to remove


@pytest.mark.parametrize("n_turns", [0, 2])
def test_a_handler_whose_replacement_is_refused_is_removed(context, n_turns):
    """The fd was closed first: the old handler is not kept, and a later file with that number starts clean."""
    called = []
    reading, writing = os.pipe()
    context.set_fd_handler(reading, lambda: called.append("old"), print)
    context.poll(False)
    os.close(reading)
    for _ in range(n_turns):
        context.poll(False)
    with pytest.raises(OSError, match="Bad file"):
        context.set_fd_handler(reading, lambda: called.append("changed"))
    again, other = os.pipe()
    assert again == reading
    os.write(other, b"x")
    context.poll(False)
    assert called == []
    context.set_fd_handler(again, lambda: called.append("new"))
    context.poll(True)
    assert called == ["new"]
    context.set_fd_handler(again)
    for fd in (writing, again, other):
        os.close(fd)


def test_test_and_clear_returns_whether_a_notifier_was_set(new_notifier):
    notifier = new_notifier()
    assert not notifier.test_and_clear()
    notifier.set()
    notifier.set()
    assert notifier.test_and_clear()
    assert not notifier.test_and_clear()
    os.eventfd_write(notifier.fileno(), 2**64 - 2)
    notifier.set()
    assert notifier.test_and_clear()
    notifier.close()
    assert notifier.fileno() == -1


# Timers


def test_a_timer_runs_once_on_time_and_can_arm_itself_again(context):
    """timer/schedule"""
    runs = []

    def run():
        runs.append(context.time_ns())
        if len(runs) == 1:
            context.call_at_ns(due_ns + 60_000_000, run)

    settle(context)
    due_ns = context.time_ns() + 30_000_000
    context.call_at_ns(due_ns, run)
    assert not context.poll(False)
    assert runs == []
    wait_until(lambda: context.time_ns() >= due_ns)
    assert context.poll(False)
    assert len(runs) == 1
    while len(runs) < 2:
        context.poll(True)
    assert runs[1] >= due_ns + 60_000_000
    assert not context.poll(False)


def test_a_timer_of_less_than_a_millisecond_is_precise(context):
    if context.fdmon == "epoll" and LINUX < (5, 11):
        pytest.skip("epoll_pwait2 needs Linux 5.11")
    late = []
    for _ in range(20):
        due_ns = context.time_ns() + 300_000
        timer = context.call_at_ns(due_ns, lambda due_ns=due_ns: late.append(context.time_ns() - due_ns))
        count = len(late)
        while len(late) == count:
            context.poll(True)
        timer.cancel()
    assert min(late) >= 0
    assert sorted(late)[2] < 700_000, "rounded up to whole milliseconds, or slept too long"


def test_a_cancelled_timer_does_not_run(context):
    ran = Counter()
    context.call_at_ns(1, ran).cancel()
    assert not context.poll(False)
    assert ran.n == 0


# Threads


def test_a_blocking_turn_is_ended_by_notify_from_another_thread(context):
    """acquire, flush: notify() does not count as progress."""
    settle(context)
    for _ in range(20):
        thread = threading.Timer(0.001, context.notify)
        thread.start()
        assert not context.poll(True)
        thread.join()


def test_a_blocking_turn_is_ended_by_an_event_that_another_thread_sets(context, new_notifier):
    """acquire"""
    notifier = new_notifier()
    ran = Counter(notifier)
    context.set_event_notifier(notifier, ran)
    settle(context)
    for count in range(1, 20):
        thread = threading.Timer(0.001, notifier.set)
        thread.start()
        assert context.poll(True)
        assert ran.n == count
        thread.join()


def test_contexts_in_several_threads_each_run_a_bottom_half(new_context):
    """multi/lifecycle"""
    contexts = [new_context() for _ in range(5)]
    ran = []
    all_ran = threading.Barrier(5)  # the identifier of a thread that has ended is reused

    def run(context):
        context.schedule_one_shot(lambda: ran.append(threading.get_ident()))
        assert context.poll(True)
        all_ran.wait(10)

    threads = [threading.Thread(target=run, args=(context,)) for context in contexts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ran) == sorted(set(ran))
    assert len(ran) == 5


def test_bottom_halves_that_hop_between_contexts_are_never_lost(new_context):
    """multi/schedule"""
    contexts = [new_context() for _ in range(5)]
    hops, most = [0] * 20, 100
    left = threading.Semaphore(0)
    stop = []

    def hop(worker, chooser):
        hops[worker] += 1
        if hops[worker] == most:
            left.release()
        else:
            chooser.choice(contexts).schedule_one_shot(hop, worker, chooser)

    def run(context):
        while not stop:
            context.poll(True)

    threads = [threading.Thread(target=run, args=(context,)) for context in contexts]
    for thread in threads:
        thread.start()
    for worker in range(20):
        contexts[worker % 5].schedule_one_shot(hop, worker, random.Random(worker))
    assert all(left.acquire(timeout=30) for _ in range(20))
    stop.append(True)
    for context in contexts:
        context.notify()
    for thread in threads:
        thread.join(30)
    assert hops == [most] * 20


def test_handlers_are_refused_in_other_threads(context, new_notifier):
    """7.5: removal by another thread; QEMU allows it, uringloop raises."""
    notifier = new_notifier()
    context.set_event_notifier(notifier, print)
    context.poll(False)
    errors = []

    def work():
        for call in (
            lambda: context.set_event_notifier(notifier),
            lambda: context.add_poll_handler(bool, print),
            lambda: context.call_at_ns(1, print),
        ):
            try:
                call()
            except RuntimeError as error:
                errors.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(errors) == 3
    assert all("thread" in text for text in errors)


def test_two_threads_cannot_run_turns_of_one_context(context):
    entered, leave = threading.Event(), threading.Event()
    context.schedule_one_shot(lambda: (entered.set(), leave.wait(20)))
    thread = threading.Thread(target=context.poll)
    thread.start()
    assert entered.wait(20)
    for call in (context.poll, context.close):
        with pytest.raises(RuntimeError, match="another thread"):
            call()
    leave.set()
    thread.join()


# Creation and end


def test_a_context_uses_the_monitor_that_is_named(real_fdmon_name, monkeypatch):
    context = uringloop.AioContext(real_fdmon_name)
    assert context.fdmon == context.statistics()["fdmon"] == real_fdmon_name
    assert real_fdmon_name in context.fdmon_reason
    context.close()
    context.close()
    for call in (
        context.poll,
        lambda: context.set_fd_handler(0, print),
        lambda: context.add_poll_handler(bool, print),
        lambda: context.schedule_one_shot(print),
        lambda: context.call_at_ns(1, print),
    ):
        with pytest.raises(RuntimeError, match="closed"):
            call()
    context.notify()
    monkeypatch.setenv("URINGLOOP_FDMON", real_fdmon_name)
    context = uringloop.AioContext()
    assert context.fdmon == real_fdmon_name
    context.close()
    with pytest.raises(ValueError, match="one of"):
        uringloop.AioContext("select")


def test_a_loop_has_an_aio_context(real_fdmon_name, new_notifier):
    loop = uringloop.new_event_loop(fdmon=real_fdmon_name)
    assert isinstance(loop.aio_context, uringloop.AioContext)
    notifier = new_notifier()
    loop.aio_context.set_event_notifier(notifier, lambda: (notifier.test_and_clear(), loop.stop()))
    notifier.set()
    loop.run_forever()
    loop.aio_context.set_event_notifier(notifier)
    assert set(loop.statistics()) == set(loop.aio_context.statistics())
    loop.close()


def test_a_watched_file_that_is_closed_is_closed_for_the_peer(context):
    ours, theirs = socket.socketpair()
    theirs.settimeout(10)
    called = []
    context.set_fd_handler(ours.fileno(), lambda: called.append(1))
    settle(context)
    number = ours.fileno()
    ours.close()
    assert theirs.recv(1) == b""
    settle(context)
    assert called == []
    context.set_fd_handler(number)  # whether the closed fd is still known or not
    theirs.close()


def test_an_fd_is_watched_either_by_the_loop_or_by_its_context(real_fdmon_name):
    """Neither silently takes it from the other."""
    loop = uringloop.new_event_loop(fdmon=real_fdmon_name)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        fd, seen = ours.fileno(), []
        loop.aio_context.set_fd_handler(fd, lambda: (seen.append(ours.recv(1)), loop.stop()))
        for add in (loop.add_reader, loop.add_writer):
            with pytest.raises(RuntimeError, match=f"{fd} is watched by AioContext.set_fd_handler"):
                add(fd, print)
        assert not loop.remove_reader(fd)
        theirs.send(b"a")
        loop.run_forever()
        assert seen == [b"a"]
        loop.aio_context.set_fd_handler(fd)
        loop.add_reader(fd, lambda: (seen.append(ours.recv(1)), loop.stop()))
        with pytest.raises(ValueError, match="watched by a loop or a transport"):
            loop.aio_context.set_fd_handler(fd, print)
        loop.add_writer(fd, print)  # the loop may change its own
        loop.remove_writer(fd)
        theirs.send(b"b")
        loop.run_forever()
        assert seen == [b"a", b"b"]
        loop.remove_reader(fd)
    loop.close()


def test_a_forgotten_context_is_collected(real_fdmon_name, new_notifier):
    context = uringloop.AioContext(real_fdmon_name)
    notifier = new_notifier()

    class Owner:
        def __init__(self, context):
            self.context = context
            context.set_event_notifier(notifier, self.run, bool, self.run)
            context.add_poll_handler(self.run, self.run)
            self.half = context.new_bottom_half(self.run)
            self.half.schedule()

        def run(self):
            pass

    gone = weakref.ref(Owner(context))
    del context
    with pytest.warns(ResourceWarning, match="unclosed <AioContext"):
        gc.collect()
    assert gone() is None


def test_a_forgotten_event_notifier_warns_and_closes_its_fd():
    notifier = uringloop.EventNotifier()
    fd = notifier.fileno()
    with pytest.warns(ResourceWarning, match=f"unclosed <EventNotifier fd={fd}>"):
        del notifier
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)


# Not covered by QEMU's tests


def test_an_fd_that_is_added_and_removed_before_the_first_turn_is_not_called(context, new_notifier):
    notifier = new_notifier()
    ran = Counter(notifier)
    notifier.set()
    for _ in range(300):  # more than the SQ holds
        context.set_event_notifier(notifier, ran)
        context.set_event_notifier(notifier)
    settle(context)
    assert ran.n == 0
    context.set_event_notifier(notifier, ran)
    while not ran.n:
        context.poll(True)
    assert ran.n == 1


def test_a_handler_removed_in_the_turn_that_found_it_is_not_called(context, new_notifier):
    """Its completion is on the ring, or its event on the ready list."""
    notifiers = [new_notifier() for _ in range(2)]
    ran = []

    def run(number):
        ran.append(number)
        context.set_event_notifier(notifiers[1 - number])

    for number, notifier in enumerate(notifiers):
        context.set_event_notifier(notifier, lambda number=number: run(number))
    settle(context)
    for notifier in notifiers:
        notifier.set()
    for _ in range(3):
        context.poll(False)
    assert len(set(ran)) == 1
    context.set_event_notifier(notifiers[ran[0]])


def test_a_reused_fd_number_belongs_to_the_new_handler(context):
    first = os.eventfd(1)
    old, new = Counter(), Counter()
    context.set_fd_handler(first, old)
    context.poll(False)
    old.n = 0
    context.set_fd_handler(first)
    os.close(first)
    second = os.eventfd(0)
    assert second == first
    context.set_fd_handler(second, new)
    for _ in range(3):
        context.poll(False)
    assert (old.n, new.n) == (0, 0)
    os.eventfd_write(second, 1)
    assert context.poll(False)
    assert (old.n, new.n) == (0, 1)
    context.set_fd_handler(second)
    os.close(second)


def test_a_signal_ends_the_wait_although_requests_are_unsubmitted(context, new_notifier):
    """Python's handlers run, and queued requests are submitted."""
    seen = []
    old = signal.signal(signal.SIGUSR1, lambda *_: seen.append(context.schedule_one_shot(seen.append, "ran")))
    try:
        notifier = new_notifier()
        ran = Counter(notifier)
        context.poll(False)
        context.set_event_notifier(notifier, ran)
        killer = threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGUSR1))
        killer.start()
        while "ran" not in seen:
            context.poll(True)
        killer.join()
        notifier.set()
        while not ran.n:
            context.poll(True)
        assert ran.n == 1
    finally:
        signal.signal(signal.SIGUSR1, old)


@pytest.mark.needs_liburing
def test_the_first_context_falls_back_where_io_uring_is_refused():
    """first failing"""
    run_script(
        """
        import errno, uringloop
        refuse_io_uring(errno.EPERM)
        for make in (uringloop.AioContext, uringloop.new_event_loop, uringloop.AioContext):
            made = make()
            assert made.fdmon == "epoll", made.fdmon
            assert "EPERM" in made.fdmon_reason, made.fdmon_reason
            made.close()
        """
    )


@pytest.mark.parametrize("first", ["AioContext", "new_event_loop"])
def test_a_later_context_is_refused_after_an_earlier_one_got_io_uring(first):
    """second failing: add_sqe() is available in all threads, or in none."""
    context = uringloop.AioContext()
    fdmon = context.fdmon
    context.close()
    if fdmon != "io_uring":
        pytest.skip(f"no io_uring: {context.fdmon_reason}")
    run_script(
        f"""
        import errno, uringloop
        first = uringloop.{first}()
        assert first.fdmon == "io_uring"
        refuse_io_uring(errno.EPERM)
        for make in (uringloop.AioContext, uringloop.new_event_loop):
            try:
                make()
            except uringloop.MonitorUnavailable as error:
                assert error.errno == errno.EPERM
                assert "EPERM" in str(error)
            else:
                raise AssertionError("made")
        uringloop.AioContext("poll").close()  # chosen by name
        first.close()
        """
    )


@pytest.mark.needs_cffi
def test_an_idle_context_is_not_counted_as_waiting_for_io(new_context, fds):
    """A sleeping ring has requests in flight, which the kernel would count as I/O wait: the CPU would look busy."""
    with open("/proc/stat") as file:
        if "procs_blocked" not in file.read():
            pytest.skip("this kernel does not count waiting threads")
    sleeping, ended, n_contexts = [], [], 12

    def run(context):
        context.set_fd_handler(fds.eventfd(), print)
        sleeping.append(context)
        context.poll(True)
        while context not in ended:
            context.poll(True)

    contexts = [new_context() for _ in range(n_contexts)]
    if contexts[0].fdmon == "io_uring":
        from uringloop.liburing import Feature, probe

        if not probe().features & Feature.NO_IOWAIT:
            pytest.skip("needs Linux 6.15")
    threads = [threading.Thread(target=run, args=(context,)) for context in contexts]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(sleeping) == n_contexts)
    wait_until(lambda: all(is_asleep(thread.native_id) for thread in threads))
    blocked = []
    for _ in range(10):
        with open("/proc/stat") as file:
            blocked += [int(line.split()[1]) for line in file if line.startswith("procs_blocked")]
        time.sleep(0.002)
    for context in contexts:
        ended.append(context)
        context.notify()
    for thread in threads:
        thread.join()
    assert min(blocked) < n_contexts, blocked


def test_a_blocking_turn_with_a_ready_event_makes_progress_at_once(context, new_notifier):
    """It does not wait; afterwards the fd is no longer readable."""
    notifier = new_notifier()
    context.set_event_notifier(notifier, notifier.test_and_clear)
    settle(context)
    notifier.set()
    started = time.monotonic()
    while not context.poll(True):
        pass
    assert time.monotonic() - started < 5
    assert select.select([notifier], [], [], 0)[0] == []

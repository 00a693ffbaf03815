"""The FDMonitor interface, row by row, on each monitor and on the fake ones."""

import contextlib
import ctypes
import errno
import gc
import os
import select
import signal
import socket
import stat
import threading
import time

import pytest
from drivers.core import FakeMonitor, MonitorDriver, RecordingHandler
from support.helpers import wait_until, wchan

from unit.conftest import free_fds, inheritable_fds

POLLIN, POLLOUT, POLLERR, POLLHUP = select.POLLIN, select.POLLOUT, select.POLLERR, select.POLLHUP
OF_IO_URING = ("io_uring", "closable", "restless")

# update


def test_added_handler_is_reported_when_its_fd_is_ready(driver, fds):
    reader, writer = fds.pipe()
    handler = RecordingHandler(reader, POLLIN)
    driver.update(None, handler)
    assert driver.ready() == {}
    os.write(writer, b"x")
    assert driver.ready() == {handler: POLLIN}


def test_handler_added_for_a_ready_fd_is_reported_by_the_next_wait(driver, fds):
    handler = RecordingHandler(fds.readable(), POLLIN)
    driver.update(None, handler)
    assert driver.ready() == {handler: POLLIN}


def test_modified_interest_replaces_the_old_one(driver, fds):
    near, far = fds.socketpair()
    reads = RecordingHandler(near.fileno(), POLLIN)
    writes = RecordingHandler(near.fileno(), POLLOUT)
    both = RecordingHandler(near.fileno(), POLLIN | POLLOUT)
    driver.update(None, reads)
    assert driver.ready() == {}
    driver.update(reads, writes)
    assert driver.ready() == {writes: POLLOUT}
    far.send(b"x")
    driver.update(writes, both)
    assert driver.ready() == {both: POLLIN | POLLOUT}
    driver.update(both, reads := RecordingHandler(near.fileno(), POLLIN))
    assert driver.ready() == {reads: POLLIN}
    assert driver.statistics()["handlers"] == 1


@pytest.mark.parametrize("n_waits", [0, 1])
def test_handlers_whose_file_may_be_closed_and_others_replace_each_other(driver, fds, n_waits):
    near, far = fds.socketpair()
    far.send(b"x")
    handler = None
    for number in range(6):
        new = RecordingHandler(near.fileno(), POLLIN)
        new.may_be_closed = number % 2 == 0
        driver.update(handler, new)
        handler = new
        for _ in range(n_waits):
            assert driver.ready() == {handler: POLLIN}
    assert driver.ready() == {handler: POLLIN}
    driver.update(handler, None)
    assert driver.ready() == {}
    assert driver.statistics()["handlers"] == 0


@pytest.mark.parametrize("was_closable", [True, False])
@pytest.mark.parametrize("is_closable", [True, False])
def test_a_reused_fd_number_belongs_to_its_new_handler(driver, fds, was_closable, is_closable):
    reader, _ = fds.pipe()
    old = RecordingHandler(reader, POLLIN)
    old.may_be_closed = was_closable
    driver.update(None, old)
    driver.ready()
    other = fds.readable()
    os.dup2(other, reader)
    new = RecordingHandler(reader, POLLIN)
    new.may_be_closed = is_closable
    driver.update(None, new)
    assert old.was_removed
    assert driver.ready() == {new: POLLIN}
    driver.update(new, None)
    assert driver.ready() == {}
    assert driver.statistics()["handlers"] == 0


def test_of_many_modifications_before_a_wait_the_last_one_counts(driver, fds):
    near, _ = fds.socketpair()
    handler = RecordingHandler(near.fileno(), POLLIN)
    driver.update(None, handler)
    for number in range(20):
        new = RecordingHandler(near.fileno(), POLLIN if number % 2 == 0 else POLLOUT)
        driver.update(handler, new)
        handler = new
    assert driver.ready() == {handler: POLLOUT}


def test_removed_handler_is_not_reported(driver, fds):
    handler = RecordingHandler(fds.readable(), POLLIN)
    driver.update(None, handler)
    driver.ready()
    driver.update(handler, None)
    assert driver.ready() == {}
    assert driver.statistics()["handlers"] == 0


def test_removed_handler_is_not_reported_even_if_already_queued(driver, fds):
    handler = RecordingHandler(fds.readable(), POLLIN)
    driver.update(None, handler)
    assert driver.queue_ready() == 1
    driver.update(handler, None)
    assert driver.take() == []
    assert driver.ready() == {}


def test_removed_handler_is_not_reported_even_if_the_kernel_has_seen_its_event(driver, fds):
    reader, writer = fds.pipe()
    handler = RecordingHandler(reader, POLLIN)
    driver.update(None, handler)
    driver.ready()
    os.write(writer, b"x")  # io_uring: completes the request in flight
    driver.update(handler, None)
    assert driver.ready() == {}
    assert driver.ready() == {}
    assert driver.statistics()["in_flight"] == driver.n_always_in_flight


def test_modified_handler_is_not_reported_for_events_queued_before(driver, fds):
    near, far = fds.socketpair()
    old = RecordingHandler(near.fileno(), POLLIN)
    driver.update(None, old)
    far.send(b"x")
    assert driver.queue_ready() == 1
    new = RecordingHandler(near.fileno(), POLLIN | POLLOUT)
    driver.update(old, new)
    assert [handler for handler, _ in driver.take() if handler is old] == []
    assert driver.ready() == {new: POLLIN | POLLOUT}


def test_handler_added_and_removed_before_a_wait_leaves_nothing(driver, fds):
    handler = RecordingHandler(fds.readable(), POLLIN)
    driver.update(None, handler)
    driver.update(handler, None)
    assert driver.ready() == {}
    statistics = driver.statistics()
    assert (statistics["handlers"], statistics["in_flight"]) == (0, driver.n_always_in_flight)


def test_handler_added_and_removed_again_and_again_is_reported_once(driver, fds):
    reader = fds.readable()
    for _ in range(50):
        handler = RecordingHandler(reader, POLLIN)
        driver.update(None, handler)
        driver.update(handler, None)
    last = RecordingHandler(reader, POLLIN)
    driver.update(None, last)
    assert driver.ready() == {last: POLLIN}
    assert driver.ready() == {last: POLLIN}


def test_removing_twice_is_harmless(driver, fds):
    reader = fds.readable()
    first, second = RecordingHandler(reader, POLLIN), RecordingHandler(reader, POLLIN)
    driver.update(None, first)
    driver.update(first, None)
    driver.update(None, second)
    driver.update(first, None)
    assert driver.ready() == {second: POLLIN}


@pytest.mark.parametrize("path", ["file", "directory", "/dev/null"])
def test_fd_that_cannot_be_polled_is_refused_with_eperm(driver, fds, tmp_path, path):
    (tmp_path / "file").write_text("x")
    fd = fds.file({"file": tmp_path / "file", "directory": tmp_path}.get(path, path))
    with pytest.raises(PermissionError) as caught:
        driver.update(None, RecordingHandler(fd, POLLIN))
    assert caught.value.errno == errno.EPERM
    assert driver.statistics()["handlers"] == 0
    assert driver.ready() == {}


def message_queue():
    """The fd of a POSIX message queue; -1 where there is none (no mqueue in this kernel)."""
    library = ctypes.CDLL("librt.so.1")
    name = f"/uringloop.{os.getpid()}".encode()
    fd = library.mq_open(name, os.O_CREAT | os.O_RDWR | os.O_NONBLOCK, 0o600, None)
    library.mq_unlink(name)
    return fd


REGULAR_AND_POLLABLE = [
    "message queue",
    "/proc/self/mounts",
    "/sys/class/net/lo/operstate",
    "/proc/pressure/cpu",
]


@pytest.mark.parametrize("path", REGULAR_AND_POLLABLE)
def test_pollable_fd_is_accepted_although_it_is_a_regular_file(driver, fds, path):
    try:
        fd = message_queue() if path == "message queue" else os.open(path, os.O_RDONLY)
    except OSError:
        fd = -1
    if fd < 0:
        pytest.skip("not on this system")
    try:
        assert stat.S_ISREG(os.fstat(fd).st_mode)
        handler = RecordingHandler(fd, POLLOUT)
        driver.update(None, handler)
        if path == "message queue":
            assert driver.ready() == {handler: POLLOUT}
        driver.update(handler, None)
    finally:
        os.close(fd)


def test_o_path_fd_is_refused_with_ebadf(driver, fds, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo"):
        fd = os.open(path, os.O_PATH)
        try:
            with pytest.raises(OSError) as caught:
                driver.update(None, RecordingHandler(fd, POLLIN))
            assert caught.value.errno == errno.EBADF
        finally:
            os.close(fd)


def test_closed_fd_is_refused_with_ebadf(driver, fds):
    for fd in (fds.closed(), -1, 1 << 20):
        with pytest.raises(OSError) as caught:
            driver.update(None, RecordingHandler(fd, POLLIN))
        assert caught.value.errno == errno.EBADF
    assert driver.statistics()["handlers"] == 0
    assert driver.ready() == {}


def test_modifying_the_interest_in_a_closed_fd_is_refused_with_ebadf(request, driver, fds):
    reader, _ = fds.pipe()
    old = RecordingHandler(reader, POLLIN)
    driver.update(None, old)
    driver.ready()
    fds.close(reader)
    with pytest.raises(OSError) as caught:
        driver.update(old, RecordingHandler(reader, POLLIN | POLLOUT))
    assert caught.value.errno == errno.EBADF
    assert not old.was_removed
    driver.update(old, None)


def test_update_does_not_keep_a_removed_handler_alive(driver, fds):
    gone = []

    class Watched(RecordingHandler):
        def __del__(self):
            gone.append(self.fd)

    reader, writer = fds.pipe()
    handler = Watched(reader, POLLIN)
    driver.update(None, handler)
    driver.ready()
    os.write(writer, b"x")
    driver.ready()
    driver.update(handler, None)
    del handler
    driver.ready()
    driver.ready()
    gc.collect()
    assert gone == [reader]


# wait


def test_wait_without_handlers_and_without_a_timeout_returns(driver):
    assert driver.wait(0) == []


@pytest.mark.parametrize("timeout_ns", [1, 1_000, 300_000, 1_500_000, 20_000_000])
def test_wait_is_never_early_when_nothing_happens(new_driver, fds, fdmon_name, timeout_ns):
    if fdmon_name == "faulty":
        pytest.skip("returns early on purpose")
    driver = new_driver()
    driver.update(None, RecordingHandler(fds.pipe()[0], POLLIN))
    driver.wait(0)
    early = 0
    for _ in range(5):
        before = time.monotonic_ns()
        assert driver.wait(timeout_ns) == []
        early += time.monotonic_ns() - before < timeout_ns
    # A ring that this thread closed just before interrupts one system call (the kernel's deferred clean-up).
    assert early <= 2


def test_wait_returns_at_once_when_something_is_ready_already(driver, fds):
    handler = RecordingHandler(fds.readable(), POLLIN)
    driver.update(None, handler)
    for timeout_ns in (0, 10**15, -1, 1):
        found = []
        while not found:
            found = driver.wait(timeout_ns)
        assert found == [(handler, POLLIN)]


def test_endless_wait_ends_when_another_thread_makes_an_fd_ready(driver, fds):
    reader, writer = fds.pipe()
    handler = RecordingHandler(reader, POLLIN)
    driver.update(None, handler)
    for _ in range(20):
        thread = threading.Thread(target=os.write, args=(writer, b"x"))
        thread.start()
        found = []
        while not found:
            found = driver.wait(-1)
        thread.join()
        assert found == [(handler, POLLIN)]
        os.read(reader, 1)


def test_wait_returns_on_a_signal_so_that_its_handler_runs(driver):
    received = []
    previous = signal.signal(signal.SIGALRM, lambda *_: received.append(True))
    try:
        # repeated, because the first one may arrive before the wait
        signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
        while not received:
            assert driver.wait(-1) == []
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert received


def test_signal_during_wait_loses_no_registration(driver, fds):
    """An enter that a signal ends has submitted: nothing may be submitted twice or never."""
    previous = signal.signal(signal.SIGALRM, lambda *_: None)
    readers = []
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        for _ in range(30):
            reader, writer = fds.pipe()
            handler = RecordingHandler(reader, POLLIN)
            driver.update(None, handler)
            driver.wait(2_000_000)
            readers.append((handler, writer))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    for _, writer in readers:
        os.write(writer, b"x")
    assert driver.ready() == {handler: POLLIN for handler, _ in readers}


def test_wait_is_level_triggered(driver, fds):
    reader, writer = fds.pipe()
    handler = RecordingHandler(reader, POLLIN)
    driver.update(None, handler)
    os.write(writer, b"xy")
    for _ in range(3):
        assert driver.ready() == {handler: POLLIN}
    os.read(reader, 1)
    assert driver.ready() == {handler: POLLIN}
    os.read(reader, 1)
    driver.ready()  # io_uring: armed again while the byte was there, so a last report is allowed
    assert driver.ready() == {}
    os.write(writer, b"z")
    assert driver.ready() == {handler: POLLIN}


def test_wait_does_not_report_data_consumed_before_it(driver, fds):
    reader, writer = fds.pipe()
    handler = RecordingHandler(reader, POLLIN)
    driver.update(None, handler)
    os.write(writer, b"x")
    assert driver.ready() == {handler: POLLIN}
    os.read(reader, 1)
    assert driver.ready() == {}


def test_hang_up_is_reported_without_being_requested(driver, fds):
    reader, writer = fds.pipe()
    handler = RecordingHandler(reader, POLLIN)
    driver.update(None, handler)
    driver.ready()
    fds.close(writer)
    assert driver.ready()[handler] & POLLHUP


def test_error_is_reported_without_being_requested(driver, fds):
    reader, writer = fds.pipe()
    handler = RecordingHandler(writer, POLLIN)
    driver.update(None, handler)
    driver.ready()
    fds.close(reader)
    assert driver.ready()[handler] & POLLERR


def test_end_of_a_stream_is_reported_as_readable(driver, fds):
    near, far = fds.socketpair()
    handler = RecordingHandler(near.fileno(), POLLIN)
    driver.update(None, handler)
    far.shutdown(socket.SHUT_WR)
    assert driver.ready()[handler] & POLLIN


def test_consecutive_waits_queue_a_handler_once_and_merge_its_revents(driver, fds):
    near, far = fds.socketpair()
    handler = RecordingHandler(near.fileno(), POLLIN | POLLOUT)
    driver.update(None, handler)
    assert driver.queue_ready() == 1
    far.send(b"x")
    assert driver.queue_ready() == 1
    assert handler.is_reported
    assert driver.take() == [(handler, POLLIN | POLLOUT)]
    assert not handler.is_reported


def test_an_event_that_is_queued_stays_beside_a_later_one(driver, fds):
    near, _ = fds.socketpair()
    handler = RecordingHandler(near.fileno(), POLLIN | POLLOUT)
    driver.update(None, handler)
    driver.append(handler, POLLIN)
    assert driver.queue_ready() == 1
    assert driver.take() == [(handler, POLLIN | POLLOUT)]


def test_wait_keeps_handlers_that_are_on_the_ready_list(driver, fds):
    first, second = RecordingHandler(fds.readable(), POLLIN), RecordingHandler(fds.readable(), POLLIN)
    driver.append(first, POLLIN)
    driver.update(None, second)
    driver.queue_ready()
    assert driver.take() == [(first, POLLIN), (second, POLLIN)]


# need_wait, dispatch, submit, settle


def test_need_wait_is_true_when_an_fd_was_added(driver, fds):
    driver.update(None, RecordingHandler(fds.pipe()[0], POLLIN))
    assert driver.need_wait()


def test_need_wait_is_true_when_something_is_ready(driver, fds):
    reader, writer = fds.pipe()
    handler = RecordingHandler(reader, POLLIN)
    driver.update(None, handler)
    driver.ready()
    os.write(writer, b"x")
    assert driver.need_wait()
    assert driver.ready() == {handler: POLLIN}
    assert driver.need_wait(), "the fd is still ready"


def test_need_wait_is_false_only_if_user_space_can_know(new_driver, fds, fdmon_name):
    driver = new_driver()
    driver.update(None, RecordingHandler(fds.pipe()[0], POLLIN))
    driver.wait(0)
    assert driver.need_wait() == (fdmon_name not in OF_IO_URING)


def test_dispatch_does_not_call_ready_handlers(driver, fds):
    handler = RecordingHandler(fds.readable(), POLLIN)
    driver.update(None, handler)
    driver.ready()
    assert not driver.has_undispatched()
    assert driver.dispatch() == 0
    assert handler.calls == [], "wait and dispatch ran user code"


def test_submit_and_settle_report_nothing_and_lose_nothing(driver, fds):
    handler = RecordingHandler(fds.readable(), POLLIN)
    driver.update(None, handler)
    driver.submit()
    driver.settle()
    assert driver.take() == [] or driver.name in OF_IO_URING
    assert driver.ready() == {handler: POLLIN}


# fileno


def is_readable(fd):
    return bool(select.select([fd], [], [], 0)[0])


def test_fileno_is_readable_when_a_wait_would_deliver(driver, fds, fdmon_name):
    if driver.fileno() < 0:
        assert fdmon_name in ("poll", "fake", "faulty")
        return
    reader, writer = fds.pipe()
    handler = RecordingHandler(reader, POLLIN)
    driver.update(None, handler)
    driver.wait(0)
    assert not is_readable(driver.fileno())
    os.write(writer, b"x")
    assert is_readable(driver.fileno())
    assert driver.ready() == {handler: POLLIN}
    # a lazy monitor reports with need_wait that a wait is due before another loop sleeps on fileno
    assert is_readable(driver.fileno()) or driver.need_wait()
    os.read(reader, 1)
    driver.wait(0)
    driver.wait(0)
    assert not is_readable(driver.fileno())


def test_fileno_wakes_a_foreign_loop_when_another_thread_makes_an_fd_ready(driver, fds):
    """A foreign loop (GLib) sleeps on fileno() after it has called gsource_prepare."""
    driver.make_pollable()
    driver.begin_run()
    if driver.fileno() < 0:
        return
    reader, writer = fds.pipe()
    driver.update(None, RecordingHandler(reader, POLLIN))
    driver.wait(0)
    assert not driver.gsource_prepare()
    sleeper = threading.get_native_id()

    def write():
        with contextlib.suppress(AssertionError):
            wait_until(lambda: "poll" in wchan(sleeper), seconds=10)
        os.write(writer, b"x")

    thread = threading.Thread(target=write)
    with select.epoll() as foreign:
        foreign.register(driver.fileno(), POLLIN)
        thread.start()
        events = foreign.poll(20.0)
    thread.join()
    assert events == [(driver.fileno(), POLLIN)]


# statistics


def test_statistics_are_ints_and_the_monitors_name(driver, fds, fdmon_name):
    driver.update(None, RecordingHandler(fds.readable(), POLLIN))
    driver.ready()
    numbers = dict(driver.statistics())
    assert numbers.pop("fdmon") == {"faulty": "fake", "closable": "io_uring", "restless": "io_uring"}.get(
        fdmon_name, fdmon_name
    )
    assert all(type(value) is int for value in numbers.values())
    assert numbers["handlers"] == 1
    assert numbers["syscalls"] >= 1
    if fdmon_name in OF_IO_URING:
        assert numbers["submitted"] >= 1
        assert numbers["completed"] >= 1


# The fake itself


def test_fake_is_deterministic_for_a_seed(fds):
    readers = [fds.readable() for _ in range(8)]

    def history(seed):
        driver = MonitorDriver(FakeMonitor(seed, early=0.3, deferred=0.3, reordered=0.5, spurious=0.1))
        for fd in readers:
            driver.update(None, RecordingHandler(fd, POLLIN))
        reports = [[handler.fd for handler, _ in driver.wait(0)] for _ in range(30)]
        assert driver.monitor.n_faults > 0
        driver.close()
        return reports

    assert history(7) == history(7)
    assert history(7) != history(8)


# Files that are closed under their handler


@pytest.mark.parametrize("is_brief", [False, True])
def test_a_file_closed_under_a_handler_that_had_events_is_closed_for_the_peer(driver, fds, is_brief):
    """At once, or in the next sweep if a brief wait holds the file."""
    near, far = fds.socketpair()
    far.setblocking(False)
    handler = RecordingHandler(near.fileno(), POLLIN)
    handler.may_be_closed, handler.is_brief = True, is_brief
    driver.update(None, handler)
    for _ in range(3):
        far.send(b"x")
        assert driver.ready() == {handler: POLLIN}
        near.recv(1)
        assert driver.ready() == {}
    near.close()

    def is_at_end():
        assert driver.ready() == {}
        with contextlib.suppress(BlockingIOError):
            return far.recv(1) == b""

    wait_until(is_at_end)


def test_a_brief_wait_that_lasts_is_removed_from_the_ring_and_returns(ring_driver, fds):
    near, far = fds.socketpair()
    handler = RecordingHandler(near.fileno(), POLLIN)
    handler.may_be_closed = handler.is_brief = True
    ring_driver.update(None, handler)
    ring_driver.ready()
    resting = ring_driver.statistics()["in_flight"]
    for _ in range(3):
        far.send(b"x")
        assert ring_driver.ready() == {handler: POLLIN}
        near.recv(1)
        assert ring_driver.ready() == {}
        assert ring_driver.statistics()["in_flight"] == resting + 2, "its POLL_ADD and the next sweep"
        wait_until(lambda: not ring_driver.ready() and ring_driver.statistics()["in_flight"] == resting)
        assert not ring_driver.need_wait()
    ring_driver.update(handler, None)
    assert ring_driver.ready() == {}
    assert ring_driver.statistics()["in_flight"] == resting


def test_an_fd_number_that_another_file_got_during_a_brief_wait_is_not_watched(ring_driver, fds):
    near, far = fds.socketpair()
    other, peer = fds.socketpair()
    handler = RecordingHandler(near.fileno(), POLLIN)
    handler.may_be_closed = handler.is_brief = True
    ring_driver.update(None, handler)
    far.send(b"x")
    assert ring_driver.ready() == {handler: POLLIN}
    near.recv(1)
    ring_driver.ready()  # on the ring now
    n_before = ring_driver.statistics()["in_flight"]
    os.dup2(other.fileno(), near.fileno())
    peer.send(b"for the other")
    wait_until(lambda: ring_driver.ready() == {} and ring_driver.statistics()["in_flight"] == n_before - 2)
    assert ring_driver.ready() == {}


@pytest.mark.parametrize("is_reused", [False, True])
def test_a_closed_file_with_an_open_duplicate_wakes_nothing_once_its_handler_is_removed(
    driver, fds, fdmon_name, is_reused
):
    """epoll(7) keeps reporting it, and no fd number can remove it."""
    inheritable = inheritable_fds()
    near, far = fds.socketpair()
    number = near.fileno()
    others = [RecordingHandler(fds.readable(), POLLIN), RecordingHandler(fds.pipe()[0], POLLIN)]
    handler = RecordingHandler(number, POLLIN)
    for each in (handler, *others):
        each.may_be_closed = True
        driver.update(None, each)
    assert driver.ready() == {others[0]: POLLIN}
    with near.dup():
        near.close()
        new = None
        if is_reused:
            if (reading := fds.pipe()[0]) != number:
                os.dup2(reading, number, inheritable=False)
                fds.open.add(number)
            new = RecordingHandler(number, POLLIN)
            new.may_be_closed = True
        driver.update(handler, None)
        if new is not None:
            driver.update(None, new)
        far.send(b"x")
        assert driver.ready() == {others[0]: POLLIN}
        driver.update(others[0], None)
        for _ in range(3):
            assert driver.ready() == {}
        if fdmon_name in OF_IO_URING:
            assert not driver.need_wait() or driver.name == "restless"
        elif fdmon_name == "epoll":
            assert not select.select([driver.fileno()], [], [], 0)[0]
        assert inheritable_fds() == inheritable


def test_a_closed_file_with_an_open_duplicate_is_harmless_without_free_descriptors(driver, fds, fdmon_name):
    """The epoll set that reports it is replaced once a descriptor is free."""
    near, far = fds.socketpair()
    handlers = [RecordingHandler(fd, POLLIN) for fd in (near.fileno(), fds.readable(), fds.pipe()[0])]
    for handler in handlers:
        handler.may_be_closed = True
        driver.update(None, handler)
    assert driver.ready() == {handlers[1]: POLLIN}
    with near.dup():
        near.close()
        driver.update(handlers[0], None)
        far.send(b"x")
        with free_fds(0):
            for _ in range(3):
                assert driver.ready() == {handlers[1]: POLLIN}
        assert driver.ready() == {handlers[1]: POLLIN}
        driver.update(handlers[1], None)
        for _ in range(3):
            assert driver.ready() == {}
        if fdmon_name == "epoll":
            assert not select.select([driver.fileno()], [], [], 0)[0]
        elif fdmon_name in OF_IO_URING:
            assert not driver.need_wait() or driver.name == "restless"

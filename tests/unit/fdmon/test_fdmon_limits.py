"""The FDMonitor interface with many handlers, files closed without notice, reused fd numbers, and other threads."""

import os
import select
import threading

import pytest
from drivers.core import MonitorDriver, RecordingHandler
from support.helpers import run_script

from unit.test_refused_calls import NUMBERS

POLLIN, POLLOUT = select.POLLIN, select.POLLOUT
SQ_ENTRIES = 64
CQ_ENTRIES = 128


def all_ready(driver, rounds=200):
    """The reports of several waits, {handler: number}; within one wait none is reported twice."""
    counts = {}
    for _ in range(rounds):
        found = driver.wait(0)
        assert len({handler for handler, _ in found}) == len(found)
        for handler, _ in found:
            counts[handler] = counts.get(handler, 0) + 1
            # like a callback that reads, so that the next wait does not report it again
            os.read(handler.fd, 8)
    return counts


# Many


@pytest.mark.parametrize("begin_run", [False, True], ids=["before-first-run", "in-one-turn"])
@pytest.mark.parametrize("count", [SQ_ENTRIES - 1, SQ_ENTRIES, SQ_ENTRIES + 1, 1000])
def test_each_of_many_new_handlers_is_reported_once(new_driver, fds, many_fds, count, begin_run):
    driver = new_driver(begin_run=begin_run)
    handlers = [RecordingHandler(fds.eventfd(1), POLLIN) for _ in range(count)]
    for handler in handlers:
        driver.update(None, handler)
    driver.begin_run()
    assert all_ready(driver) == dict.fromkeys(handlers, 1)
    assert driver.statistics()["handlers"] == count


def test_many_handlers_that_become_ready_at_once_are_each_reported_once(driver, fds, many_fds):
    handlers = [RecordingHandler(fds.eventfd(), POLLIN) for _ in range(700)]
    for handler in handlers:
        driver.update(None, handler)
    assert driver.ready() == {}
    for handler in handlers:
        os.eventfd_write(handler.fd, 1)
    assert all_ready(driver) == dict.fromkeys(handlers, 1)


def test_more_ready_handlers_than_the_completion_queue_holds_lose_nothing(driver, fds, many_fds):
    handlers = [RecordingHandler(fds.eventfd(1), POLLIN) for _ in range(CQ_ENTRIES + 600)]
    for handler in handlers:
        driver.update(None, handler)
    assert all_ready(driver) == dict.fromkeys(handlers, 1)


def test_overflow_of_the_completion_queue_is_counted(request, ring_driver):
    """Nothing is harvested between the submissions, so the kernel has to keep completions that do not fit."""
    ring_requests = pytest.importorskip("drivers.ring")
    submit = ring_requests.RequestsDriver(ring_driver.monitor)
    requests = [ring_requests.RecordingRequest() for _ in range(CQ_ENTRIES + 600)]
    for request in requests:
        submit.nop(request)
    while submit.in_flight:
        ring_driver.wait(0)
        ring_driver.dispatch()
    assert [request.calls for request in requests] == [[("complete", 0, False, None)]] * len(requests)
    assert ring_driver.statistics()["cq_overflows"] > 0


def test_many_removals_in_one_turn_leave_nothing_in_flight(driver, fds, many_fds):
    handlers = [RecordingHandler(fds.eventfd(), POLLIN) for _ in range(700)]
    for handler in handlers:
        driver.update(None, handler)
    assert driver.ready() == {}
    for handler in handlers:
        driver.update(handler, None)
    for _ in range(60):
        assert driver.wait(0) == []
    statistics = driver.statistics()
    assert (statistics["handlers"], statistics["in_flight"]) == (0, driver.n_always_in_flight)
    for handler in handlers:
        os.eventfd_write(handler.fd, 1)
    assert driver.ready() == {}


def test_ready_list_is_fifo_over_many_handlers(driver):
    handlers = [RecordingHandler(number, POLLIN) for number in range(1000)]
    for handler in handlers[:40]:
        driver.append(handler, POLLIN)
    assert [handler for handler, _ in driver.take()] == handlers[:40]
    for handler in handlers:  # it grows with its head in the middle
        driver.append(handler, POLLIN)
    assert [handler for handler, _ in driver.take()] == handlers


# Interest that changes in every turn


def test_handler_modified_before_every_wait_is_reported_by_each(driver, fds):
    near, far = fds.socketpair()
    handler = RecordingHandler(near.fileno(), POLLIN)
    driver.update(None, handler)
    far.send(b"x")
    for number in range(10):
        new = RecordingHandler(near.fileno(), POLLIN | (POLLOUT if number % 2 == 0 else 0))
        driver.update(handler, new)
        handler = new
        assert driver.ready() == {handler: handler.events}


def test_reader_is_called_although_the_writer_changes_in_every_turn(request, loop, fds):
    """Stock asyncio has queued the reader's callback by then; the event must not be lost with the handler."""
    near, far = fds.socketpair()
    called_in = []
    turns = 0

    def toggle():
        nonlocal turns
        turns += 1
        if turns == 100:
            return loop.stop()
        if turns % 2:
            loop.add_writer(near, lambda: None)
        else:
            loop.remove_writer(near)
        loop.call_soon(toggle)

    loop.add_reader(near, lambda: called_in.append(turns))
    far.send(b"x")
    loop.call_soon(toggle)
    loop.run_forever()
    loop.remove_reader(near)
    loop.remove_writer(near)
    assert called_in
    assert called_in[0] < 5


# Closed and reused fds


def test_fd_closed_without_removal_is_not_reported_and_harmless(driver, fds):
    reader, writer = fds.pipe()
    handler = RecordingHandler(reader, POLLIN)
    driver.update(None, handler)
    assert driver.ready() == {}
    fds.close(reader)
    fds.close(writer)
    for _ in range(3):
        driver.ready()
    assert driver.ready() == {}
    driver.update(handler, None)
    assert driver.statistics()["handlers"] == 0


def test_ready_fd_closed_without_removal_is_forgotten(driver, fds):
    reader = fds.readable()
    handler = RecordingHandler(reader, POLLIN)
    driver.update(None, handler)
    assert driver.ready() == {handler: POLLIN}
    fds.close(reader)
    driver.ready()
    assert driver.ready() == {}
    driver.update(handler, None)
    assert driver.ready() == {}


def test_fd_closed_before_the_first_wait_is_forgotten(driver, fds):
    reader = fds.readable()
    handler = RecordingHandler(reader, POLLIN)
    driver.update(None, handler)
    fds.close(reader)
    driver.ready()
    assert driver.ready() == {}
    driver.update(handler, None)


def test_fd_number_reused_after_removal_belongs_to_the_new_handler(driver, fds):
    for _ in range(20):
        reader, writer = fds.pipe()
        old = RecordingHandler(reader, POLLIN)
        driver.update(None, old)
        driver.ready()
        os.write(writer, b"x")
        driver.update(old, None)
        fds.close(reader)
        again, other = fds.pipe()
        assert again == reader
        new = RecordingHandler(again, POLLIN)
        driver.update(None, new)
        assert driver.ready() == {}
        os.write(other, b"x")
        assert driver.ready() == {new: POLLIN}
        driver.update(new, None)
        for fd in (writer, again, other):
            fds.close(fd)


def test_fd_number_reused_without_removal_can_be_modified(driver, fds):
    reader, writer = fds.pipe()
    old = RecordingHandler(reader, POLLIN)
    driver.update(None, old)
    driver.ready()
    fds.close(reader)
    again, other = fds.pipe()
    assert again == reader
    new = RecordingHandler(again, POLLIN)
    driver.update(old, new)  # as a loop does that still has the old one
    os.write(other, b"x")
    assert driver.ready() == {new: POLLIN}
    fds.close(writer)
    assert driver.ready() == {new: POLLIN}


def test_reused_fd_number_is_not_reported_to_the_handler_of_the_closed_file(request, driver, fds):
    reader, writer = fds.pipe()
    kept_open = os.dup(reader)
    old = RecordingHandler(reader, POLLIN)
    driver.update(None, old)
    driver.ready()
    fds.close(reader)
    again, _ = fds.pipe()
    assert again == reader
    new = RecordingHandler(again, POLLIN)
    try:
        driver.update(None, new)  # without removing the old one
        os.write(writer, b"x")
        assert old not in driver.ready()
    finally:
        os.close(kept_open)


def test_close_of_a_removed_fd_reaches_the_peer_by_the_end_of_the_next_wait(driver, fds):
    """A request in flight keeps the file alive: removal has to cancel it, or the peer sees no end of file."""
    near, far = fds.socketpair()
    handler = RecordingHandler(near.fileno(), POLLIN)
    driver.update(None, handler)
    driver.ready()
    driver.update(handler, None)
    near.close()
    driver.ready()
    assert far.recv(1) == b""


# Threads


def in_thread(function):
    """Run a function in a new thread; return its result or raise its exception."""
    outcome = []

    def run():
        try:
            outcome.append((function(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    result, error = outcome[0]
    if error is not None:
        raise error
    return result


def test_handlers_move_to_another_thread_that_runs_the_loop(driver, fds):
    idle_reader, idle_writer = fds.pipe()
    late_reader, late_writer = fds.pipe()
    ready = RecordingHandler(fds.readable(), POLLIN)
    idle = RecordingHandler(idle_reader, POLLIN)
    late = RecordingHandler(late_reader, POLLIN)
    gone = RecordingHandler(fds.readable(), POLLIN)
    for handler in (ready, idle, late, gone):
        driver.update(None, handler)
    assert driver.ready() == {ready: POLLIN, gone: POLLIN}
    driver.update(gone, None)
    os.write(late_writer, b"x")

    def elsewhere():
        driver.begin_run()
        first = driver.ready()
        os.write(idle_writer, b"x")
        return first, driver.ready()

    for _ in range(3):  # consecutive threads often have the same identifier
        first, second = in_thread(elsewhere)
        assert first in ({ready: POLLIN, late: POLLIN}, {ready: POLLIN, late: POLLIN, idle: POLLIN})
        assert second == {ready: POLLIN, late: POLLIN, idle: POLLIN}
    driver.begin_run()
    assert driver.ready() == {ready: POLLIN, late: POLLIN, idle: POLLIN}


def test_monitor_closed_by_another_thread_releases_its_fds(new_driver, fds):
    driver = new_driver()
    handler = RecordingHandler(fds.pipe()[0], POLLIN)
    driver.update(None, handler)
    driver.ready()
    in_thread(driver.close)
    assert driver.fileno() == -1
    assert driver.statistics()["in_flight"] == 0


def test_monitors_in_many_threads_are_independent(fdmon_name, fds):
    from support.monitors import make_monitor

    results = []

    def life(number):
        driver = MonitorDriver(make_monitor(fdmon_name, seed=number))
        driver.begin_run()
        handler = RecordingHandler(readers[number], POLLIN)
        driver.update(None, handler)
        found = []
        while not found:
            found = driver.wait(-1)
        results.append(found == [(handler, POLLIN)])
        driver.close()

    readers = [fds.readable() for _ in range(8)]
    threads = [threading.Thread(target=life, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 8


def test_a_closed_file_that_epoll_still_reports_is_harmless_if_the_set_cannot_be_replaced(monitor):
    """For example if the user's epoll watches are used up: the existing set stays in use."""
    if monitor not in ("epoll", "io_uring"):
        pytest.skip("this monitor has no epoll set")
    if NUMBERS is None:
        pytest.skip("the number of epoll_ctl(2) is not known here")
    source = f"""
    import errno, select, socket
    from unit.conftest import Monitor
    from drivers.core import RecordingHandler

    driver = Monitor("closable" if MONITOR == "io_uring" else MONITOR)
    driver.begin_run()
    pairs = [socket.socketpair() for _ in range(3)]
    handlers = [RecordingHandler(near.fileno(), select.POLLIN) for near, _ in pairs]
    for handler in handlers:
        handler.may_be_closed = True
        driver.update(None, handler)
    assert driver.ready() == {{}}
    with pairs[0][0].dup():
        pairs[0][0].close()
        driver.update(handlers[0], None)
        refuse_calls([{NUMBERS["epoll_ctl"]}], errno.ENOSPC)
        for _, far in pairs[:2]:
            far.send(b"x")
        for _ in range(3):
            assert driver.ready() == {{handlers[1]: select.POLLIN}}
        pairs[2][1].send(b"x")
        assert driver.ready() == {{handlers[1]: select.POLLIN, handlers[2]: select.POLLIN}}
    driver.close()
    for pair in pairs:
        for sock in pair:
            sock.close()
    """
    run_script(source, monitor)

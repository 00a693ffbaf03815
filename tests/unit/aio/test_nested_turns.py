"""Turns inside turns (QEMU: test-nested-aio-poll.c): the inner one runs what the outer one has pending, each once."""

import os
import select

import pytest

from unit.conftest import handler_with

POLLIN = select.POLLIN


@pytest.fixture
def order():
    return []


def test_inner_turn_runs_the_callbacks_that_the_outer_one_has_left(aio, order):
    def nested():
        order.append("nested begins")
        aio.poll(False)
        order.append("nested ends")

    aio.call_soon(order.append, "before")
    aio.call_soon(nested)
    for number in range(3):
        aio.call_soon(order.append, number)
    aio.poll(False)
    assert order == ["before", "nested begins", 0, 1, 2, "nested ends"]
    aio.poll(False)
    assert len(order) == 6


def test_callbacks_made_in_an_inner_turn_wait_for_the_next_turn(aio, order):
    def nested():
        aio.call_soon(order.append, "made before the inner turn")
        aio.poll(False)
        aio.call_soon(order.append, "made after the inner turn")

    aio.call_soon(nested)
    aio.call_soon(lambda: aio.call_soon(order.append, "made in the inner turn"))
    aio.poll(False)
    assert order == ["made before the inner turn"]
    aio.poll(False)
    assert order == ["made before the inner turn", "made in the inner turn", "made after the inner turn"]


def test_outer_turn_does_not_run_callbacks_scheduled_after_its_start(aio, order):
    """Even if an inner turn has run some of its callbacks."""

    def nested():
        aio.poll(False)
        for number in range(10):
            aio.call_soon(order.append, number)

    aio.call_soon(nested)
    for _ in range(5):
        aio.call_soon(order.append, "old")
    aio.poll(False)
    assert order == ["old"] * 5
    aio.poll(False)
    assert order == ["old"] * 5 + list(range(10))


@pytest.mark.parametrize("depth", [2, 5, 20])
def test_callbacks_run_once_at_any_depth(aio, order, depth):
    def nested(level):
        order.append(level)
        if level < depth:
            aio.call_soon(nested, level + 1)
            aio.poll(False)
        order.append(-level)

    aio.call_soon(nested, 1)
    aio.call_soon(order.append, 0)
    aio.poll(False)
    assert sorted(order) == sorted([0, *range(1, depth + 1), *(-level for level in range(1, depth + 1))])


def test_inner_turn_delivers_the_events_that_the_outer_one_found(real_aio, fds, order):
    def on_ready(handler, revents):
        os.eventfd_read(handler.fd)
        order.append(handler.fd)
        if len(order) == 1:
            real_aio.poll(False)
            assert len(order) == 5, "the inner turn left some for the outer one"

    handlers = [handler_with(on_ready, fds.eventfd(1), POLLIN) for _ in range(5)]
    for handler in handlers:
        real_aio.set_handler(None, handler)
    real_aio.poll(False)
    assert sorted(order) == sorted(handler.fd for handler in handlers)
    real_aio.poll(False)
    assert [len(handler.calls) for handler in handlers] == [1] * 5


def test_inner_turn_reports_events_that_its_caller_makes(real_aio, fds, order):
    """An inner turn arms the handler again at once."""

    def on_ready(handler, revents):
        os.eventfd_read(handler.fd)
        order.append("begin")
        if len(order) == 1:
            os.eventfd_write(handler.fd, 1)
            real_aio.poll(False)
        order.append("end")

    handler = handler_with(on_ready, fds.eventfd(1), POLLIN)
    real_aio.set_handler(None, handler)
    real_aio.poll(False)
    assert order == ["begin", "begin", "end", "end"]
    real_aio.poll(False)
    assert len(order) == 4


def test_inner_blocking_turn_makes_progress_while_outer_events_are_left(aio, fds, order):
    """A turn that slept here would sleep forever: the outer one has already collected all ready fds."""

    def on_ready(handler, revents):
        os.eventfd_read(handler.fd)
        order.append(handler.fd)
        while len(order) < 3:
            aio.poll(True)

    handlers = [handler_with(on_ready, fds.eventfd(1), POLLIN) for _ in range(3)]
    for handler in handlers:
        aio.set_handler(None, handler)
    while len(order) < 3:
        aio.poll(True)
    assert sorted(order) == sorted(handler.fd for handler in handlers)


def test_inner_turn_from_an_event_runs_callbacks_and_timers(aio, fds, order):
    def on_ready(handler, revents):
        os.eventfd_read(handler.fd)
        aio.call_soon(order.append, "callback")
        aio.call_at_ns(1, order.append, "timer")
        aio.poll(False)
        order.append("event")

    handler = handler_with(on_ready, fds.eventfd(1), POLLIN)
    aio.set_handler(None, handler)
    while not order:
        aio.poll(False)
    assert order == ["callback", "timer", "event"]


def test_inner_turn_from_a_timer_runs_the_other_due_timers_once(aio, order):
    def nested():
        order.append("nested begins")
        aio.poll(False)
        order.append("nested ends")

    aio.call_at_ns(1, nested)
    aio.call_at_ns(2, order.append, "second")
    aio.call_at_ns(3, order.append, "third")
    aio.poll(False)
    assert order == ["nested begins", "second", "third", "nested ends"]
    aio.poll(False)
    assert len(order) == 4


def test_handler_removed_in_an_inner_turn_is_not_called_by_the_outer_one(real_aio, fds, order):
    def on_ready(handler, revents):
        order.append(handler)
        real_aio.set_handler(handler, None)
        if len(order) == 1:
            for other in handlers:
                if other is not handler:
                    real_aio.set_handler(other, None)
            real_aio.poll(False)

    handlers = [handler_with(on_ready, fds.eventfd(1), POLLIN) for _ in range(4)]
    for handler in handlers:
        real_aio.set_handler(None, handler)
    real_aio.poll(False)
    real_aio.poll(False)
    assert len(order) == 1


def test_exception_in_an_inner_turn_reaches_its_caller(aio, order):
    def fail():
        raise KeyboardInterrupt

    def nested():
        with pytest.raises(KeyboardInterrupt):
            aio.poll(False)
        order.append("nested ends")

    aio.call_soon(nested)
    aio.call_soon(fail)
    aio.call_soon(order.append, "last")
    aio.poll(False)
    assert order == ["nested ends", "last"]

"""Assertions fail: one violation of each kind, each in a process that it aborts."""

import signal

import pytest
from drivers import violations
from support.helpers import run_script

pytestmark = pytest.mark.skipif(not violations.HAS_ASSERTIONS, reason="built without URINGLOOP_DEBUG")

PLAIN = {
    "take_from_empty_ring": "what is taken from a ring is there",
    "take_from_empty_ready_queue": "a callback that runs was queued",
    "report_handler_twice": "a handler on the ready list is queued, once",
    "queue_handler_on_two_lists": "a handler that is queued is on the ready list",
    "lose_object_under_its_frame": "an object lives while a frame of it calls user code",
    "let_timer_overtake_its_parent": "no timer is before its parent",
    "push_timer_twice": "a timer is on one heap, once",
    "cancel_more_timers_than_there_are": "cancelled timers are on the heap",
    "run_handle_without_arguments": "a handle without a count has its arguments in a tuple",
    "make_turn_that_is_not_counted": "a turn is counted, so that other threads keep out",
    "make_turn_in_another_thread": "turns are made by the thread that runs the loop",
    "sleep_on_ready_fd": "no wait sleeps on a ready fd",
    "flush_what_is_not_dirty": "what is dirty is on the list, once",
    "open_notifier_twice": "a notifier has one fd, or none",
    "run_bottom_half_twice": "a bottom half is in the queue once",
    "poll_running_handler": "a running handler is not polled",
    "dispatch_more_often_than_begun": "a dispatch that ends was counted when it began",
    "put_event_on_two_lists": "an event is never on two lists",
    "free_event_that_is_on_a_list": "an event that is freed is on no list",
    "watch_for_removed_handler": "a handler that is removed is never watched for again",
    "withdraw_what_is_not_watched": "what is withdrawn is watched for",
    "send_more_than_is_queued": "the kernel takes no more than is queued",
    "write_to_closed_transport": "a closed transport queues nothing",
    "send_from_empty_queue": "what is sent is queued",
    "fill_full_batch": "a batch has room for what one call brings",
    "pass_last_state_of_tls": "a TLS connection is in a state that has a name",
}

RING = {
    "hold_request_in_flight": "a request is idle or done before it is held",
    "release_more_than_is_counted": "the list that a request leaves counts it",
    "release_by_another_list": "the first request is the list's head",
    "free_request_in_flight": "a request in flight is not freed",
    "dispatch_from_empty_fifo": "a completion that is dispatched is on the FIFO",
    "give_back_buffer_twice": "each chunk of a buffer is given back once",
    "enter_ring_of_another_thread": "only its owner enters a ring",
    "settle_send_with_completion": "only a send without a CQE is settled",
    "arm_handler_by_another_ones_request": "what arms a handler watches for it",
    "finish_request_twice": "a request is over once",
    "use_scratch_twice": "a prep function has its scratch to itself",
    "settle_send_that_was_not_in_flight": "a send that is over was in flight",
    "send_twice_at_a_time": "one send at a time is in flight for a socket",
}


def aborted(module, violation):
    """Run a violation in a process, which must be aborted; return its output."""
    return run_script(
        f"""
        import os, resource
        from drivers import {module}

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.dup2(1, 2)
        {module}.{violation}()
        """,
        expect=-signal.SIGABRT,
    )


@pytest.mark.parametrize(("violation", "invariant"), PLAIN.items())
def test_a_violation_aborts_with_its_invariant(violation, invariant):
    assert f"uringloop bug: not true: {invariant} (" in aborted("violations", violation)


@pytest.mark.parametrize(("violation", "invariant"), RING.items())
def test_a_violation_on_the_ring_aborts_with_its_invariant(violation, invariant):
    pytest.importorskip("drivers.ring_violations", exc_type=ImportError)
    assert f"uringloop bug: not true: {invariant} (" in aborted("ring_violations", violation)


def test_the_message_names_file_and_line():
    out = aborted("violations", "take_from_empty_ring")
    assert "uringloop/support/references.pyx:" in out


def test_each_violation_is_tried():
    found = {
        name
        for name, value in vars(violations).items()
        if getattr(value, "__module__", "") == violations.__name__
    }
    assert found == set(PLAIN)

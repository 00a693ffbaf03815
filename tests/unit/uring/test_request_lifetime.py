"""Requests from hold to the final completion: references, counts, states, cancelling, closing."""

import gc
import socket
import sys
import threading
import weakref

import pytest

pytest.importorskip("drivers.ring")

from drivers.ring import (
    EVERYTHING_SENT,
    RecordingRequest,
    RequestsDriver,
    RequestState,
    RingDriver,
    request_of,
    skips_sends,
    user_data_of,
)

ECANCELED = 125
N_CLOSED = 100  # the kernel returns some 20 at a time


@pytest.fixture
def ring(ring_driver):
    """A bare ring, enabled."""
    driver = RingDriver()
    driver.enable()
    yield driver
    for request in driver.snapshot():
        driver.release(request)
    driver.close()


@pytest.fixture
def requests(ring_driver):
    return RequestsDriver(ring_driver.monitor)


def harvest(driver, rounds=5):
    """Wait and dispatch, without sleeping; return the number of delivered completions."""
    count = 0
    for _ in range(rounds):
        driver.wait(0)
        count += driver.dispatch()
    return count


def silent_recv(requests, fds, **kwargs):
    """A receive that cannot complete, the ends of its socket, and its memory."""
    near, far = fds.socketpair()
    request = RecordingRequest(**kwargs)
    memory = bytearray(16)
    requests.recv(request, near.fileno(), memory)
    return request, near, far, memory


# hold and release


def test_hold_takes_one_reference_and_release_drops_it(ring):
    request = RecordingRequest()
    before = sys.getrefcount(request)
    ring.hold(request)
    assert sys.getrefcount(request) == before + 1
    ring.release(request)
    assert sys.getrefcount(request) == before


def test_states_follow_hold_and_release(ring):
    request = RecordingRequest()
    assert request.request_state == RequestState.IDLE
    assert not request.is_in_flight
    ring.hold(request)
    assert request.request_state == RequestState.IN_FLIGHT
    assert request.is_in_flight
    ring.release(request)
    assert request.request_state == RequestState.DONE
    assert not request.is_in_flight


def test_in_flight_goes_up_and_down_with_hold_and_release(ring):
    requests = [RecordingRequest() for _ in range(5)]
    for count, request in enumerate(requests, 1):
        ring.hold(request)
        assert ring.in_flight == count
    assert ring.snapshot() == requests[::-1]
    for request in (requests[2], requests[0], requests[4], requests[1], requests[3]):
        ring.release(request)
        assert request not in ring.snapshot()
        assert len(ring.snapshot()) == ring.in_flight
    assert ring.in_flight == 0


def test_held_request_lives_without_other_references(ring):
    request = RecordingRequest()
    gone = weakref.ref(request)
    user_data = ring.hold(request)
    del request
    gc.collect()
    assert request_of(user_data) is gone()
    ring.release(request_of(user_data))
    gc.collect()
    assert gone() is None


def test_request_in_flight_cannot_be_held_again(ring):
    request = RecordingRequest()
    ring.hold(request)
    before = sys.getrefcount(request)
    with pytest.raises(RuntimeError, match="in flight"):
        ring.hold(request)
    assert sys.getrefcount(request) == before
    assert ring.in_flight == 1


def test_request_that_is_not_in_flight_cannot_be_released(ring):
    request = RecordingRequest()
    with pytest.raises(RuntimeError, match="not in flight"):
        ring.release(request)
    ring.hold(request)
    ring.release(request)
    with pytest.raises(RuntimeError, match="not in flight"):
        ring.release(request)
    assert ring.in_flight == 0


def test_request_can_be_reused_after_its_end(ring):
    request = RecordingRequest()
    before = sys.getrefcount(request)
    for _ in range(3):
        ring.hold(request)
        ring.release(request)
    assert sys.getrefcount(request) == before


def test_user_data_is_never_zero_and_finds_its_request(ring):
    requests = [RecordingRequest() for _ in range(100)]
    numbers = [user_data_of(request) for request in requests]
    assert 0 not in numbers
    assert len(set(numbers)) == 100
    assert all(request_of(number) is request for number, request in zip(numbers, requests, strict=True))
    assert all(ring.hold(request) == number for number, request in zip(numbers, requests, strict=True))


# Completions


def test_completion_is_delivered_by_dispatch_and_not_by_wait(ring_driver, requests):
    request = RecordingRequest()
    requests.nop(request)
    assert request.calls == []
    assert ring_driver.need_wait()
    ring_driver.wait(0)
    assert request.calls == []
    assert ring_driver.has_undispatched()
    assert request.request_state == RequestState.DONE
    assert ring_driver.dispatch() == 1
    assert request.calls == [("complete", 0, False, None)]
    assert not ring_driver.has_undispatched()
    assert requests.in_flight == 0


def test_wait_does_not_block_while_something_is_undispatched(ring_driver, requests):
    request = RecordingRequest()
    requests.nop(request)
    ring_driver.wait(0)
    ring_driver.wait(-1)
    assert ring_driver.dispatch() == 1


def test_many_completions_are_delivered_once_and_in_order(ring_driver, requests):
    order = []
    made = [RecordingRequest(lambda request, res: order.append(request)) for _ in range(2000)]
    for request in made:
        requests.nop(request)
    while requests.in_flight or ring_driver.has_undispatched():
        harvest(ring_driver, 1)
    assert order == made
    statistics = ring_driver.statistics()
    assert statistics["in_flight"] == 0
    assert statistics["submitted"] >= 2000
    assert statistics["completed"] >= 2000


def test_completions_stay_in_order_when_their_queue_grows(ring_driver, requests):
    """Wherever its head is: it has room for 128 at first."""
    order = []
    made = [RecordingRequest(lambda request, res: order.append(request)) for _ in range(300)]
    for request in made[:50]:
        requests.nop(request)
    harvest(ring_driver, rounds=10)
    for request in made[50:]:
        requests.nop(request)
        if requests.in_flight > 40:
            ring_driver.wait(0)
    harvest(ring_driver, rounds=10)
    assert order == made


def test_completion_that_arrives_during_dispatch_waits_for_the_next(ring_driver, requests):
    second = RecordingRequest()

    def submit_and_wait(request, res):
        requests.nop(second)
        ring_driver.wait(0)

    requests.nop(first := RecordingRequest(submit_and_wait))
    ring_driver.wait(0)
    assert ring_driver.dispatch() == 1
    assert len(first.calls) == 1
    assert second.calls == []
    assert ring_driver.dispatch() == 1
    assert len(second.calls) == 1


def test_nested_dispatch_delivers_what_the_outer_one_has_left(ring_driver, requests):
    order = []

    def nested(request, res):
        order.append(request)
        ring_driver.wait(0)
        ring_driver.dispatch()

    made = [RecordingRequest(nested) for _ in range(5)]
    for request in made:
        requests.nop(request)
    ring_driver.wait(0)
    assert ring_driver.dispatch() >= 1
    assert order == made
    assert ring_driver.dispatch() == 0


def test_request_can_be_submitted_again_from_its_own_completion(ring_driver, requests):
    left = 10

    def again(request, res):
        nonlocal left
        left -= 1
        if left:
            requests.nop(request)

    request = RecordingRequest(again)
    requests.nop(request)
    assert harvest(ring_driver, 20) == 10
    assert requests.in_flight == 0


def test_exception_in_a_completion_leaves_the_others_undispatched(ring_driver, requests):
    def fail(request, res):
        raise KeyboardInterrupt

    made = [RecordingRequest(fail), RecordingRequest()]
    for request in made:
        requests.nop(request)
    ring_driver.wait(0)
    with pytest.raises(KeyboardInterrupt):
        ring_driver.dispatch()
    assert ring_driver.has_undispatched()
    assert ring_driver.dispatch() == 1
    assert len(made[1].calls) == 1


def test_memory_of_a_request_lives_until_its_owner_releases_it(ring_driver, requests, fds):
    request, _, far, memory = silent_recv(requests, fds)
    del memory
    harvest(ring_driver)
    with pytest.raises(RuntimeError, match="kernel"):
        request.forget_kept_alive()
    with pytest.raises(BufferError):
        request.kept_alive[0].clear()
    far.send(b"data")
    harvest(ring_driver)
    assert request.calls == [("complete", 4, False, None)]
    assert request.kept_alive[0][:4] == b"data"
    request.forget_kept_alive()


# Cancelling


def test_cancelled_request_has_exactly_one_final_completion(ring_driver, requests, fds):
    request, *_ = silent_recv(requests, fds)
    harvest(ring_driver)
    requests.cancel(request)
    assert request.request_state == RequestState.CANCELLING
    requests.cancel(request)
    harvest(ring_driver)
    assert request.calls == [("complete", -ECANCELED, False, None)]
    assert request.request_state == RequestState.DONE
    assert requests.in_flight == 0


def test_request_cancelled_before_it_was_submitted_has_one_final_completion(ring_driver, requests, fds):
    request, *_ = silent_recv(requests, fds)
    requests.cancel(request)
    harvest(ring_driver)
    assert request.calls == [("complete", -ECANCELED, False, None)]


def test_cancel_after_the_completion_changes_nothing(ring_driver, requests, fds):
    request, near, far, memory = silent_recv(requests, fds)
    harvest(ring_driver)
    far.send(b"late")
    requests.cancel(request)
    harvest(ring_driver)
    [(_, res, _, _)] = request.calls
    if res == -ECANCELED:
        assert near.recv(10) == b"late"
    else:
        assert memory[:res] == b"late"
    requests.cancel(request)
    assert harvest(ring_driver) == 0
    assert requests.in_flight == 0


def test_cancelled_receive_does_not_swallow_data(ring_driver, requests, fds):
    request, near, far, _ = silent_recv(requests, fds)
    harvest(ring_driver)
    requests.cancel(request)
    harvest(ring_driver)
    far.send(b"kept")
    assert near.recv(10) == b"kept"


def test_cancelling_an_idle_request_does_nothing(ring_driver, requests):
    request = RecordingRequest()
    requests.cancel(request)
    assert request.request_state == RequestState.IDLE
    assert harvest(ring_driver) == 0


def test_storm_of_cancels_gives_each_request_one_completion(ring_driver, requests, fds):
    made = [silent_recv(requests, fds)[0] for _ in range(200)]
    for request in made[::2]:
        requests.cancel(request)
    harvest(ring_driver, 20)
    for request in made[1::2]:
        requests.cancel(request)
    harvest(ring_driver, 20)
    assert [request.calls for request in made] == [[("complete", -ECANCELED, False, None)]] * 200
    assert requests.in_flight == 0


def test_cancel_of_many_held_requests_needs_no_free_sq_slot(ring_driver, requests, fds):
    made = [silent_recv(requests, fds)[0] for _ in range(400)]
    for request in made:
        requests.cancel(request)
    harvest(ring_driver, 30)
    assert all(len(request.calls) == 1 for request in made)


def test_a_cancelled_request_is_alive_until_its_final_completion(ring_driver, requests, fds):
    request, _, far, _ = silent_recv(requests, fds)
    gone = weakref.ref(request)
    harvest(ring_driver)
    requests.cancel(request)
    assert request.request_state == RequestState.CANCELLING
    del request
    gc.collect()
    assert gone() is not None
    harvest(ring_driver)
    gc.collect()
    assert gone() is None
    assert requests.in_flight == 0
    assert far.fileno() >= 0


# Sends without a completion on success


def test_send_without_completion_is_settled_within_the_wait(ring_driver, requests, fds):
    near, far = fds.socketpair()
    request = RecordingRequest(skip_send=True)
    requests.skip_send(request, near.fileno(), b"hello")
    assert ring_driver.need_wait()
    ring_driver.wait(0)
    assert request.calls == [("settle", EVERYTHING_SENT)]
    assert far.recv(10) == b"hello"
    assert not ring_driver.has_undispatched()
    assert requests.in_flight == 0


def test_send_without_completion_is_settled_by_submit(ring_driver, requests, fds):
    near, far = fds.socketpair()
    request = RecordingRequest(skip_send=True)
    requests.skip_send(request, near.fileno(), b"hello")
    ring_driver.submit()
    assert request.calls == [("settle", EVERYTHING_SENT)]
    assert far.recv(10) == b"hello"


def test_short_send_is_settled_with_its_count(ring_driver, requests, fds):
    if not skips_sends(ring_driver.monitor):
        pytest.skip("this kernel loses the count of a short send")
    near, far = fds.socketpair()
    request = RecordingRequest(skip_send=True)
    requests.skip_send(request, near.fileno(), bytes(8 << 20))
    ring_driver.wait(0)
    [(what, count)] = request.calls
    assert what == "settle"
    assert 0 < count < 8 << 20
    received = 0
    with pytest.raises(BlockingIOError):
        while True:
            received += len(far.recv(1 << 20))
    assert received == count


def test_failed_send_is_settled_with_its_errno(ring_driver, requests, fds):
    near, far = fds.socketpair()
    far.close()
    request = RecordingRequest(skip_send=True)
    requests.skip_send(request, near.fileno(), b"hello")
    ring_driver.wait(0)
    assert request.calls == [("settle", -32)]  # EPIPE


def test_many_sends_are_each_settled_once_although_the_sq_is_full(ring_driver, requests, fds):
    pairs = [fds.socketpair() for _ in range(300)]
    made = []
    for number, (near, far) in enumerate(pairs):
        if number % 7 == 0:
            far.close()
        made.append(RecordingRequest(skip_send=True))
        requests.skip_send(made[-1], near.fileno(), b"x")
    ring_driver.wait(0)
    assert [request.calls for request in made] == [
        [("settle", -32 if number % 7 == 0 else EVERYTHING_SENT)] for number in range(300)
    ]
    assert requests.in_flight == 0


def test_failed_sends_that_overflow_the_cq_do_not_count_as_sent(ring_driver, requests, fds):
    """Overflowed completions are fetched before a send without a completion counts as sent."""
    near, far = fds.socketpair()
    far.close()
    fillers = [RecordingRequest() for _ in range(1100)]
    for request in fillers:
        requests.nop(request)
    sends = [RecordingRequest(skip_send=True) for _ in range(50)]
    for request in sends:
        requests.skip_send(request, near.fileno(), b"x")
    while requests.in_flight or ring_driver.has_undispatched():
        harvest(ring_driver, 1)
    assert [request.calls for request in sends] == [[("settle", -32)]] * 50
    assert all(request.calls == [("complete", 0, False, None)] for request in fillers)
    assert ring_driver.statistics()["cq_overflows"] > 0


# The end


def test_close_cancels_and_drains_requests_in_flight(ring_driver, requests, fds):
    made = [silent_recv(requests, fds) for _ in range(N_CLOSED)]
    harvest(ring_driver)
    references = [sys.getrefcount(request) for request, *_ in made]
    ring_driver.close()
    assert requests.in_flight == 0
    assert ring_driver.statistics()["in_flight"] == 0
    assert [request.calls for request, *_ in made] == [[("drop", -ECANCELED)]] * N_CLOSED
    assert [sys.getrefcount(request) for request, *_ in made] == [count - 1 for count in references]


def test_close_drops_requests_that_were_not_submitted(ring_driver, requests, fds):
    request, *_ = silent_recv(requests, fds)
    ring_driver.close()
    assert requests.in_flight == 0
    assert len(request.calls) == 1
    assert not request.is_in_flight


def test_close_drops_completions_that_were_not_dispatched(ring_driver, requests):
    request = RecordingRequest()
    before = sys.getrefcount(request)
    requests.nop(request)
    ring_driver.wait(0)
    ring_driver.close()
    assert request.calls == [("drop", 0)]
    assert sys.getrefcount(request) == before
    assert not ring_driver.has_undispatched()


def test_socket_is_really_closed_after_close(ring_driver, requests, fds):
    """A request in flight keeps the file alive: the peer must see the end."""
    _, near, far, _ = silent_recv(requests, fds)
    harvest(ring_driver)
    near.close()
    ring_driver.close()
    assert far.recv(1) == b""


def test_close_by_another_thread_keeps_memory_that_the_kernel_may_touch(ring_driver, requests, fds):
    held, _, _, _ = silent_recv(requests, fds)
    harvest(ring_driver)
    thread = threading.Thread(target=ring_driver.close)
    thread.start()
    thread.join()
    statistics = ring_driver.statistics()
    assert statistics.leaked == 1
    assert held.is_in_flight
    assert held.kept_alive is not None


def test_requests_in_flight_end_cancelled_when_another_thread_runs_the_loop(ring_driver, requests, fds):
    request, near, far, _ = silent_recv(requests, fds)
    harvest(ring_driver)

    def elsewhere():
        ring_driver.begin_run()
        harvest(ring_driver)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert request.calls == [("complete", -ECANCELED, False, None)]
    assert requests.in_flight == 0
    far.send(b"not lost")
    assert near.recv(10) == b"not lost"


def test_data_that_arrived_before_the_move_is_not_lost(ring_driver, requests, fds):
    request, near, far, memory = silent_recv(requests, fds)
    harvest(ring_driver)
    far.send(b"data")  # completes the receive as deferred work of the old owner

    def elsewhere():
        ring_driver.begin_run()
        harvest(ring_driver)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    [(_, res, _, _)] = request.calls
    if res == -ECANCELED:
        assert near.recv(10, socket.MSG_DONTWAIT) == b"data"
    else:
        assert memory[:res] == b"data"

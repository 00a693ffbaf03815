"""One io_uring instance: flags, a disabled ring, a full SQ, waiting, spare rings, close."""

import errno
import os
import resource
import threading
import time

import pytest

pytest.importorskip("drivers.ring")

from drivers.ring import (
    DEFER_TASKRUN_FLAG,
    DISABLED_FLAG,
    SINGLE_ISSUER_FLAG,
    RingDriver,
)
from drivers.violations import HAS_ASSERTIONS
from support.helpers import run_script, wait_until

import uringloop
from unit.conftest import forget_spare_rings, open_fds
from uringloop.liburing import refusal
from uringloop.uring.ring import Ring, explain, give_back, take_ring

SQ_ENTRIES = 64
CQ_ENTRIES = 128
NEW_KERNEL = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2]) >= (6, 1)


@pytest.fixture
def new_ring(ring_driver):
    """A function that makes a RingDriver; `ring_driver` skips where there is no io_uring."""
    made = []

    def new(*, enabled=True, **kwargs):
        made.append(RingDriver(Ring(**kwargs)))
        if enabled:
            made[-1].enable()
        return made[-1]

    yield new
    for ring in made:
        ring.close()


@pytest.fixture
def ring(new_ring):
    return new_ring()


def reap_all(ring, count, rounds=50):
    found = []
    for _ in range(rounds):
        ring.enter(0)
        found += ring.reap()
        if len(found) >= count:
            break
    return found


def test_ring_is_made_disabled_with_the_best_flags(new_ring):
    ring = new_ring(enabled=False)
    assert ring.ring.is_open
    assert not ring.ring.is_enabled
    assert ring.ring.setup_flags & DISABLED_FLAG
    if NEW_KERNEL:
        assert ring.ring.setup_flags & SINGLE_ISSUER_FLAG
        assert ring.ring.setup_flags & DEFER_TASKRUN_FLAG


def test_ring_for_several_threads_has_no_single_issuer(new_ring):
    ring = new_ring(enabled=False, single_issuer=False)
    assert not ring.ring.setup_flags & (SINGLE_ISSUER_FLAG | DEFER_TASKRUN_FLAG)


def test_fd_of_a_ring_is_not_inherited(ring):
    assert not os.get_inheritable(ring.fd)


def test_an_sqe_that_was_not_filled_completes_for_no_request(ring):
    """Each slot of the SQ was used by a request that may be freed by now."""
    for _ in range(SQ_ENTRIES):
        ring.nop(7)
    assert len(reap_all(ring, SQ_ENTRIES)) == SQ_ENTRIES
    for _ in range(SQ_ENTRIES):
        ring.abandon_nop()
    assert [user_data for user_data, *_ in reap_all(ring, SQ_ENTRIES)] == [0] * SQ_ENTRIES


def test_requests_complete_in_order_with_their_user_data(ring):
    for number in range(1, 21):
        ring.nop(number)
    assert ring.has_unsubmitted()
    assert ring.enter(1, 10**9) == 20
    assert not ring.has_unsubmitted()
    assert [(user_data, res) for user_data, res, _ in ring.reap()] == [(number, 0) for number in range(1, 21)]
    assert not ring.has_completions()
    assert (ring.ring.n_submitted, ring.ring.n_syscalls) == (20, 1)


def test_nothing_happens_before_an_enter(ring):
    ring.nop(1)
    assert not ring.has_completions()
    assert ring.reap() == []


@pytest.mark.parametrize("count", [SQ_ENTRIES, SQ_ENTRIES + 1, 3 * SQ_ENTRIES])
def test_full_sq_is_submitted_to_make_room(ring, count):
    for number in range(1, count + 1):
        ring.nop(number)
    assert ring.ring.n_syscalls == (count - 1) // SQ_ENTRIES
    assert [user_data for user_data, _, _ in reap_all(ring, count)] == list(range(1, count + 1))


@pytest.mark.parametrize("count", [1, SQ_ENTRIES - 1, SQ_ENTRIES, SQ_ENTRIES + 1, 1000])
def test_disabled_ring_takes_more_requests_than_the_sq_and_keeps_their_order(new_ring, count):
    ring = new_ring(enabled=False)
    for number in range(1, count + 1):
        ring.nop(number)
    assert ring.n_beyond_sq == max(0, count - SQ_ENTRIES)
    assert ring.ring.n_syscalls == 0
    ring.enable()
    assert ring.n_beyond_sq == 0
    assert [user_data for user_data, _, _ in reap_all(ring, count)] == list(range(1, count + 1))


def test_completions_beyond_the_cq_are_kept_in_order(ring):
    count = CQ_ENTRIES + 700
    for number in range(1, count + 1):
        ring.nop(number)
    ring.enter(0)
    first = ring.reap()
    assert len(first) == CQ_ENTRIES
    assert ring.has_completions(), "the overflow flag shows that there are more"
    found = first + reap_all(ring, count - CQ_ENTRIES)
    assert [user_data for user_data, _, _ in found] == list(range(1, count + 1))
    assert not ring.has_completions()


@pytest.mark.parametrize("timeout_ns", [1, 200_000, 3_000_000])
def test_wait_ends_after_its_timeout_and_not_before(ring, timeout_ns):
    before = time.monotonic_ns()
    assert ring.enter(1, timeout_ns) == -62  # ETIME
    assert time.monotonic_ns() - before >= timeout_ns


def test_enter_that_waits_for_nothing_does_not_block(ring):
    assert ring.enter(0) == 0


def test_entering_a_disabled_ring_is_an_error(new_ring):
    ring = new_ring(enabled=False)
    ring.nop(1)
    with pytest.raises(OSError, match="io_uring_enter") as caught:
        ring.enter(0)
    assert caught.value.errno == 77  # EBADFD


def test_enable_is_idempotent(ring):
    ring.enable()
    ring.nop(1)
    assert len(reap_all(ring, 1)) == 1


@pytest.mark.skipif(HAS_ASSERTIONS, reason="an assertion fails first: tests/unit/test_assertions.py")
def test_ring_belongs_to_the_thread_that_enabled_it(new_ring):
    ring = new_ring(enabled=False)
    if not ring.ring.setup_flags & SINGLE_ISSUER_FLAG:
        pytest.skip("this kernel has no single issuer")
    thread = threading.Thread(target=ring.enable)
    thread.start()
    thread.join()
    ring.nop(1)
    with pytest.raises(OSError) as caught:
        ring.enter(0)
    assert caught.value.errno == 17  # EEXIST


def test_close_is_idempotent_and_closes_the_fd(new_ring):
    before = open_fds()
    ring = new_ring()
    ring.nop(1)
    ring.close()
    ring.close()
    assert ring.fd == -1
    assert open_fds() == before


def test_close_leaves_the_file_open_that_has_got_the_number_of_the_ring(ring, fds):
    """The program has closed all fds, as a daemon does, and opened others."""
    read_fd, write_fd = fds.pipe()
    os.dup2(read_fd, ring.fd)
    number = ring.fd
    ring.close()
    os.write(write_fd, b"x")
    assert os.read(number, 1) == b"x"
    os.close(number)


def test_close_of_a_disabled_ring_drops_its_queued_requests(new_ring):
    ring = new_ring(enabled=False)
    for number in range(1, 400):
        ring.nop(number)
    ring.close()
    assert ring.n_beyond_sq == 0


def test_request_for_a_closed_ring_raises_and_does_not_crash(request, ring_driver):
    run_script(
        """
        from drivers.ring import RingDriver
        from uringloop.uring.ring import Ring
        for enabled in (True, False):
            ring = RingDriver(Ring())
            if enabled:
                ring.enable()
            ring.close()
            for call in (lambda: ring.nop(1), ring.has_unsubmitted, ring.has_completions, ring.enter):
                try:
                    call()
                except (OSError, RuntimeError) as error:
                    print(error)
        """,
        "io_uring",
    )


# Spare rings


def test_spare_ring_is_reused(ring_driver):
    forget_spare_rings()
    first = take_ring()
    assert give_back(first)
    assert take_ring() is first
    assert take_ring() is not first
    forget_spare_rings()


def test_ring_with_requests_or_completions_is_not_kept(new_ring):
    for enabled in (True, False):
        ring = new_ring(enabled=enabled)
        ring.nop(1)
        assert not give_back(ring.ring)
    ring = new_ring()
    ring.nop(1)
    ring.enter(0)
    assert not give_back(ring.ring), "a completion is left"


def test_closed_ring_is_not_kept(new_ring):
    ring = new_ring()
    ring.close()
    assert not give_back(ring.ring)


def test_ring_that_another_thread_enabled_is_not_handed_out(ring_driver):
    forget_spare_rings()
    rings = []

    def life():
        rings.append(take_ring())
        RingDriver(rings[0]).enable()
        give_back(rings[0])

    thread = threading.Thread(target=life)
    thread.start()
    thread.join()
    taken = take_ring()
    if rings[0].setup_flags & SINGLE_ISSUER_FLAG:
        assert taken is not rings[0]
    RingDriver(taken).enable()
    assert RingDriver(taken).enter(0) == 0
    RingDriver(taken).close()
    forget_spare_rings()


@pytest.mark.parametrize("next_one", ["taken", "given back"])
def test_spare_ring_is_closed_after_its_thread_has_ended(ring_driver, next_one):
    """No other thread can use it, and its locked memory counts for all processes of the user."""
    forget_spare_rings()
    other = take_ring()
    before = open_fds()
    seen = []

    def life():
        ring = take_ring()
        RingDriver(ring).enable()
        assert give_back(ring)
        assert len(open_fds() - before) == 1
        seen.append(threading.get_native_id())
        del ring

    thread = threading.Thread(target=life)
    thread.start()
    thread.join()
    wait_until(lambda: not os.path.exists(f"/proc/self/task/{seen[0]}"))
    if next_one == "taken":
        kept = take_ring()
        assert len(open_fds() - before) == 1, "only the new ring"
        RingDriver(kept).close()
    else:
        give_back(other)
    assert open_fds() == before
    RingDriver(other).close()
    forget_spare_rings()


def test_only_a_few_spare_rings_are_kept(ring_driver):
    forget_spare_rings()
    before = open_fds()
    rings = [take_ring() for _ in range(10)]
    for ring in rings:
        give_back(ring)
    del rings, ring
    assert len(open_fds() - before) <= 4
    forget_spare_rings()
    assert open_fds() == before


def test_loop_that_never_ran_passes_its_ring_to_the_next(ring_driver):
    forget_spare_rings()
    loop = uringloop.new_event_loop(fdmon="io_uring")
    fds = open_fds()
    loop.close()
    loop = uringloop.new_event_loop(fdmon="io_uring")
    assert open_fds() == fds
    loop.close()


@pytest.mark.parametrize(
    "error", ["EPERM", "EACCES", "ENOSYS", "EMFILE", "ENFILE", "ENOMEM", "EINVAL", "EIO"]
)
def test_every_refusal_is_explained(ring_driver, error):
    text = explain(getattr(errno, error))
    assert text
    assert not text.endswith(".")


def test_the_cause_of_no_memory_is_not_a_limit_that_does_not_count(ring_driver, monkeypatch):
    monkeypatch.setattr(refusal, "has_capability", lambda number: True)
    assert "locked memory is not limited here" in explain(errno.ENOMEM)
    monkeypatch.setattr(refusal, "has_capability", lambda number: False)
    monkeypatch.setattr(resource, "getrlimit", lambda which: (64 << 10, 64 << 10))
    assert "RLIMIT_MEMLOCK is 64 KiB" in explain(errno.ENOMEM)

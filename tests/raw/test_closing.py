"""Closing loops that have raw requests."""

import errno
import gc
import threading
import weakref

import pytest
from support.helpers import make_loop

from uringloop.liburing import ffi, lib

from .common import NOP, Buffer, poll_of, read_of


def test_close_delivers_pending_requests_as_cancelled(pipe):
    loop = make_loop("io_uring")
    seen = []
    buffer = Buffer(4)
    request = loop.add_sqe(lib.io_uring_prep_read, pipe[0], ffi.from_buffer(buffer), 4, 0)
    poll_of(loop, pipe[0], callback=seen.append)
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    assert request.done()
    assert request.cqe.res == -errno.ECANCELED
    assert [cqe.res for cqe in seen] == [-errno.ECANCELED]
    watched = weakref.ref(buffer)
    del buffer
    gc.collect()
    assert watched() is None


def test_close_of_a_loop_that_never_ran_delivers_too():
    loop = make_loop("io_uring")
    seen = []
    for _ in range(600):
        loop.add_sqe(NOP, callback=seen.append)
    loop.close()
    assert [cqe.res for cqe in seen] == [-errno.ECANCELED] * 600


def test_harvested_completions_are_delivered_at_close():
    loop = make_loop("io_uring")
    seen = []
    loop.add_sqe(NOP, callback=seen.append)
    loop.call_soon(loop.stop)
    loop.run_forever()  # submits, but has no turn left to deliver
    loop.close()
    assert [cqe.res for cqe in seen] in ([0], [-errno.ECANCELED])


def test_an_exception_in_a_callback_at_close_hides_no_other(pipe):
    loop = make_loop("io_uring")
    seen = []

    def interrupt(cqe):
        seen.append(cqe)
        raise KeyboardInterrupt

    poll_of(loop, pipe[0], callback=interrupt)
    poll_of(loop, pipe[0], callback=seen.append)
    loop.call_soon(loop.stop)
    loop.run_forever()
    with pytest.raises(KeyboardInterrupt):
        loop.close()
    assert loop.is_closed()
    assert len(seen) == 2


def test_a_callback_at_close_cannot_make_requests(pipe):
    loop = make_loop("io_uring")
    errors = []

    def again(cqe):
        try:
            loop.add_sqe(NOP)
        except RuntimeError as error:
            errors.append(str(error))

    poll_of(loop, pipe[0], callback=again)
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    assert errors == ["Event loop is closed"]


def test_close_in_another_thread_delivers(pipe):
    seen = []
    made = []

    def work():
        loop = make_loop("io_uring")
        made.append(loop)
        poll_of(loop, pipe[0], callback=seen.append)
        loop.call_soon(loop.stop)
        loop.run_forever()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    made[0].close()
    assert [cqe.res for cqe in seen] == [-errno.ECANCELED]


def test_memory_that_the_kernel_may_touch_outlives_a_close_in_another_thread(pipe):
    """Only the thread that ran the loop could make the kernel release it; it is leaked."""
    made = []

    def work():
        loop = make_loop("io_uring")
        buffer = Buffer(4)
        made.extend((loop, weakref.ref(buffer), read_of(loop, pipe[0], buffer)))
        loop.call_soon(loop.stop)
        loop.run_forever()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    loop, buffer, request = made
    loop.close()
    assert request.done()
    assert loop.statistics()["leaked"] == 1
    made.clear()
    del request
    gc.collect()
    assert buffer() is not None


@pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")
def test_a_forgotten_loop_with_requests_is_collected(pipe):
    loop = make_loop("io_uring")
    request = poll_of(loop, pipe[0])
    loop.call_soon(loop.stop)
    loop.run_forever()
    watched = weakref.ref(loop)
    del loop, request
    gc.collect()
    assert watched() is None

"""AioContext.add_sqe(): requests reported to callbacks, without asyncio."""

import contextvars
import errno
import gc
import logging
import os
import socket
import threading
import weakref

import pytest

import uringloop
from uringloop.aiocontext.context import AioContext
from uringloop.fdmon.select import make_monitor
from uringloop.liburing import ffi, lib

from .common import NOP, Buffer, open_fds

READ = lib.io_uring_prep_read


def make_context(name="io_uring"):
    return AioContext(make_monitor(name)[0])


@pytest.fixture
def context():
    made = make_context()
    yield made
    made.close()


def turn_until(context, condition):
    for _ in range(1000):
        if condition():
            return
        context.poll(True)
    raise AssertionError(f"still false: {condition}")


def test_a_callback_gets_the_completion(context, pipe):
    seen = []
    memory = bytearray(4)
    request = context.add_sqe(READ, pipe[0], ffi.from_buffer(memory), 4, 0, callback=seen.append)
    assert not request.done()
    assert request.cqe is None
    os.write(pipe[1], b"data")
    turn_until(context, lambda: seen)
    assert seen == [uringloop.Cqe(4, 0)]
    assert request.cqe is seen[0]
    assert request.done()
    assert memory == b"data"
    assert "ContextRequest READ" in repr(request)
    assert not request.cancel()


def test_a_negative_result_is_not_raised(context):
    seen = []
    context.add_sqe(lib.io_uring_prep_close, 1 << 20, callback=seen.append)
    assert context.poll(True)
    assert [cqe.res for cqe in seen] == [-errno.EBADF]


def test_the_callback_runs_in_the_context_that_made_the_request(context):
    variable = contextvars.ContextVar("variable", default="nothing")
    seen = []
    contextvars.copy_context().run(
        lambda: (variable.set("made"), context.add_sqe(NOP, callback=lambda cqe: seen.append(variable.get())))
    )
    turn_until(context, lambda: seen)
    assert seen == ["made"]


def test_multishot_reports_each_and_cancel_ends_it(context):
    seen = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        request = context.add_sqe(
            lib.io_uring_prep_multishot_accept, listener.fileno(), ffi.NULL, ffi.NULL, 0,
            callback=seen.append, multishot=True,
        )  # fmt: skip
        for n in range(1, 4):
            with socket.create_connection(listener.getsockname()):
                turn_until(context, lambda n=n: len(seen) == n)
        assert request.cancel()
        assert request.cancel()
        turn_until(context, request.done)
    assert [cqe.more for cqe in seen] == [True, True, True, False]
    assert seen[-1].res == -errno.ECANCELED
    for cqe in seen[:3]:
        os.close(cqe.res)


def test_cancel_is_repeated_until_the_request_is_done(context, pipe):
    """The kernel does not find a request that a worker is taking over."""
    memory = bytearray(4)

    def read_by_worker(sqe):
        READ(sqe, pipe[0], ffi.from_buffer(memory), 4, 0)
        sqe.flags |= lib.IOSQE_ASYNC

    for _ in range(100):
        seen = []
        request = context.add_sqe(read_by_worker, callback=seen.append, keepalive=memory)
        context.poll(False)
        request.cancel()
        turn_until(context, lambda seen=seen: seen)
        assert [cqe.res for cqe in seen] == [-errno.ECANCELED]


def test_memory_is_kept_until_the_final_completion(context, pipe):
    memory, more = Buffer(4), Buffer(1)
    watched = [weakref.ref(memory), weakref.ref(more)]
    seen = []
    context.add_sqe(READ, pipe[0], ffi.from_buffer(memory), 4, 0, callback=seen.append, keepalive=more)
    del memory, more
    context.poll(False)
    gc.collect()
    assert all(ref() is not None for ref in watched)
    os.write(pipe[1], b"data")
    turn_until(context, lambda: seen)
    gc.collect()
    assert [ref() for ref in watched] == [None, None]


def test_an_exception_in_a_callback_is_logged_and_others_run(context, caplog):
    seen = []

    def fail(cqe):
        raise ZeroDivisionError

    context.add_sqe(NOP, callback=fail)
    context.add_sqe(NOP, callback=seen.append)
    with caplog.at_level(logging.ERROR, "uringloop"):
        turn_until(context, lambda: seen)
    assert [record.exc_info[0] for record in caplog.records] == [ZeroDivisionError]
    assert "fail" in caplog.text


def test_keyboard_interrupt_ends_the_turn_and_loses_nothing(context):
    seen = []

    def interrupt(cqe):
        raise KeyboardInterrupt

    context.add_sqe(NOP, callback=interrupt)
    context.add_sqe(NOP, callback=seen.append)
    with pytest.raises(KeyboardInterrupt):
        while True:
            context.poll(True)
    turn_until(context, lambda: seen)
    assert len(seen) == 1


def test_a_nested_turn_delivers_what_the_outer_one_has_left(context):
    order = []

    def nest(cqe):
        order.append("nest")
        context.poll(True)
        order.append("nested")

    context.add_sqe(NOP, callback=nest)
    for number in range(3):
        context.add_sqe(NOP, callback=lambda cqe, number=number: order.append(number))
    turn_until(context, lambda: "nested" in order)
    assert order == ["nest", 0, 1, 2, "nested"]


def test_a_multishot_callback_may_run_a_turn_that_calls_it_again(context, pipe):
    seen = []

    def nest(cqe):
        seen.append(cqe.more)
        if cqe.more:
            request.cancel()
            turn_until(context, lambda: len(seen) == 2)

    request = context.add_sqe(lib.io_uring_prep_poll_multishot, pipe[0], 1, callback=nest, multishot=True)
    os.write(pipe[1], b"x")
    turn_until(context, lambda: len(seen) == 2)
    assert seen == [True, False]


def test_64_requests_in_one_turn_cost_one_system_call(context):
    seen = []
    context.poll(False)
    before = context.statistics()
    for _ in range(64):
        context.add_sqe(NOP, callback=seen.append)
    turn_until(context, lambda: len(seen) == 64)
    after = context.statistics()
    assert after["submitted"] - before["submitted"] == 64
    assert after["syscalls"] - before["syscalls"] == 1


def test_thousands_of_requests_before_the_first_turn(context):
    seen = []
    for _ in range(5000):
        context.add_sqe(NOP, callback=seen.append)
    turn_until(context, lambda: len(seen) == 5000)


def test_close_cancels_and_reports(pipe):
    context = make_context()
    seen = []
    context.add_sqe(lib.io_uring_prep_poll_add, pipe[0], 1, callback=seen.append)
    context.poll(False)
    context.close()
    assert [cqe.res for cqe in seen] == [-errno.ECANCELED]
    with pytest.raises(RuntimeError, match="closed"):
        context.add_sqe(NOP, callback=seen.append)


def test_a_forgotten_context_is_collected_with_its_requests(pipe):
    before = open_fds()
    context = make_context()
    seen = []
    context.add_sqe(lib.io_uring_prep_poll_add, pipe[0], 1, callback=seen.append)
    context.poll(False)
    watched = weakref.ref(context.add_sqe(NOP, callback=seen.append))
    with pytest.warns(ResourceWarning, match="unclosed <AioContext"):  # noqa: PT031 (either may drop the last reference)
        del context
        gc.collect()
    assert sorted(cqe.res for cqe in seen) in ([-errno.ECANCELED, 0], [-errno.ECANCELED] * 2)
    assert watched() is None
    assert len(open_fds()) <= len(before) + 1  # a spare ring


@pytest.mark.parametrize(
    ("use", "error", "words"),
    [
        (lambda context: context.add_sqe(NOP), TypeError, "callback"),
        (lambda context: context.add_sqe(NOP, callback=None), TypeError, "callback must be callable"),
        (lambda context: context.add_sqe(None, callback=print), TypeError, "prep must be callable"),
        (lambda context: context.add_sqe(lambda sqe: None, callback=print), ValueError, "filled no SQE"),
        (
            lambda context: context.add_sqe(lib.io_uring_prep_poll_multishot, 0, 1, callback=print),
            ValueError,
            "multishot=True",
        ),
        (
            lambda context: context.add_sqe(READ, 0, ffi.new("char[4]"), 5, 0, callback=print),
            ValueError,
            "5 bytes of a cffi array of 4",
        ),
        (lambda context: context.add_sqe(lambda sqe: 1 / 0, callback=print), ZeroDivisionError, None),
    ],
)
def test_a_refused_request_leaves_nothing_behind(context, use, error, words):
    before = context.statistics()["in_flight"]
    with pytest.raises(error, match=words):
        use(context)
    assert context.statistics()["in_flight"] == before


def test_a_prep_function_may_close_the_context(pipe):
    context = make_context()
    with pytest.raises(RuntimeError, match="closed"):
        context.add_sqe(lambda sqe: (NOP(sqe), context.close()), callback=print)


def test_a_callback_may_close_the_context(pipe):
    """Later requests get their true results, or are reported as cancelled."""
    context = make_context("io_uring")
    seen = []
    context.add_sqe(NOP, callback=lambda cqe: (seen.append(cqe.res), context.close()))
    context.add_sqe(NOP, callback=lambda cqe: seen.append(cqe.res))
    context.add_sqe(lib.io_uring_prep_poll_add, pipe[0], 1, callback=lambda cqe: seen.append(cqe.res))
    assert context.poll(True)
    assert seen == [0, 0, -errno.ECANCELED]
    with pytest.raises(RuntimeError, match="closed"):
        context.poll(True)


def test_another_thread_is_refused(context, pipe):
    request = context.add_sqe(lib.io_uring_prep_poll_add, pipe[0], 1, callback=str)
    context.poll(False)
    errors = []

    def misuse():
        for use in (lambda: context.add_sqe(NOP, callback=print), request.cancel):
            try:
                use()
            except RuntimeError as error:
                errors.append(str(error))

    thread = threading.Thread(target=misuse)
    thread.start()
    thread.join()
    assert len(errors) == 2
    assert all("Non-thread-safe" in error for error in errors)
    request.cancel()
    turn_until(context, request.done)


def test_requests_of_a_loops_context(loop):
    """loop.aio_context is the same object."""
    seen = []
    loop.aio_context.add_sqe(NOP, callback=lambda cqe: (seen.append(cqe), loop.stop()))
    loop.run_forever()
    assert [cqe.res for cqe in seen] == [0]


@pytest.mark.parametrize("name", ["epoll", "poll"])
def test_other_monitors_raise_sqe_not_supported(name):
    context = make_context(name)
    try:
        with pytest.raises(uringloop.SqeNotSupported, match=name) as caught:
            context.add_sqe(NOP, callback=print)
        assert caught.value.monitor == name
    finally:
        context.close()


@pytest.mark.parametrize("name", ["epoll", "poll"])
def test_the_error_names_the_reason_for_the_monitor(name, monkeypatch):
    monkeypatch.setenv("URINGLOOP_FDMON", name)
    context = uringloop.AioContext()
    with pytest.raises(uringloop.SqeNotSupported, match=f"requested by URINGLOOP_FDMON={name}"):
        context.add_sqe(NOP, callback=print)
    context.close()

"""add_sqe(): results, callbacks, cancelling, chains, submission, nested turns, other loops."""

import asyncio
import contextvars
import errno
import os
import socket
import threading

import pytest
from support.helpers import make_loop, turns, until

import uringloop
from uringloop.liburing import ffi, lib

from .common import NOP, open_fds, read_of

# Results


async def test_await_returns_the_result(pipe):
    loop = asyncio.get_running_loop()
    os.write(pipe[1], b"hello")
    buffer = bytearray(16)
    request = read_of(loop, pipe[0], buffer)
    assert not request.done()
    assert request.cqe is None
    assert await request == 5
    assert buffer[:5] == b"hello"
    assert request.done()
    assert request.cqe == uringloop.Cqe(5, 0)


async def test_a_negative_result_raises_the_os_error_of_its_errno():
    loop = asyncio.get_running_loop()
    request = loop.add_sqe(lib.io_uring_prep_openat, lib.AT_FDCWD, b"/nowhere", os.O_RDONLY, 0)
    with pytest.raises(FileNotFoundError) as caught:
        await request
    assert caught.value.errno == errno.ENOENT
    assert caught.value.strerror == os.strerror(errno.ENOENT)
    assert request.cqe.res == -errno.ENOENT


async def test_after_the_completion_every_await_returns_the_same():
    loop = asyncio.get_running_loop()
    request = loop.add_sqe(NOP)
    assert await request == 0
    assert await request == 0
    failing = loop.add_sqe(lib.io_uring_prep_close, 1 << 20)
    for _ in range(2):
        with pytest.raises(OSError, match="Bad file descriptor"):
            await failing


async def test_a_second_await_while_the_first_waits_is_an_error(pipe):
    loop = asyncio.get_running_loop()
    request = read_of(loop, pipe[0], bytearray(4))
    first = asyncio.ensure_future(request)
    await turns(2)
    with pytest.raises(RuntimeError, match="awaited already"):
        await request
    os.write(pipe[1], b"x")
    assert await first == 1


async def test_gather_and_wait_for_take_requests(pipe):
    loop = asyncio.get_running_loop()
    assert not asyncio.isfuture(loop.add_sqe(NOP))
    assert await asyncio.gather(*[loop.add_sqe(NOP) for _ in range(10)]) == [0] * 10
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(read_of(loop, pipe[0], bytearray(4)), 0.001)
    assert await asyncio.wait_for(loop.add_sqe(NOP), 10) == 0


async def test_a_request_that_is_never_awaited_and_fails_is_reported_like_a_future(request):
    loop = asyncio.get_running_loop()
    reports = []
    loop.set_exception_handler(lambda _loop, context: reports.append(context))
    loop.add_sqe(lib.io_uring_prep_close, 1 << 20)
    await until(lambda: reports)
    assert isinstance(reports[0]["exception"], OSError)
    assert "was never awaited" in reports[0]["message"]
    seen = loop.add_sqe(lib.io_uring_prep_close, 1 << 20)
    await until(seen.done)
    assert seen.cqe.res == -errno.EBADF  # the cqe was read: nothing to report
    del seen
    await turns(3)
    assert len(reports) == 1


async def test_a_zero_copy_send_is_done_when_its_memory_is_free():
    if not hasattr(lib, "io_uring_prep_send_zc"):
        pytest.fail("liburing 2.3 has it")
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        client.connect(listener.getsockname())
        peer, _ = listener.accept()
        with peer:
            data = bytearray(b"z" * 1000)
            request = loop.add_sqe(
                lib.io_uring_prep_send_zc, client.fileno(), ffi.from_buffer(data), 1000, 0, 0
            )
            assert await request == 1000
            assert not request.cqe.is_notification
            assert peer.recv(2000) == data


# Callbacks


async def test_a_callback_is_called_once_with_the_raw_completion():
    loop = asyncio.get_running_loop()
    seen = []
    loop.add_sqe(lib.io_uring_prep_close, 1 << 20, callback=seen.append)
    await until(lambda: seen)
    await turns(3)
    assert [(cqe.res, cqe.more) for cqe in seen] == [(-errno.EBADF, False)]


async def test_a_callback_runs_in_the_context_that_made_the_request():
    loop = asyncio.get_running_loop()
    variable = contextvars.ContextVar("variable", default="nothing")
    seen = []
    variable.set("made")
    loop.add_sqe(NOP, callback=lambda cqe: seen.append(variable.get()))
    variable.set("changed since")
    await until(lambda: seen)
    assert seen == ["made"]


@pytest.mark.expects_loop_errors
async def test_an_exception_in_a_callback_is_reported_and_others_run(loop_errors):
    loop = asyncio.get_running_loop()
    seen = []

    def fail(cqe):
        raise ZeroDivisionError

    loop.add_sqe(NOP, callback=fail)
    loop.add_sqe(NOP, callback=seen.append)
    await until(lambda: seen)
    assert [type(context["exception"]) for context in loop_errors] == [ZeroDivisionError]


async def test_a_request_with_a_callback_cannot_be_awaited():
    loop = asyncio.get_running_loop()
    seen = []
    request = loop.add_sqe(NOP, callback=seen.append)
    with pytest.raises(TypeError, match="reports to its callback"):
        await request
    await until(lambda: seen)


def test_keyboard_interrupt_in_a_callback_loses_no_completion(loop):
    seen = []

    def interrupt(cqe):
        raise KeyboardInterrupt

    loop.add_sqe(NOP, callback=interrupt)
    loop.add_sqe(NOP, callback=seen.append)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert len(seen) == 1


# Cancelling


async def test_cancel_causes_exactly_one_completion(pipe):
    loop = asyncio.get_running_loop()
    seen = []
    request = read_of(loop, pipe[0], bytearray(4), callback=seen.append)
    assert request.cancel()
    assert request.cancel()
    await until(lambda: seen)
    await turns(3)
    assert [cqe.res for cqe in seen] == [-errno.ECANCELED]
    assert not request.cancel()


async def test_a_cancelled_task_continues_when_the_kernel_has_finished(pipe):
    loop = asyncio.get_running_loop()
    request = read_of(loop, pipe[0], bytearray(4))
    task = asyncio.ensure_future(request)
    await turns(2)
    task.cancel("why")
    with pytest.raises(asyncio.CancelledError, match="why"):
        await task
    assert request.done()
    assert request.cqe.res == -errno.ECANCELED
    os.write(pipe[1], b"kept")
    assert os.read(pipe[0], 4) == b"kept"


async def test_a_second_cancel_does_not_shorten_the_wait(pipe):
    """Both cancels are made before the kernel completes the request."""
    loop = asyncio.get_running_loop()
    request = read_of(loop, pipe[0], bytearray(4))
    done_at_the_end = []

    async def use():
        try:
            await request
        finally:
            done_at_the_end.append(request.done())

    task = asyncio.create_task(use())
    await turns(2)
    task.cancel()
    await turns(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done_at_the_end == [True]


async def test_the_true_result_is_available_after_a_late_cancellation(pipe):
    loop = asyncio.get_running_loop()
    buffer = bytearray(4)
    request = read_of(loop, pipe[0], buffer)
    task = asyncio.ensure_future(request)
    await turns(2)
    os.write(pipe[1], b"data")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert request.cqe.res == 4
    assert buffer == b"data"
    assert await request == 4


async def test_closing_a_coroutine_cancels_the_request_that_it_awaits(pipe):
    loop = asyncio.get_running_loop()
    request = read_of(loop, pipe[0], bytearray(4))

    async def use():
        await request

    coroutine = use()
    coroutine.send(None)
    coroutine.close()
    await until(request.done)
    assert request.cqe.res == -errno.ECANCELED


# Chains


async def test_a_chain_runs_in_order_and_stops_at_a_failure(tmp_path):
    loop = asyncio.get_running_loop()
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    buffer = bytearray(5)
    try:
        write, read = loop.add_sqes(
            [
                (lib.io_uring_prep_write, fd, b"chain", 5, 0),
                (lib.io_uring_prep_read, fd, ffi.from_buffer(buffer), 5, 0),
            ]
        )
        assert await read == 5
        assert await write == 5
        assert buffer == b"chain"
        failing, never = loop.add_sqes([(lib.io_uring_prep_close, 1 << 20), (NOP,)])
        with pytest.raises(OSError, match="Bad file"):
            await failing
        with pytest.raises(OSError) as caught:
            await never
        assert caught.value.errno == errno.ECANCELED
    finally:
        os.close(fd)


async def test_a_hard_link_goes_on_after_a_failure():
    loop = asyncio.get_running_loop()

    def close_hard(sqe):
        lib.io_uring_prep_close(sqe, 1 << 20)
        sqe.flags |= lib.IOSQE_IO_HARDLINK

    failing, after = loop.add_sqes([(close_hard,), (NOP,)])
    assert await after == 0
    assert failing.done()
    assert failing.cqe.res == -errno.EBADF


async def test_no_chain_is_split_by_a_full_queue():
    """If a chain was split, its second half would run although the first has failed."""
    loop = asyncio.get_running_loop()
    for filled in range(250, 258):
        nops = [loop.add_sqe(NOP) for _ in range(filled)]
        chain = loop.add_sqes([(lib.io_uring_prep_close, 1 << 20), *[(NOP,)] * 9])
        following = loop.add_sqe(NOP)
        await asyncio.gather(*nops, following, *chain, return_exceptions=True)
        assert [request.cqe.res for request in chain] == [-errno.EBADF] + [-errno.ECANCELED] * 9
        assert following.cqe.res == 0


def test_no_chain_is_split_before_the_first_run(loop):
    nops = [loop.add_sqe(NOP) for _ in range(250)]
    chains = [loop.add_sqes([(lib.io_uring_prep_close, 1 << 20), *[(NOP,)] * 9]) for _ in range(100)]

    async def finish():
        await asyncio.gather(
            *nops, *[request for chain in chains for request in chain], return_exceptions=True
        )

    loop.run_until_complete(finish())
    for chain in chains:
        assert [request.cqe.res for request in chain] == [-errno.EBADF] + [-errno.ECANCELED] * 9


async def test_a_chain_is_made_whole_or_not_at_all():
    loop = asyncio.get_running_loop()
    before = loop.statistics()["in_flight"]
    with pytest.raises(ZeroDivisionError):
        loop.add_sqes([(NOP,), (lambda sqe: 1 / 0,)])
    with pytest.raises(ValueError, match="too long"):
        loop.add_sqes([(NOP,)] * 257)
    with pytest.raises(ValueError, match="a tuple"):
        loop.add_sqes([(NOP,), ()])
    assert loop.add_sqes([]) == []
    assert loop.statistics()["in_flight"] == before
    assert len(await asyncio.gather(*loop.add_sqes([(NOP,)] * 256))) == 256


def test_a_long_chain_before_the_first_run_follows_earlier_requests(loop):
    """It needs a larger ring, and the queued requests of the smaller one move there, chains whole."""
    order = []

    def note(what):
        return lambda cqe: order.append((what, cqe.res))

    short = loop.add_sqes([(NOP,), (lib.io_uring_prep_close, 1 << 20), (NOP,)])
    for number in range(100):
        loop.add_sqe(NOP, callback=note(number))
    long = loop.add_sqes([(NOP,)] * 256)

    async def finish():
        await asyncio.gather(*short, *long, return_exceptions=True)

    loop.run_until_complete(finish())
    assert [request.cqe.res for request in short] == [0, -errno.EBADF, -errno.ECANCELED]
    assert order == [(number, 0) for number in range(100)]
    assert [request.cqe.res for request in long] == [0] * 256


async def test_a_long_chain_leaves_connections_alone():
    """The loop takes a larger ring: transports' requests in flight are armed again, and no data are lost."""
    loop = asyncio.get_running_loop()
    accepted = []

    async def echo(reader, writer):
        accepted.append(writer)
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        address = server.sockets[0].getsockname()
        streams = [await asyncio.open_connection(*address) for _ in range(20)]
        near, far = socket.socketpair()
        near.setblocking(False)
        waiting = asyncio.ensure_future(loop.sock_recv(near, 10))
        sent = bytes(range(256)) * 4000
        for _, writer in streams:
            writer.write(sent)
        await asyncio.sleep(0)
        assert len(await asyncio.gather(*loop.add_sqes([(NOP,)] * 200))) == 200
        for reader, _ in streams:
            assert await asyncio.wait_for(reader.readexactly(len(sent)), 10) == sent
        streams.append(await asyncio.open_connection(*address))
        streams[-1][1].write(b"late")
        assert await asyncio.wait_for(streams[-1][0].readexactly(4), 10) == b"late"
        far.send(b"x")
        assert await asyncio.wait_for(waiting, 10) == b"x"
        near.close()
        far.close()
        for _, writer in streams:
            writer.close()
            await writer.wait_closed()
        await until(lambda: all(writer.transport.is_closing() for writer in accepted))


async def test_a_larger_ring_for_a_long_chain_takes_the_place_of_the_first():
    loop = asyncio.get_running_loop()
    await loop.add_sqe(NOP)
    before = open_fds()
    assert len(await asyncio.gather(*loop.add_sqes([(NOP,)] * 200))) == 200
    assert open_fds() == before


async def test_a_long_chain_is_refused_while_raw_requests_are_in_flight(pipe):
    """A loop keeps its ring while raw requests are in flight; if it has a larger one, nothing prevents the chain."""
    loop = asyncio.get_running_loop()
    request = loop.add_sqe(lib.io_uring_prep_poll_add, pipe[0], 1)
    with pytest.raises(OSError, match="needs a larger ring") as caught:
        loop.add_sqes([(NOP,)] * 65)
    assert caught.value.errno == errno.EAGAIN
    assert len(await asyncio.gather(*loop.add_sqes([(NOP,)] * 64))) == 64
    os.write(pipe[1], b"x")
    assert await request == 1
    assert len(await asyncio.gather(*loop.add_sqes([(NOP,)] * 65))) == 65
    os.read(pipe[0], 1)
    request = loop.add_sqe(lib.io_uring_prep_poll_add, pipe[0], 1)
    assert len(await asyncio.gather(*loop.add_sqes([(NOP,)] * 256))) == 256
    os.write(pipe[1], b"x")
    assert await request == 1


async def test_a_loop_with_registered_tables_accepts_long_chains():
    loop = asyncio.get_running_loop()
    buffers = loop.register_buffers([bytearray(4096)])
    assert len(await asyncio.gather(*loop.add_sqes([(NOP,)] * 256))) == 256
    buffers.close()


# Submission


def test_thousands_of_requests_before_the_first_run(loop):
    requests = [loop.add_sqe(NOP) for _ in range(5000)]
    assert loop.run_until_complete(asyncio.wait_for(gathered(requests), 10)) == [0] * 5000


async def gathered(requests):
    return [await request for request in requests]


async def test_thousands_of_requests_in_one_callback():
    loop = asyncio.get_running_loop()
    assert await gathered([loop.add_sqe(NOP) for _ in range(5000)]) == [0] * 5000


async def test_64_requests_in_one_turn_cost_one_system_call():
    loop = asyncio.get_running_loop()
    await turns(3)
    before = loop.statistics()
    await asyncio.gather(*[loop.add_sqe(NOP) for _ in range(64)])
    after = loop.statistics()
    assert after["submitted"] - before["submitted"] == 64
    assert after["syscalls"] - before["syscalls"] == 1


def test_a_request_made_in_a_callback_is_submitted_before_the_loop_sleeps(loop):
    """A bug of QEMU's io_uring monitor: the loop kept sleeping with the request in user space."""
    seen = []

    def done(cqe):
        seen.append(cqe)
        loop.stop()

    loop.call_later(0.001, lambda: loop.add_sqe(NOP, callback=done))
    loop.call_later(30, loop.stop)
    before = loop.time()
    loop.run_forever()
    assert seen
    assert loop.time() - before < 10


def test_a_request_made_by_call_soon_threadsafe_completes(loop):
    seen = []

    def done(cqe):
        seen.append(cqe)
        loop.stop()

    def make():
        loop.call_soon_threadsafe(lambda: loop.add_sqe(NOP, callback=done))

    thread = threading.Thread(target=make)
    loop.call_soon(thread.start)
    loop.run_forever()
    thread.join()
    assert len(seen) == 1


def test_requests_are_submitted_when_the_loop_stops(loop, pipe):
    loop.call_soon(lambda: (loop.add_sqe(lib.io_uring_prep_write, pipe[1], b"last", 4, 0), loop.stop()))
    loop.run_forever()
    assert os.read(pipe[0], 4) == b"last"
    loop.call_soon(loop.stop)
    loop.run_forever()


# Nested turns


@pytest.mark.parametrize("blocking", [False, True])
def test_a_nested_turn_delivers_what_the_outer_one_has_left_in_order_and_once(loop, blocking):
    order = []

    def nest(cqe):
        order.append("nest")
        assert loop.aio_context.poll(blocking) is True
        order.append("nested")

    loop.add_sqe(NOP, callback=nest)
    for number in range(5):
        loop.add_sqe(NOP, callback=lambda cqe, number=number: order.append(number))
    for _ in range(3):
        loop.call_soon(loop.stop)
        loop.run_forever()
    assert order == ["nest", 0, 1, 2, 3, 4, "nested"]


def test_requests_can_be_made_and_completed_in_nested_turns(loop):
    order = []

    def nest(cqe, depth):
        order.append(depth)
        if depth < 20:
            loop.add_sqe(NOP, callback=lambda cqe: nest(cqe, depth + 1))
            while len(order) <= depth + 1:
                loop.aio_context.poll(True)
        order.append(-depth)

    loop.add_sqe(NOP, callback=lambda cqe: nest(cqe, 0))
    while 0 not in order[1:]:
        loop.call_soon(loop.stop)
        loop.run_forever()
    assert order == [*range(21), *range(-20, 1)]


def test_poll_without_anything_to_do_makes_no_progress(loop):
    loop.aio_context.poll(False)
    assert loop.aio_context.poll(False) is False
    loop.call_soon(lambda: None)
    assert loop.aio_context.poll(False) is True


# Other loops and threads


def test_a_request_of_another_loop_cannot_be_awaited(loop):
    other = make_loop("io_uring")
    request = other.add_sqe(NOP)

    async def use():
        await request

    with pytest.raises(RuntimeError, match="different loop"):
        loop.run_until_complete(use())
    other.close()

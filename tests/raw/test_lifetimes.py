"""What a request keeps alive and until when: results nobody takes, closing, threads, forks, registered memory."""

import asyncio
import contextlib
import errno
import gc
import os
import random
import socket
import sys
import threading
import weakref

import pytest
from helpers import make_loop, turns, until

import uringloop
from uringloop.liburing import ffi, lib

NOP = lib.io_uring_prep_nop


class Buffer(bytearray):
    """A bytearray that can be watched."""


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for fd in ends:
        with contextlib.suppress(OSError):
            os.close(fd)


def poll_of(loop, fd, **kwargs):
    return loop.add_sqe(lib.io_uring_prep_poll_add, fd, 1, **kwargs)


def open_fds():
    return set(os.listdir("/proc/self/fd"))


async def test_arguments_and_keepalive_live_until_the_final_completion(pipe):
    loop = asyncio.get_running_loop()
    buffer, more = Buffer(4), Buffer(1)
    request = loop.add_sqe(
        lib.io_uring_prep_read, pipe[0], ffi.from_buffer(buffer), 4, 0, keepalive=more
    )  # fmt: skip
    watched = [weakref.ref(buffer), weakref.ref(more)]
    del buffer, more
    await turns(3)
    gc.collect()
    assert all(ref() is not None for ref in watched)
    os.write(pipe[1], b"data")
    assert await request == 4
    gc.collect()
    assert [ref() for ref in watched] == [None, None]


async def test_a_closure_keeps_what_it_refers_to(pipe):
    loop = asyncio.get_running_loop()
    buffer = Buffer(4)
    watched = weakref.ref(buffer)

    def reading(memory):
        return lambda sqe: lib.io_uring_prep_read(sqe, pipe[0], memory, 4, 0)

    request = loop.add_sqe(reading(ffi.from_buffer(buffer)))
    del buffer
    await turns(2)
    gc.collect()
    assert watched() is not None
    os.write(pipe[1], b"data")
    await request
    gc.collect()
    assert watched() is None


async def test_a_request_that_nobody_holds_is_finished_all_the_same(pipe):
    loop = asyncio.get_running_loop()
    in_flight = loop.statistics()["in_flight"]
    buffer = bytearray(4)
    watched = weakref.ref(loop.add_sqe(lib.io_uring_prep_read, pipe[0], ffi.from_buffer(buffer), 4, 0))
    await turns(2)
    gc.collect()
    assert watched() is not None
    os.write(pipe[1], b"data")
    await until(lambda: watched() is None)
    assert buffer == b"data"
    assert loop.statistics()["in_flight"] == in_flight


async def test_an_fd_that_nobody_can_see_is_closed():
    loop = asyncio.get_running_loop()
    before = open_fds()

    async def open_and_be_cancelled():
        await loop.add_sqe(lib.io_uring_prep_openat, lib.AT_FDCWD, b"/dev/null", os.O_RDONLY, 0)

    loop.add_sqe(lib.io_uring_prep_openat, lib.AT_FDCWD, b"/dev/null", os.O_RDONLY, 0)
    task = asyncio.create_task(open_and_be_cancelled())
    await turns(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    del task
    await turns(5)
    gc.collect()
    assert open_fds() == before


async def test_an_fd_that_somebody_saw_is_his():
    loop = asyncio.get_running_loop()
    told = []
    request = loop.add_sqe(lib.io_uring_prep_openat, lib.AT_FDCWD, b"/dev/null", os.O_RDONLY, 0)
    looked = loop.add_sqe(lib.io_uring_prep_openat, lib.AT_FDCWD, b"/dev/null", os.O_RDONLY, 0)
    loop.add_sqe(
        lib.io_uring_prep_openat, lib.AT_FDCWD, b"/dev/null", os.O_RDONLY, 0, callback=told.append
    )  # fmt: skip
    fds = [await request]
    await until(lambda: told and looked.done())
    fds += [looked.cqe.res, told[0].res]
    request = looked = None
    gc.collect()
    for fd in fds:
        os.close(fd)  # fails if it is closed already


async def test_connections_that_nobody_took_are_closed():
    loop = asyncio.get_running_loop()
    before = open_fds()
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:
        request = loop.add_sqe(
            lib.io_uring_prep_multishot_accept, listener.fileno(), ffi.NULL, ffi.NULL, 0, multishot=True
        )
        clients = [socket.create_connection(listener.getsockname()) for _ in range(3)]
        for client in clients:
            stack.enter_context(client)
        taken = (await anext(request)).res
        await until(lambda: len(open_fds()) >= len(before) + 7)
        await request.aclose()
        del request
        gc.collect()
        os.close(taken)
    assert open_fds() == before


# -- closing the loop --------------------------------------------------------------------------------------


def test_close_delivers_what_is_pending_as_cancelled(pipe):
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


def test_completions_that_were_harvested_are_delivered_at_close():
    loop = make_loop("io_uring")
    seen = []
    loop.add_sqe(NOP, callback=seen.append)
    loop.call_soon(loop.stop)
    loop.run_forever()  # submits, and has no turn left to deliver
    loop.close()
    assert [cqe.res for cqe in seen] in ([0], [-errno.ECANCELED])


def test_a_callback_that_raises_at_close_hides_no_other(pipe):
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


@pytest.mark.filterwarnings("ignore:unclosed event loop:ResourceWarning")
def test_a_forgotten_loop_with_requests_goes(pipe):
    loop = make_loop("io_uring")
    request = poll_of(loop, pipe[0])
    loop.call_soon(loop.stop)
    loop.run_forever()
    watched = weakref.ref(loop)
    del loop, request
    gc.collect()
    assert watched() is None


# -- threads and forks ----------------------------------------------------------------------------------------


def test_a_loop_with_requests_in_flight_stays_in_its_thread(pipe):
    loop = make_loop("io_uring")
    request = poll_of(loop, pipe[0])
    loop.call_soon(loop.stop)
    loop.run_forever()
    errors = []

    def run():
        try:
            loop.run_until_complete(asyncio.sleep(0))
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert len(errors) == 1
    assert "RawRequest" in errors[0]
    gc.collect()
    os.write(pipe[1], b"x")

    async def finish():
        return await request

    assert loop.run_until_complete(finish()) == 1
    loop.close()


def test_requests_made_in_one_thread_before_the_first_run_in_another():
    """Also when the maker's thread has a spare ring of an earlier loop, which it owns for ever."""
    make_loop("io_uring").close()
    warm = make_loop("io_uring")
    warm.run_until_complete(asyncio.sleep(0))
    warm.close()
    loop = make_loop("io_uring")
    requests = [loop.add_sqe(NOP) for _ in range(600)]
    results = []

    async def finish():
        for request in requests:
            results.append(await request)

    thread = threading.Thread(target=lambda: loop.run_until_complete(finish()))
    thread.start()
    thread.join()
    assert results == [0] * 600
    loop.close()


def test_requests_survive_between_runs_in_a_worker_thread(pipe):
    results = []

    def work():
        loop = make_loop("io_uring")
        request = poll_of(loop, pipe[0])
        loop.run_until_complete(asyncio.sleep(0))
        os.write(pipe[1], b"x")

        async def finish():
            results.append(await request)

        loop.run_until_complete(finish())
        loop.close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert results == [1]


def test_a_fork_child_leaves_the_requests_to_the_parent(pipe):
    loop = make_loop("io_uring")
    request = poll_of(loop, pipe[0])
    loop.run_until_complete(asyncio.sleep(0))
    pid = os.fork()
    if pid == 0:
        try:
            request.cancel()
            loop.add_sqe(NOP)
        except RuntimeError:
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.write(pipe[1], b"x")

    async def finish():
        return await request

    assert loop.run_until_complete(finish()) == 1
    loop.close()


# -- the loop's own requests ----------------------------------------------------------------------------------


async def test_a_broad_cancel_of_somebody_does_not_stop_the_loops_own_requests(pipe):
    loop = asyncio.get_running_loop()
    seen = []
    loop.add_reader(pipe[0], seen.append, "readable")
    received = bytearray()

    async def serve(reader, writer):
        while data := await reader.read(100):
            received.extend(data)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"before")
    await until(lambda: received == b"before")
    everything = lib.IORING_ASYNC_CANCEL_ANY | lib.IORING_ASYNC_CANCEL_ALL
    assert await loop.add_sqe(lib.io_uring_prep_cancel64, 0, everything) > 0
    await turns(3)
    writer.write(b" after")
    await until(lambda: received == b"before after")
    _, second = await asyncio.open_connection("127.0.0.1", port)
    second.write(b"!")
    await until(lambda: received == b"before after!")
    os.write(pipe[1], b"x")
    await until(lambda: seen)
    loop.remove_reader(pipe[0])
    wakeup = threading.Thread(target=loop.call_soon_threadsafe, args=(seen.append, "woken"))
    wakeup.start()
    await until(lambda: "woken" in seen)
    wakeup.join()
    for one in (writer, second):
        one.close()
        await one.wait_closed()
    server.close()
    await server.wait_closed()


# -- registered buffers and files -------------------------------------------------------------------------------


async def test_registered_buffers_serve_fixed_reads_and_writes(tmp_path):
    loop = asyncio.get_running_loop()
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    first, second = bytearray(b"fixed"), bytearray(5)
    registered = loop.register_buffers([first, second])
    assert len(registered) == 2
    with pytest.raises(RuntimeError, match="already"):
        loop.register_buffers([first])
    assert await loop.add_sqe(lib.io_uring_prep_write_fixed, fd, registered[0], 5, 0, 0) == 5
    assert await loop.add_sqe(lib.io_uring_prep_read_fixed, fd, registered[1], 5, 0, 1) == 5
    assert second == b"fixed"
    registered.close()
    registered.close()
    with pytest.raises(OSError):
        await loop.add_sqe(lib.io_uring_prep_read_fixed, fd, registered[1], 5, 0, 1)
    loop.register_buffers([first]).close()
    with pytest.raises(ValueError, match="no buffers"):
        loop.register_buffers([])
    os.close(fd)


async def test_registered_memory_outlives_its_owner_while_requests_use_it(pipe):
    loop = asyncio.get_running_loop()
    buffer = Buffer(4)
    registered = loop.register_buffers([buffer])
    request = loop.add_sqe(lib.io_uring_prep_read_fixed, pipe[0], registered[0], 4, 0, 0)
    await turns(2)
    registered.close()
    watched = weakref.ref(buffer)
    del buffer, registered
    gc.collect()
    assert watched() is not None
    os.write(pipe[1], b"data")
    assert await request == 4
    del request
    gc.collect()
    assert watched() is None


async def test_registered_files_are_opened_read_and_closed_in_the_table():
    loop = asyncio.get_running_loop()
    before = open_fds()
    files = loop.register_files(4)
    buffer = bytearray(8)

    def read_slot(sqe):
        lib.io_uring_prep_read(sqe, 2, ffi.from_buffer(buffer), 8, 0)
        sqe.flags |= lib.IOSQE_FIXED_FILE

    opened, read, closed = loop.add_sqes(
        [
            (lib.io_uring_prep_openat_direct, lib.AT_FDCWD, b"/dev/zero", os.O_RDONLY, 0, 2),
            (read_slot,),
            (lib.io_uring_prep_close_direct, 2),
        ],
        keepalive=buffer,
    )
    assert (await opened, await read, await closed) == (0, 8, 0)
    with open("/dev/zero", "rb") as zero:
        await files.update(2, zero.fileno())
    assert await loop.add_sqe(read_slot, keepalive=buffer) == 8
    await files.update(2, -1)
    with pytest.raises(OSError):
        await loop.add_sqe(read_slot, keepalive=buffer)
    files.close()
    with pytest.raises(RuntimeError, match="not registered"):
        await files.update(0, -1)
    assert open_fds() == before


def test_tables_do_not_reach_the_next_loop():
    loop = make_loop("io_uring")
    loop.register_files(2)
    buffer = Buffer(4)
    watched = weakref.ref(buffer)
    loop.register_buffers([buffer])
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    del loop, buffer
    gc.collect()
    assert watched() is None
    with contextlib.closing(make_loop("io_uring")) as following:
        following.register_files(2)


# -- races ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_cancel_races_completion(loop, seed):
    """2,500 times each: every request ends exactly once, whoever is first."""
    chance = random.Random(seed)
    kept = weakref.WeakSet()
    ends = []

    async def race():
        inside, outside = socket.socketpair()
        with inside, outside:
            buffer = bytearray(8)
            how = chance.randrange(4)
            callback = ends.append if how == 3 else None
            request = loop.add_sqe(
                lib.io_uring_prep_recv, inside.fileno(), ffi.from_buffer(buffer), 8, 0, callback=callback
            )
            kept.add(request)
            task = asyncio.ensure_future(request) if callback is None else None
            for step in chance.sample(range(4), 4):
                if step == 0:
                    outside.send(b"x" * 8)
                elif step == 1 and how == 0:
                    request.cancel()
                elif step == 1 and task is not None and how == 1:
                    task.cancel()
                elif step == 2:
                    await turns(chance.randrange(3))
                elif step == 3 and how == 2:
                    request.cancel()
                    if task is not None:
                        task.cancel()
            if task is not None:
                with contextlib.suppress(asyncio.CancelledError, OSError):
                    await task  # cancelled before its first step it never awaited
                await until(request.done)
                assert request.cqe.res in (8, -errno.ECANCELED)
            else:
                await until(request.done)
                assert request.cqe == ends[-1]

    async def all_races():
        for _ in range(2500 // 50):
            await asyncio.gather(*[race() for _ in range(50)])

    loop.run_until_complete(all_races())
    gc.collect()
    assert not kept
    assert loop.statistics()["in_flight"] <= 2


def test_no_reference_is_lost(loop):
    """Neither of None nor of what requests are made of."""
    if not hasattr(sys, "getrefcount"):
        pytest.skip("no reference counts here")
    before = sys.getrefcount(NOP)

    async def work():
        for _ in range(200):
            request = loop.add_sqe(NOP)
            await request
            await request
            loop.add_sqe(NOP, callback=lambda cqe: None)
            with contextlib.suppress(ValueError):
                loop.add_sqe(lambda sqe: None)
        await turns(3)

    loop.run_until_complete(work())
    assert abs(sys.getrefcount(NOP) - before) < 5
    assert uringloop.Cqe(1, 2) == uringloop.Cqe(1, 2) != uringloop.Cqe(1, 3)
    assert hash(uringloop.Cqe(1, 2)) == hash(uringloop.Cqe(1, 2))
    assert tuple(uringloop.Cqe(1, 2)) == (1, 2)


# -- what an attempt to break it found ----------------------------------------------------------------------------


def test_the_end_may_come_in_a_nested_turn_of_the_same_requests_callback(loop, pipe):
    """It crashed: the outer call used the loop that the end had let go of."""
    seen = []

    def nest(cqe):
        seen.append(cqe.more)
        if cqe.more:
            request.cancel()
            while len(seen) < 2:
                loop.aio_context.poll(True)
            loop.stop()

    request = loop.add_sqe(lib.io_uring_prep_poll_multishot, pipe[0], 1, callback=nest, multishot=True)
    os.write(pipe[1], b"x")
    loop.run_forever()
    assert seen == [True, False]


def test_a_closed_context_takes_no_requests():
    """It crashed: the loop itself was not closed yet."""
    loop = make_loop("io_uring")
    loop.aio_context.close()
    for use in (lambda: loop.add_sqe(NOP), lambda: loop.add_sqes([(NOP,)]), lambda: loop.register_files(1)):
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            use()
    loop.close()


def test_close_ends_what_a_hard_link_starts_meanwhile(pipe):
    """It waited for ten seconds, and gave up."""
    loop = make_loop("io_uring")
    memory = bytearray(4)

    def read_hard(sqe):
        lib.io_uring_prep_read(sqe, pipe[0], ffi.from_buffer(memory), 4, 0)
        sqe.flags |= lib.IOSQE_IO_HARDLINK

    requests = loop.add_sqes([(read_hard,)] * 3, keepalive=memory)
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    assert [request.cqe.res for request in requests] == [-errno.ECANCELED] * 3
    assert "in_limbo" not in loop.statistics()


@pytest.mark.slow
def test_close_waits_for_as_many_as_there_are(pipe):
    """The kernel gives back some twenty at a time: more than 20,000 were given up."""
    loop = make_loop("io_uring")
    requests = [poll_of(loop, pipe[0]) for _ in range(25_000)]
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    assert {request.cqe.res for request in requests} == {-errno.ECANCELED}
    assert "in_limbo" not in loop.statistics()


async def test_cancel_asks_again_until_the_request_is_over(pipe):
    """The kernel does not find what is changing hands; a cancel that was lost left its task hanging."""
    loop = asyncio.get_running_loop()
    memory = bytearray(4)

    def read_by_worker(sqe):
        lib.io_uring_prep_read(sqe, pipe[0], ffi.from_buffer(memory), 4, 0)
        sqe.flags |= lib.IOSQE_ASYNC

    for _ in range(300):
        task = asyncio.ensure_future(loop.add_sqe(read_by_worker, keepalive=memory))
        await turns(2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 10)


async def test_throwing_into_a_second_await_does_not_take_the_first_ones_waiter(pipe):
    loop = asyncio.get_running_loop()
    request = poll_of(loop, pipe[0])
    first = asyncio.ensure_future(request)
    await turns(2)
    with pytest.raises(asyncio.CancelledError):
        request.__await__().throw(asyncio.CancelledError())
    os.write(pipe[1], b"x")
    assert await asyncio.wait_for(first, 10) == 1


def test_a_loop_whose_tables_are_closed_moves_to_another_thread():
    loop = make_loop("io_uring")
    loop.register_buffers([bytearray(4)]).close()
    loop.register_files(1).close()
    with pytest.raises(ValueError, match="no slots"):
        loop.register_files(0)
    loop.run_until_complete(asyncio.sleep(0))
    thread = threading.Thread(target=lambda: loop.run_until_complete(asyncio.sleep(0)))
    thread.start()
    thread.join()
    loop.close()


def test_before_the_first_run_any_thread_may_make_requests():
    """Also when the loop was given a spare ring of the thread that made it."""
    warm = make_loop("io_uring")
    warm.run_until_complete(asyncio.sleep(0))
    warm.close()
    loop = make_loop("io_uring")
    requests = []
    thread = threading.Thread(target=lambda: requests.append(loop.add_sqe(NOP)))
    thread.start()
    thread.join()

    async def finish():
        return await requests[0]

    assert loop.run_until_complete(finish()) == 0
    loop.close()


async def test_a_duplicate_of_a_loops_ring_is_known():
    loop = asyncio.get_running_loop()
    copy = os.dup(loop._ring_pointer().ring_fd)
    try:
        with pytest.raises(ValueError, match="data 0"):
            loop.add_sqe(lib.io_uring_prep_msg_ring, copy, 0, 1234, 0)
    finally:
        os.close(copy)

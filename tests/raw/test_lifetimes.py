"""What a request keeps alive and until when, and results that are never retrieved."""

import asyncio
import contextlib
import gc
import os
import socket
import threading
import weakref

import pytest
from support.helpers import turns, until

from uringloop.liburing import ffi, lib

from .common import Buffer, open_fds, polls_of


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


@pytest.mark.parametrize("has_callback", [False, True])
async def test_what_a_multishot_request_keeps_lives_until_its_last_completion(pipe, has_callback):
    loop = asyncio.get_running_loop()
    more = Buffer(1)
    seen = []
    request = polls_of(loop, pipe[0], keepalive=more, callback=seen.append if has_callback else None)
    watched = weakref.ref(more)
    del more
    await turns(2)
    for _ in range(2):
        os.write(pipe[1], b"x")
        if not has_callback:
            seen.append(await anext(request))
        await until(lambda: seen)
        assert seen.pop().more
        gc.collect()
        assert watched() is not None
    request.cancel()
    await until(request.done)
    gc.collect()
    assert watched() is None


async def test_a_closure_keeps_the_objects_that_it_refers_to(pipe):
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


async def test_a_request_without_references_still_completes(pipe):
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


async def test_an_fd_that_the_program_cannot_see_is_closed():
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


async def test_an_fd_that_the_program_saw_belongs_to_it():
    loop = asyncio.get_running_loop()
    reported = []
    request = loop.add_sqe(lib.io_uring_prep_openat, lib.AT_FDCWD, b"/dev/null", os.O_RDONLY, 0)
    awaited = loop.add_sqe(lib.io_uring_prep_openat, lib.AT_FDCWD, b"/dev/null", os.O_RDONLY, 0)
    loop.add_sqe(
        lib.io_uring_prep_openat, lib.AT_FDCWD, b"/dev/null", os.O_RDONLY, 0, callback=reported.append
    )  # fmt: skip
    fds = [await request]
    await until(lambda: reported and awaited.done())
    fds += [awaited.cqe.res, reported[0].res]
    request = awaited = None
    gc.collect()
    for fd in fds:
        os.close(fd)  # fails if it is closed already


async def test_accepted_connections_that_were_not_retrieved_are_closed():
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


# The loop's own requests


async def test_a_broad_cancel_by_the_program_does_not_stop_the_loops_own_requests(pipe):
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

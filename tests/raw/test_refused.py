"""Misuse of add_sqe(): a clear exception, and the loop continues."""

import asyncio
import contextlib
import functools
import os
import pathlib
import socket
import threading

import pytest
from support.helpers import make_loop, turns, until

import uringloop
from uringloop.liburing import ffi, lib

NOP = lib.io_uring_prep_nop


def with_flags(flags):
    def prep(sqe):
        NOP(sqe)
        sqe.flags |= flags

    return prep


def set_user_data(sqe):
    NOP(sqe)
    sqe.user_data = 1


def in_reserved_group(sqe):
    lib.io_uring_prep_recv(sqe, 0, ffi.NULL, 0, 0)
    sqe.flags |= lib.IOSQE_BUFFER_SELECT
    sqe.buf_group = uringloop.FIRST_RESERVED_GROUP


def divide(sqe):
    NOP(sqe)
    raise ZeroDivisionError


async def not_called(sqe):
    NOP(sqe)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        ((divide,), ZeroDivisionError, None),
        ((lambda sqe: None,), ValueError, "filled no SQE"),
        ((set_user_data,), ValueError, "user_data"),
        ((with_flags(lib.IOSQE_IO_DRAIN),), ValueError, "DRAIN"),
        ((with_flags(lib.IOSQE_CQE_SKIP_SUCCESS),), ValueError, "SKIP_SUCCESS"),
        ((with_flags(lib.IOSQE_IO_LINK),), ValueError, "add_sqes"),
        ((with_flags(lib.IOSQE_IO_HARDLINK),), ValueError, "add_sqes"),
        ((in_reserved_group,), ValueError, "buffer groups"),
        ((lib.io_uring_prep_provide_buffers, ffi.NULL, 1, 1, 0xFF00, 0), ValueError, "buffer groups"),
        ((lib.io_uring_prep_poll_update, 1, 2, 0, lib.IORING_POLL_UPDATE_USER_DATA), ValueError, "user_data"),
        ((lib.io_uring_prep_poll_multishot, 0, 1), ValueError, "multishot=True"),
        ((lib.io_uring_prep_multishot_accept, 0, ffi.NULL, ffi.NULL, 0), ValueError, "multishot=True"),
        ((lib.io_uring_prep_recv_multishot, 0, ffi.NULL, 0, 0), ValueError, "multishot=True"),
        ((lib.io_uring_prep_read, 0, b"immutable", 9, 0), ValueError, "immutable"),
        ((lib.io_uring_prep_write, 1, b"short", 6, 0), ValueError, "6 bytes of a bytes object of 5"),
        ((lib.io_uring_prep_readv, 0, [{}], 1, 0), TypeError, r"ffi\.new"),
        ((lib.io_uring_prep_read, "0", ffi.NULL, 9, 0), TypeError, None),
        ((lib.io_uring_prep_read, 0), TypeError, None),
        ((None,), TypeError, "callable"),
        ((), TypeError, None),
    ],
)
async def test_a_refused_request_leaves_nothing_behind(call, error, words):
    loop = asyncio.get_running_loop()
    before = loop.statistics()["in_flight"]
    with pytest.raises(error, match=words):
        loop.add_sqe(*call)
    assert loop.statistics()["in_flight"] == before
    assert await loop.add_sqe(NOP) == 0


async def test_a_coroutine_function_is_refused_as_prep_function():
    loop = asyncio.get_running_loop()
    with pytest.raises(TypeError, match="ordinary function"):
        loop.add_sqe(not_called)
    with pytest.raises(TypeError, match="ordinary function"):
        loop.add_sqes([(not_called,)])


class Callbacks:
    async def method(self, cqe):
        raise AssertionError

    async def many(self, cqe):
        yield cqe


@pytest.mark.parametrize(
    "callback",
    [not_called, functools.partial(not_called, 1), Callbacks().method, Callbacks().many],
    ids=["function", "partial", "method", "generator"],
)
async def test_a_coroutine_function_is_refused_as_callback(callback):
    """The coroutine that it returns would never be awaited."""
    with pytest.raises(TypeError, match="await the request instead"):
        asyncio.get_running_loop().add_sqe(NOP, callback=callback)


async def test_a_callback_must_be_callable():
    with pytest.raises(TypeError, match="callback must be callable"):
        asyncio.get_running_loop().add_sqe(NOP, callback=1)


# Hints for common mistakes


class File:
    def fileno(self):
        return 0


OPENAT = lib.io_uring_prep_openat
READ = lib.io_uring_prep_read


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        ((OPENAT, lib.AT_FDCWD, "/etc/hosts", os.O_RDONLY, 0), TypeError, r"str: .*os\.fsencode\(path\)"),
        ((OPENAT, lib.AT_FDCWD, pathlib.Path("/etc"), 0, 0), TypeError, r"Path: .*os\.fsencode\(path\)"),
        ((READ, 0, bytearray(3), 3, 0), TypeError, r"memory of a bytearray pass ffi\.from_buffer"),
        ((READ, 0, memoryview(bytearray(3)), 3, 0), TypeError, r"memoryview pass ffi\.from_buffer"),
        ((READ, File(), ffi.NULL, 3, 0), TypeError, r"for a File pass its number, File\.fileno\(\)"),
        ((READ, File(), bytearray(3), 3, 0), TypeError, r"File\.fileno\(\)"),
        ((lib.io_uring_prep_accept, 0, None, None, 0), TypeError, r"ffi\.NULL"),
        ((READ, 0, ffi.NULL, 3), TypeError, "expected 5 arguments, got 4: the SQE .* counts"),
        ((READ, 0, ffi.NULL, 3, -(2**64)), OverflowError, None),
        (
            (NOP(ffi.new("struct io_uring_sqe *")),),
            TypeError,
            "pass the function and its arguments, .* not the result of a call",
        ),
    ],
)
async def test_the_exception_explains_what_to_write_instead(call, error, words):
    loop = asyncio.get_running_loop()
    for use in (lambda: loop.add_sqe(*call), lambda: loop.add_sqes([call])):
        with pytest.raises(error, match=words) as caught:
            use()
        assert caught.value.__cause__ is None
    assert await loop.add_sqe(NOP) == 0


async def test_a_socket_in_place_of_an_fd_is_refused():
    with socket.socket() as sock, pytest.raises(TypeError, match=r"socket\.fileno\(\)"):
        asyncio.get_running_loop().add_sqe(lib.io_uring_prep_recv, sock, ffi.NULL, 3, 0)


async def test_a_chain_of_functions_without_tuples_is_refused():
    with pytest.raises(TypeError, match=r"a tuple \(prep, \*args\).*write \(prep,\)"):
        asyncio.get_running_loop().add_sqes([NOP, NOP])


async def test_errors_in_the_users_own_prep_function_are_not_changed():
    def prep(sqe, path):
        lib.io_uring_prep_openat(sqe, lib.AT_FDCWD, path, 0, 0)

    with pytest.raises(TypeError) as caught:
        asyncio.get_running_loop().add_sqe(prep, "/etc")
    assert "fsencode" not in str(caught.value)


async def test_a_message_for_a_loops_ring_must_not_look_like_a_request():
    loop = asyncio.get_running_loop()
    other = make_loop("io_uring")
    try:
        ring_fd = other.aio_context.statistics() and ring_of(other)
        with pytest.raises(ValueError, match="data 0"):
            loop.add_sqe(lib.io_uring_prep_msg_ring, ring_fd, 0, 1234, 0)
    finally:
        other.close()


def ring_of(loop):
    return loop._ring_pointer().ring_fd


async def test_requests_may_be_made_while_prep_runs():
    """The SQE is not yet a slot of the ring: nothing half-filled is submitted."""
    loop = asyncio.get_running_loop()
    inner = []

    def prep(sqe):
        sqe.opcode = 200  # no such opcode: must never reach the kernel
        inner.extend(loop.add_sqe(NOP) for _ in range(300))
        NOP(sqe)

    assert await loop.add_sqe(prep) == 0
    assert [await request for request in inner] == [0] * 300


async def test_a_kept_pointer_is_harmless():
    loop = asyncio.get_running_loop()
    kept = []

    def prep(sqe):
        NOP(sqe)
        kept.append(sqe)

    request = loop.add_sqe(prep)
    kept[0].opcode = 200
    kept[0].user_data = 1
    assert await request == 0


@pytest.mark.expects_loop_errors
async def test_a_kept_pointer_that_is_used_is_reported_in_debug_mode(loop_errors):
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    kept = []

    def prep(sqe):
        NOP(sqe)
        kept.append(sqe)

    untouched = loop.add_sqe(prep)
    assert kept[0].opcode == 0xDB  # poisoned
    await untouched
    assert not loop_errors
    request = loop.add_sqe(prep)
    kept[1].len = 7
    assert await request == 0
    assert "after its prep function had returned" in loop_errors[0]["message"]


@pytest.mark.parametrize("debug", [False, True])
async def test_another_thread_is_refused(debug):
    loop = asyncio.get_running_loop()
    loop.set_debug(debug)
    pipe = os.pipe()
    request = loop.add_sqe(lib.io_uring_prep_poll_add, pipe[0], 1)
    await turns(2)
    errors = []

    def misuse():
        for use in (lambda: loop.add_sqe(NOP), lambda: loop.add_sqes([(NOP,)]), request.cancel):
            try:
                use()
            except RuntimeError as error:
                errors.append(str(error))

    thread = threading.Thread(target=misuse)
    thread.start()
    await until(lambda: not thread.is_alive())
    thread.join()
    assert len(errors) == 3
    assert all("Non-thread-safe" in error for error in errors)
    request.cancel()
    await until(request.done)
    for fd in pipe:
        os.close(fd)


def test_a_closed_loop_refuses_requests():
    loop = make_loop("io_uring")
    loop.close()
    for use in (lambda: loop.add_sqe(NOP), lambda: loop.add_sqes([(NOP,)]), lambda: loop.register_files(1)):
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            use()


def test_a_loop_that_prep_closes_refuses_the_request(new_loop):
    loop = new_loop()

    def prep(sqe):
        NOP(sqe)
        loop.close()

    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.add_sqe(prep)


@pytest.mark.parametrize("name", ["epoll", "poll"])
def test_other_monitors_report_their_name_and_reason(name):
    loop = make_loop(name)
    with contextlib.closing(loop):
        assert loop.supports_sqe is False
        for use in (lambda: loop.add_sqe(NOP), lambda: loop.add_sqes([(NOP,)])):
            with pytest.raises(uringloop.SqeNotSupported) as caught:
                use()
            assert caught.value.monitor == name
            assert name in str(caught.value)
            assert f"fdmon={name}" in str(caught.value)


async def test_a_raw_request_cannot_be_made_directly():
    with pytest.raises(TypeError, match="add_sqe"):
        uringloop.RawRequest()

"""Callbacks, contexts, files and objects that behave as nobody should: the loop, its data and its heap stay whole."""

import asyncio
import contextlib
import contextvars
import errno
import os
import socket
import threading

import pytest
from support.helpers import (
    BufferedRecorder,
    Recorder,
    connect_unshared,
    one_turn,
    open_transport,
    pattern,
    reset_on_close,
    run,
    run_script,
    shrink_buffers,
    socketpair,
    turn_until,
    turns,
    until,
)

KINDS = pytest.mark.parametrize("kind", ["tcp", "unix"])
EXPECTS_LOOP_ERRORS = pytest.mark.expects_loop_errors


# Protocols that pause in the middle


class PausingBuffered(BufferedRecorder):
    """Takes a piece that is smaller than what the loop reads, and pauses."""

    def __init__(self):
        super().__init__(9000)
        self.is_paused = False

    def get_buffer(self, size_hint):
        assert not self.is_paused
        return super().get_buffer(size_hint)

    def buffer_updated(self, count):
        super().buffer_updated(count)
        self.is_paused = True
        self.transport.pause_reading()


class Pausing(Recorder):
    is_paused = False

    def data_received(self, data):
        assert not self.is_paused
        super().data_received(data)
        self.is_paused = True
        self.transport.pause_reading()


@KINDS
@pytest.mark.parametrize("make", [PausingBuffered, Pausing])
async def test_much_data_comes_in_order_although_reading_is_paused_in_every_turn(kind, make):
    data = memoryview(pattern(2_000_000))
    n_sent = 0
    async with open_transport(make(), kind=kind) as (transport, protocol, peer):
        while len(protocol.data) < len(data):
            with contextlib.suppress(BlockingIOError):
                n_sent += peer.send(data[n_sent : n_sent + 500_000])
            protocol.is_paused = False
            transport.resume_reading()
            before = len(protocol.data)
            await until(lambda before=before: len(protocol.data) > before)
        assert protocol.data == data
        peer.close()
        protocol.is_paused = False
        transport.resume_reading()
        await protocol.lost.wait()
        assert protocol.calls[-2:] == ["eof_received", "connection_lost"]


# Two loops


class Meddling(BufferedRecorder):
    """Calls `meddle` in get_buffer, once: the bytes are read already, and not yet copied."""

    meddle = None

    def get_buffer(self, size_hint):
        meddle, self.meddle = self.meddle, None
        if meddle is not None:
            meddle()
        return super().get_buffer(size_hint)


@KINDS
@pytest.mark.parametrize("make", [Recorder, BufferedRecorder])
def test_a_loop_that_reads_in_another_thread_leaves_a_buffered_protocols_bytes_alone(new_loop, kind, make):
    loops = [new_loop(), new_loop()]
    protocols = [Meddling(), make()]
    peers = []
    for loop, protocol in zip(loops, protocols, strict=True):
        near, peer = socketpair(kind)
        run(loop, connect_unshared(loop, lambda protocol=protocol: protocol, near))
        peers.append(peer)

    def meddle():
        """The second loop reads in a thread of its own while the first one waits inside get_buffer."""
        peers[1].send(b"B" * 1000)
        thread = threading.Thread(
            target=turn_until, args=(loops[1], lambda: len(protocols[1].data) == 1000), daemon=True
        )
        thread.start()
        thread.join(20)
        assert not thread.is_alive(), "the other loop hangs"

    protocols[0].meddle = meddle
    peers[0].send(b"A" * 1000)
    turn_until(loops[0], lambda: len(protocols[0].data) == 1000)
    assert protocols[0].data == b"A" * 1000
    assert protocols[1].data == b"B" * 1000
    for loop, protocol, peer in zip(loops, protocols, peers, strict=True):
        peer.close()
        protocol.transport.abort()
        turn_until(loop, protocol.lost.is_set)


# Contexts that cannot be entered


def schedule(loop, method, *arguments, context):
    when = {"call_soon": (), "call_soon_threadsafe": (), "call_later": (0,), "call_at": (0,)}[method]
    return getattr(loop, method)(*when, *arguments, context=context)


@EXPECTS_LOOP_ERRORS
@pytest.mark.parametrize("method", ["call_soon", "call_soon_threadsafe", "call_later", "call_at"])
@pytest.mark.parametrize("n_arguments", [0, 1, 2, 3])
@pytest.mark.parametrize("what", ["entered", "number"])
def test_a_context_that_cannot_be_entered_is_reported_as_a_failing_callback(
    loop, loop_errors, caplog, method, n_arguments, what
):
    """From Python 3.12 on the exception handler is to run in that context as well: then asyncio logs it."""
    context = contextvars.copy_context() if what == "entered" else 5
    ran = []

    def refused(*arguments):
        raise AssertionError("called without its context")

    def scenario():
        schedule(loop, method, refused, *range(n_arguments), context=context)
        schedule(loop, method, ran.append, 1, context=contextvars.Context())
        turn_until(loop, lambda: ran)
        one_turn(loop)

    if what == "entered":
        context.run(scenario)
    else:
        scenario()
    logged = [record.exc_text for record in caplog.records if record.name == "asyncio"]
    caplog.clear()  # records keep the exception alive, and that keeps the handle
    assert len(loop_errors) + len(logged) == 1
    if loop_errors:
        assert isinstance(loop_errors[0]["exception"], RuntimeError if what == "entered" else Exception)
        assert "test_hostile_callbacks" in loop_errors[0]["message"]
    else:
        assert what == "entered"
        assert "cannot enter context" in logged[0]
    assert ran == [1]


@EXPECTS_LOOP_ERRORS
def test_a_context_is_as_before_after_one_could_not_be_entered(loop, loop_errors):
    """What was not entered is not left either."""
    variable = contextvars.ContextVar("variable", default="outside")
    context = contextvars.copy_context()
    context.run(variable.set, "inside")
    seen = []

    async def main():
        loop.call_soon(print, context=5)
        await turns(3)
        seen.append(variable.get())
        variable.set("changed")
        await turns(3)
        seen.append(variable.get())

    async def start():
        await loop.create_task(main(), context=context)

    run(loop, start())
    assert seen == ["inside", "changed"]
    assert context[variable] == "changed"
    assert variable.get() == "outside"
    assert len(loop_errors) == 1


# An accept that fails


@EXPECTS_LOOP_ERRORS
async def test_serving_goes_on_after_the_listeners_fd_was_something_else(monkeypatch, loop_errors):
    monkeypatch.setattr(asyncio.constants, "ACCEPT_RETRY_DELAY", 0.01)
    loop = asyncio.get_running_loop()
    protocol = Recorder()
    server = await loop.create_server(lambda: protocol, "127.0.0.1", 0, start_serving=False)
    listener = server.sockets[0]
    saved = os.dup(listener.fileno())
    pipe = os.pipe()
    os.write(pipe[1], b"x")
    address = listener.getsockname()
    start_serving = loop._start_serving

    def replace_and_serve(*args, **kwargs):  # after listen(2), and before anything waits for connections
        monkeypatch.setattr(loop, "_start_serving", start_serving)
        os.dup2(pipe[0], listener.fileno())
        return start_serving(*args, **kwargs)

    monkeypatch.setattr(loop, "_start_serving", replace_and_serve)
    await server.start_serving()
    with socket.create_connection(address):
        await until(lambda: loop_errors)
        for context in loop_errors:
            assert context["exception"].errno == errno.ENOTSOCK
        os.dup2(saved, listener.fileno())
        await protocol.connected.wait()
        protocol.transport.abort()
        await protocol.lost.wait()
    server.close()
    await server.wait_closed()
    for fd in (saved, *pipe):
        os.close(fd)


class FailingListener(socket.socket):
    """Fails once."""

    error = errno.EPROTO

    def accept(self):
        if self.error:
            error, self.error = self.error, None
            raise OSError(error, os.strerror(error))
        return super().accept()


@EXPECTS_LOOP_ERRORS
async def test_serving_goes_on_after_the_accept_of_a_given_socket_failed(loop_errors):
    loop = asyncio.get_running_loop()
    protocol = Recorder()
    listener = FailingListener()
    listener.bind(("127.0.0.1", 0))
    server = await loop.create_server(lambda: protocol, sock=listener)
    with socket.create_connection(listener.getsockname()):
        await protocol.connected.wait()
        assert [context["exception"].errno for context in loop_errors] == [errno.EPROTO]
        protocol.transport.abort()
        await protocol.lost.wait()
    server.close()
    await server.wait_closed()


# A reset is no end of file


class KeepingOpen(Recorder):
    keep_open = True


@pytest.mark.parametrize("n_bytes", [1, 100_000])
@pytest.mark.parametrize("with_data", [False, True], ids=["", "after_data"])
async def test_a_reset_that_a_write_finds_is_no_end_of_file(n_bytes, with_data):
    for _ in range(50):
        async with open_transport(KeepingOpen()) as (transport, protocol, peer):
            if with_data:
                peer.send(b"data")
                await protocol.received(4)
            reset_on_close(peer)
            peer.close()
            transport.write(b"x" * n_bytes)
            await protocol.lost.wait()
            assert isinstance(protocol.error, ConnectionError)
            assert "eof_received" not in protocol.calls


async def test_a_reset_because_of_unread_data_is_no_end_of_file():
    for _ in range(50):
        async with open_transport(KeepingOpen()) as (transport, protocol, peer):
            transport.write(b"never read")
            await until(lambda peer=peer: is_readable(peer))
            peer.close()
            transport.write(b"x")
            await protocol.lost.wait()
            assert isinstance(protocol.error, ConnectionError)
            assert "eof_received" not in protocol.calls


def is_readable(sock):
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False


async def test_a_reset_that_a_waiting_send_finds_is_no_end_of_file():
    for _ in range(20):
        async with open_transport(KeepingOpen()) as (transport, protocol, peer):
            sock = transport.get_extra_info("socket")
            shrink_buffers(peer)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
            transport.write(bytes(1_000_000))
            await turns(5)
            assert transport.get_write_buffer_size() > 0
            reset_on_close(peer)
            peer.close()
            await protocol.lost.wait()
            assert isinstance(protocol.error, ConnectionError)
            assert "eof_received" not in protocol.calls


# Debug mode: the repr of a callback runs in the middle of cancel()


def test_cancelling_inside_the_reprs_of_cancelled_timers_leaves_the_heap_whole(monitor):
    """Each repr cancels the next timer; the innermost one many, and the heap is compacted."""
    run_script(
        """
        loop = make_loop(MONITOR)
        loop.set_debug(True)
        sys.setrecursionlimit(100_000)
        N_NESTED = 100  # Python 3.12 ends at 1500 calls inside each other in C, and a repr here takes eight

        class Callback:
            def __init__(self, number):
                self.number = number
            def __call__(self):
                raise AssertionError("cancelled")
            def __repr__(self):
                if self.number + 1 < N_NESTED:
                    nested[self.number + 1].cancel()
                else:
                    for handle in others:
                        handle.cancel()
                return f"Callback({self.number})"

        for _ in range(20):
            nested, others = [], []
            nested += [loop.call_later(100, Callback(number)) for number in range(N_NESTED)]
            others += [loop.call_later(100, print) for _ in range(400)]
            ran = []
            kept = [loop.call_at(at, ran.append, at) for at in (3, 1, 2)]
            nested[0].cancel()
            assert all(handle.cancelled() for handle in nested + others)
            # malloc looks at its own blocks here
            del [bytearray(size) for size in range(8, 8000, 8)][:]
            turn_until(loop, lambda: len(ran) == 3)
            assert ran == [1, 2, 3]
        one_turn(loop)
        loop.close()
        """,
        monitor,
    )


def test_timers_made_and_cancelled_inside_a_repr_run_in_their_order(loop):
    loop.set_debug(True)
    ran, made = [], []
    start = loop.time()

    class Callback:
        def __call__(self):
            ran.append("cancelled")

        def __repr__(self):
            for number in range(30):
                loop.call_at(start + 100, ran.append, "cancelled").cancel()
                made.append(loop.call_at(start - number, ran.append, -number))
            return "Callback()"

    handles = [loop.call_at(start, Callback()) for _ in range(30)]
    for handle in handles:
        handle.cancel()
    assert len(made) >= 900
    assert "Callback()" in repr(handles[0])
    turn_until(loop, lambda: len(ran) >= len(made))
    one_turn(loop)
    assert ran == sorted(ran)
    assert len(ran) == len(made)


# Objects that __init__ never saw


LOOP = "uringloop.eventloop.loop", "Loop"
TRANSPORTS = [
    ("uringloop.transports.stream.classes", "_SelectorSocketTransport"),
    ("uringloop.transports.stream.transport", "StreamTransport"),
]
HANDLES = [("uringloop.aio.handles", "Handle"), ("uringloop.aio.handles", "TimerHandle")]


@pytest.mark.parametrize(
    ("made", "uses"),
    [
        (
            LOOP,
            """
            repr(it)
            it.time()
            it.call_soon(print)
            it.call_soon(print, 1, 2, 3)
            it.call_soon_threadsafe(print)
            it._run_once()
            it._write_to_self()
            it.call_later(0, print)
            it.call_at(0, print)
            it.create_future()
            it.stop()
            it.is_running()
            it.is_closed()
            it.get_debug()
            it.set_debug(True)
            it.run_forever()
            it.add_reader(0, print)
            it.remove_reader(0)
            it.add_writer(0, print)
            it.remove_writer(0)
            it.call_exception_handler({"message": "none"})
            it.statistics()
            it.fdmon
            it.aio_context
            it.close()
            """,
        ),
        *[
            (
                transport,
                """
                repr(it)
                it.write(b"x")
                it.write(bytes(1_000_000))
                it.writelines([b"x", b"y"])
                it.write_eof()
                it.can_write_eof()
                it.get_extra_info("socket")
                it.get_write_buffer_size()
                it.get_write_buffer_limits()
                it.set_write_buffer_limits(high=10)
                it.pause_reading()
                it.resume_reading()
                it.is_reading()
                it.is_closing()
                it.get_protocol()
                it.set_protocol(asyncio.Protocol())
                it.start()
                it.abort()
                it.close()
                """,
            )
            for transport in TRANSPORTS
        ],
        (
            ("uringloop.transports.datagram.classes", "DatagramTransport"),
            """
            repr(it)
            it.sendto(b"x")
            it.sendto(b"x", ("127.0.0.1", 1))
            it._read_ready()
            it._sendto_ready()
            it._force_close(None)
            it.pause_reading()
            it.resume_reading()
            it.get_write_buffer_size()
            it.set_write_buffer_limits(high=10)
            it.abort()
            it.close()
            """,
        ),
        (
            ("uringloop.transports.tls.protocol", "TlsProtocol"),
            """
            repr(it)
            it.data_received(b"x")
            it.eof_received()
            it.pause_writing()
            it.resume_writing()
            it.connection_lost(None)
            it._sslobj
            """,
        ),
        *[
            (
                handle,
                """
                repr(it)
                hash(it)
                it == it
                it.cancel()
                it.cancelled()
                it.get_context()
                it.when()
                it._run()
                """,
            )
            for handle in HANDLES
        ],
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else "",
)
def test_an_object_that_was_never_initialised_raises_and_does_not_crash(made, uses):
    """Each use in a process of its own: a crash of one hides none of the others."""
    uses = [line.strip() for line in uses.strip().splitlines()]
    run_script(
        f"""
        import importlib, logging, signal, traceback
        kind = getattr(importlib.import_module({made[0]!r}), {made[1]!r})
        logging.disable()
        failed = []
        for use in {uses!r}:
            pid = os.fork()
            if pid == 0:
                status = 3
                try:
                    signal.alarm(20)
                    it = kind.__new__(kind)
                    try:
                        eval(use)
                    except Exception as error:
                        assert not isinstance(error, SystemError), error
                    del it
                    gc.collect()
                    status = 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(status)
            status = os.waitpid(pid, 0)[1]
            if status:
                failed.append((use, status))
        assert not failed, failed
        """
    )

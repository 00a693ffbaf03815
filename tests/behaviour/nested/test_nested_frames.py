"""Nested turns that end the object whose callback runs them: nothing may be freed under the frames on the stack.
Each test runs in a process of its own, which could crash, with an allocator that overwrites freed memory.
"""

import textwrap

import pytest
from support.helpers import run_script

SETUP = """
import uringloop
loop = uringloop.new_event_loop(fdmon=MONITOR)
errors = []
loop.set_exception_handler(lambda loop, context: errors.append(repr(context.get("exception"))))


def end(it, way):
    # The connection ends in a nested turn; only the frames below still use it.
    transport = it.transport
    if transport.get_write_buffer_size():
        way = "abort"  # the peer does not read now
    getattr(transport, way)()
    del transport
    loop.run_nested(asyncio.wait_for(it.is_lost.wait(), 5))
    loop.run_nested(turns(3))
    gc.collect()
    junk.extend(bytearray(count) for count in range(64, 640, 8) for _ in range(20))


junk = []
LARGE = 8 << 20  # more than the sockets take at once


class Ending:
    # Ends its connection in the method `where`, and raises `error` there afterwards.

    def __init__(self, where, way, error, result=None):
        self.where, self.way, self.error, self.result = where, way, error, result
        self.is_lost = asyncio.Event()
        self.transport = None
        self.n_data = 0
        self.has_ended = False

    def called(self, name):
        if name != self.where or self.transport is None:
            return self.result
        self.has_ended = True
        end(self, self.way)
        if self.error is not None:
            raise self.error
        return self.result

    def connection_made(self, transport):
        self.transport = transport
        transport.set_write_buffer_limits(1000)

    def connection_lost(self, error):
        self.transport = None
        self.is_lost.set()

    def pause_writing(self):
        self.called("pause_writing")

    def resume_writing(self):
        self.called("resume_writing")

    def eof_received(self):
        return self.called("eof_received")


class Plain(Ending, asyncio.Protocol):
    def data_received(self, data):
        self.n_data += len(data)
        self.called("data_received")


class Buffered(Ending, asyncio.BufferedProtocol):
    buffer_bytes = 10

    def get_buffer(self, hint):
        self.called("get_buffer")
        return bytearray(self.buffer_bytes)

    def buffer_updated(self, count):
        self.n_data += count
        self.called("buffer_updated")


def all_cases():
    for way in "abort", "close":
        for error in None, ValueError("in the middle"):
            for where in "data_received", "eof_received", "pause_writing", "resume_writing":
                yield Plain(where, way, error)
            for where in "get_buffer", "buffer_updated", "eof_received":
                yield Buffered(where, way, error)
            yield Plain("eof_received", way, error, True)


async def drive(it, kind, size, is_held):
    # Data, the end, and a write that waits for room: each method is called.
    near, far = socketpair(kind)
    near.setblocking(False)
    far.setblocking(False)
    await loop.create_connection(lambda: it, sock=near)
    del near
    if is_held:
        it.transport.pause_reading()
        for _ in range(5):
            far.send(b"held")
            await turns(3)
        it.transport.resume_reading()
    for _ in range(6):
        with contextlib.suppress(BlockingIOError, OSError):
            far.send(bytes(size))
        await turns(4)
    if it.transport is not None:
        it.transport.write(bytes(LARGE))
        read = 0

        def all_is_read():
            nonlocal read
            with contextlib.suppress(BlockingIOError):
                read += len(far.recv(1 << 20))
            return read == LARGE or it.transport is None

        await until(all_is_read)
        await turns(5)
    with contextlib.suppress(OSError):
        far.shutdown(socket.SHUT_WR)
    await until(lambda: it.has_ended)
    if it.transport is not None:
        it.transport.abort()
    await asyncio.wait_for(it.is_lost.wait(), 5)
    far.close()
"""


def script(monitor, source):
    run_script(SETUP + textwrap.dedent(source), monitor, env={"PYTHONMALLOC": "debug"}, seconds=120)


@pytest.mark.parametrize(
    ("kind", "size", "is_held"), [("tcp", 100, True), ("tcp", 20_000, False), ("unix", 100, False)]
)
def test_a_connection_ends_in_its_own_callback(monitor, kind, size, is_held):
    script(
        monitor,
        f"""
        async def main():
            for it in all_cases():
                it.buffer_bytes = {size} // 10
                await drive(it, {kind!r}, {size}, {is_held})

        loop.run_until_complete(main())
        assert errors == ["ValueError('in the middle')"] * len(errors), errors
        loop.close()
        """,
    )

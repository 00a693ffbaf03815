"""Random requests by add_sqe(), seeded: none of them makes the kernel write to freed memory, and ordinary connections
of the same loop lose nothing.

Memory comes from one mapping, in blocks.  When its last reference is gone, a block is filled with a pattern and never
used again, so a later write of the kernel, which no sanitizer notices, is found at the end.
"""

import asyncio
import contextlib
import gc
import mmap
import os
import random
import socket
import weakref

import pytest
from support.helpers import turns

pytest.importorskip("cffi")  # not for 3.13t
from uringloop.liburing import ffi, lib

PATTERN = b"\xa5"
POOL = 64 << 20
NULL = ffi.NULL


class Pool:
    """Blocks of memory; each is used once."""

    def __init__(self):
        self.memory = mmap.mmap(-1, POOL)
        self.whole = memoryview(self.memory)
        self.used = 0
        self.freed = []

    def new(self, size):
        """A cffi buffer that keeps its block alive; a small block when the pool is used up."""
        if self.used + size > POOL:
            return ffi.from_buffer(bytearray(size))
        block = self.whole[self.used : self.used + size]
        weakref.finalize(block, self.free, self.used, size)
        self.used += size
        return ffi.from_buffer(block)

    def free(self, start, size):
        self.memory[start : start + size] = PATTERN * size
        self.freed.append((start, size))

    def written_to(self):
        """Freed blocks that no longer contain the pattern."""
        return [
            (start, size) for start, size in self.freed if self.memory[start : start + size] != PATTERN * size
        ]


class Fuzz:
    """The files used by requests, and a method to make each kind of request."""

    def __init__(self, seed, folder):
        self.chance = random.Random(seed)
        self.pool = Pool()
        self.stack = contextlib.ExitStack()
        self.ours, self.theirs = map(self.stack.enter_context, socket.socketpair())
        self.tcp_listener = self.stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.tcp_near = self.stack.enter_context(socket.create_connection(self.tcp_listener.getsockname()))
        self.tcp_far = self.stack.enter_context(self.tcp_listener.accept()[0])
        for sock in (self.ours, self.theirs, self.tcp_near, self.tcp_far):
            sock.setblocking(False)
        # not one pipe for both: a splice that waits for a socket locks its pipe, and a write would wait uninterruptibly
        self.pipe_read, self.pipe_write = os.pipe()
        self.splice_read, self.splice_write = os.pipe()
        self.file = os.open(folder / "fuzz", os.O_RDWR | os.O_CREAT)
        self.null = os.open("/dev/null", os.O_RDWR)
        self.zero = os.open("/dev/zero", os.O_RDWR)
        numbers = [self.pipe_read, self.pipe_write, self.splice_read, self.splice_write]
        numbers += [self.file, self.null, self.zero]
        for number in numbers:
            self.stack.callback(os.close, number)
        self.fds = [self.null, self.zero, self.file, self.pipe_read, -1, 9999]
        self.fds += [self.ours.fileno(), self.theirs.fileno(), self.tcp_far.fileno()]
        self.makers = [getattr(self, name) for name in sorted(vars(Fuzz)) if name.startswith("make_")]
        self.live = []
        self.tasks = weakref.WeakSet()
        self.opening = weakref.WeakSet()
        self.n_made = self.n_refused = 0

    def size(self):
        return self.chance.choice([1, 10, 4096, 20000])

    def group(self):
        return self.chance.choice([1, 2, 9])

    def selecting(self, prep, *args):
        group = self.group()

        def select_buffer(sqe):
            prep(sqe, *args)
            sqe.flags |= lib.IOSQE_BUFFER_SELECT
            sqe.buf_group = group

        return select_buffer

    def time(self, choices=(0, 1, 1000, 100_000, 3_000_000)):
        nanoseconds = self.chance.choice(choices)
        return ffi.new("struct __kernel_timespec *", {"tv_sec": 0, "tv_nsec": nanoseconds})

    # each returns (prep, *args) and keywords

    def make_nop(self):
        return (lib.io_uring_prep_nop,), {}

    def make_read(self):
        size = self.size()
        offset = self.chance.choice([0, 100, -1])
        return (lib.io_uring_prep_read, self.chance.choice(self.fds), self.pool.new(size), size, offset), {}

    def make_write(self):
        size = self.size()
        fd = self.chance.choice([self.null, self.file, self.pipe_write, -1])
        return (lib.io_uring_prep_write, fd, self.pool.new(size), size, 0), {}

    def make_read_selected(self):
        fd = self.chance.choice([self.zero, self.pipe_read, self.file])
        return (self.selecting(lib.io_uring_prep_read, fd, NULL, self.size(), -1),), {}

    def make_readv(self):
        size = self.size()
        memory = self.pool.new(size)
        vector = ffi.new("struct iovec[1]", [{"iov_base": memory, "iov_len": size}])
        return (lib.io_uring_prep_readv, self.chance.choice(self.fds), vector, 1, 0), {"keepalive": memory}

    def make_timeout(self):
        return (lib.io_uring_prep_timeout, self.time(), self.chance.choice([0, 1, 5]), 0), {}

    def make_multishot_timeout(self):
        time = self.time([1_000_000, 10_000_000])  # with less the loop would do nothing else
        return (lib.io_uring_prep_timeout, time, 0, lib.IORING_TIMEOUT_MULTISHOT), {"multishot": True}

    def make_poll(self):
        return (lib.io_uring_prep_poll_add, self.chance.choice(self.fds), self.chance.choice([1, 4, 5])), {}

    def make_multishot_poll(self):
        fd = self.chance.choice(self.fds)
        return (lib.io_uring_prep_poll_multishot, fd, self.chance.choice([1, 4, 5])), {"multishot": True}

    def make_receive(self):
        size, sock = self.size(), self.chance.choice([self.ours, self.tcp_far])
        flags = self.chance.choice([0, socket.MSG_WAITALL, socket.MSG_PEEK])
        return (lib.io_uring_prep_recv, sock.fileno(), self.pool.new(size), size, flags), {}

    def make_receive_message(self):
        size = self.size()
        memory = self.pool.new(size)
        vector = ffi.new("struct iovec *", {"iov_base": memory, "iov_len": size})
        message = ffi.new("struct msghdr *", {"msg_iov": vector, "msg_iovlen": 1})
        return (lib.io_uring_prep_recvmsg, self.ours.fileno(), message, 0), {"keepalive": (vector, memory)}

    def make_receive_selected(self):
        size, sock = self.size(), self.chance.choice([self.ours, self.tcp_far])
        return (self.selecting(lib.io_uring_prep_recv, sock.fileno(), NULL, size, 0),), {}

    def make_multishot_receive(self):
        sock = self.chance.choice([self.ours, self.tcp_far])
        prep = self.selecting(lib.io_uring_prep_recv_multishot, sock.fileno(), NULL, 0, 0)
        return (prep,), {"multishot": True}

    def make_send(self):
        size, sock = self.size(), self.chance.choice([self.theirs, self.tcp_near])
        flags = self.chance.choice([0, socket.MSG_WAITALL, socket.MSG_DONTWAIT])
        return (lib.io_uring_prep_send, sock.fileno(), self.pool.new(size), size, flags), {}

    def make_zero_copy_send(self):
        size, sock = self.size(), self.chance.choice([self.theirs, self.tcp_near])
        return (lib.io_uring_prep_send_zc, sock.fileno(), self.pool.new(size), size, 0, 0), {}

    def make_accepts(self):
        prep = lib.io_uring_prep_multishot_accept
        return (prep, self.tcp_listener.fileno(), NULL, NULL, 0), {"multishot": True}

    def make_open(self):
        path = self.chance.choice([b"/dev/zero", b"/nonexistent", b""])
        return (lib.io_uring_prep_openat, lib.AT_FDCWD, path, os.O_RDONLY, 0), {}

    def make_statx(self):
        return (lib.io_uring_prep_statx, lib.AT_FDCWD, b"/", 0, 0x7FF, ffi.new("struct statx *")), {}

    def make_splice(self):
        flags = self.chance.choice([0, 2])  # SPLICE_F_NONBLOCK
        out = self.chance.choice([self.null, self.file, self.theirs.fileno(), self.splice_write])
        return (lib.io_uring_prep_splice, self.splice_read, -1, out, -1, self.size(), flags), {}

    def make_cancel(self):
        named = self.chance.choice([0, 1, self.chance.getrandbits(48)])
        if self.live and self.chance.random() < 0.5:
            named = self.chance.choice(self.live).user_data
        flags = self.chance.choice([0, lib.IORING_ASYNC_CANCEL_ANY, lib.IORING_ASYNC_CANCEL_ALL, 5])
        return (lib.io_uring_prep_cancel64, named, flags), {}

    def make_cancel_fd(self):
        return (lib.io_uring_prep_cancel_fd, self.chance.choice(self.fds), self.chance.choice([0, 1])), {}

    def make_removals(self):
        if self.chance.random() < 0.5:
            return (lib.io_uring_prep_poll_remove, self.chance.getrandbits(48)), {}
        return (lib.io_uring_prep_timeout_remove, self.chance.getrandbits(48), 0), {}

    def make_provide(self):
        count = self.chance.choice([1, 4])
        first = self.chance.choice([0, 2, 65534])
        group = self.chance.choice([1, 2, 9, 0xFF00])
        memory = self.pool.new(1024 * count)
        return (lib.io_uring_prep_provide_buffers, memory, 1024, count, group, first), {}

    def make_remove(self):
        return (lib.io_uring_prep_remove_buffers, self.chance.choice([1, 2, 100]), self.group()), {}

    def make_any_bytes(self):
        """Random bytes, for operations that are harmless with any arguments."""
        operations = [lib.IORING_OP_NOP, lib.IORING_OP_FSYNC, lib.IORING_OP_FADVISE, lib.IORING_OP_SHUTDOWN]
        operations += [lib.IORING_OP_SYNC_FILE_RANGE, lib.IORING_OP_TEE, 200]
        values = (
            self.chance.choice(operations),
            self.chance.choice([-1, 9999, self.file]),
            self.chance.choice([0, 0, lib.IOSQE_ASYNC, lib.IOSQE_FIXED_FILE, lib.IOSQE_BUFFER_SELECT]),
            self.chance.choice([0, 0, self.chance.getrandbits(16)]),
            self.chance.getrandbits(8),
        )

        def fill(sqe):
            sqe.opcode, sqe.fd, sqe.flags, sqe.ioprio, sqe.off = values

        return (fill,), {}


async def wait(request, makes_fds):
    with contextlib.suppress(OSError, TypeError, RuntimeError):
        result = await request
        if makes_fds:
            os.close(result)


async def end_of(tasks):
    await asyncio.gather(*tasks, return_exceptions=True)


def completed(makes_fds):
    """The callback of a request, which closes what the request opened."""

    def close(cqe):
        if makes_fds and cqe.res >= 0:
            os.close(cqe.res)

    return close


def forced_async(prep):
    def fill(sqe, *args):
        prep(sqe, *args)
        sqe.flags |= lib.IOSQE_ASYNC

    return fill


def make_requests(loop, fuzz, count):
    chance = fuzz.chance
    for _ in range(count):
        call, keywords = chance.choice(fuzz.makers)()
        makes_fds = call[0] in (lib.io_uring_prep_openat, lib.io_uring_prep_multishot_accept)
        if chance.random() < 0.2:
            call = (forced_async(call[0]), *call[1:])
        how = chance.random()
        try:
            if how < 0.3:
                request = loop.add_sqe(*call, callback=completed(makes_fds), **keywords)
            elif how < 0.45 and not keywords:
                chain = [call, fuzz.make_nop()[0], call, fuzz.make_zero_copy_send()[0]]
                request = chance.choice(loop.add_sqes(chain))
            else:
                request = loop.add_sqe(*call, **keywords)
        except (ValueError, OSError):
            fuzz.n_refused += 1
        else:
            fuzz.n_made += 1
            fuzz.live.append(request)
            if makes_fds:
                fuzz.opening.add(request)


async def step(loop, fuzz):
    """Some requests, and perhaps another action."""
    chance = fuzz.chance
    make_requests(loop, fuzz, chance.choice([1, 1, 5, 60, 200]))
    what = chance.random()
    if what < 0.2:
        for request in fuzz.live[: len(fuzz.live) // 2]:
            request.cancel()
        del fuzz.live[: len(fuzz.live) // 2]
    elif what < 0.4:
        fuzz.live.clear()
        gc.collect(0)
    elif what < 0.6:
        # does not wait for their end: a zero-copy send waits for its peer, which is read by this task
        tasks = [asyncio.ensure_future(wait(request, request in fuzz.opening)) for request in fuzz.live[:5]]
        if tasks:
            await asyncio.wait(tasks, timeout=0.001)
        for task in tasks:
            task.cancel()
        fuzz.tasks.update(tasks)
    elif what < 0.65:
        loop.run_nested(turns(2))
    del fuzz.live[:-500]
    with contextlib.suppress(BlockingIOError):  # a request in a worker of the kernel may read it first
        os.preadv(fuzz.pipe_read, [bytearray(65536)], -1, os.RWF_NOWAIT)
    for sock in (fuzz.ours, fuzz.tcp_far):
        with contextlib.suppress(OSError):
            sock.recv(1 << 20)
    if chance.random() < 0.05:
        with socket.socket() as client:
            client.setblocking(False)
            client.connect_ex(fuzz.tcp_listener.getsockname())
    with contextlib.suppress(OSError):
        fuzz.theirs.send(b"some bytes")
    await turns(1)


async def echo(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def traffic(chance, is_over):
    """Use ordinary connections of the loop; returns the number of round trips."""
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    n_messages = 0
    while not is_over():
        data = chance.randbytes(chance.choice([1, 1000, 100_000]))
        writer.write(data)
        assert await asyncio.wait_for(reader.readexactly(len(data)), 30) == data
        n_messages += 1
    writer.close()
    await writer.wait_closed()
    server.close()
    return n_messages


@pytest.mark.slow
@pytest.mark.expects_loop_errors
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("seed", range(3))
def test_random_requests_do_not_touch_freed_memory(new_loop, seed, tmp_path):
    loop = new_loop()
    if not getattr(loop, "supports_sqe", False):
        pytest.skip("no raw requests on this monitor")
    loop.set_exception_handler(lambda loop, details: None)  # most of them fail
    fuzz = Fuzz(seed, tmp_path)
    is_over = False

    async def main():
        nonlocal is_over
        task = asyncio.ensure_future(traffic(random.Random(seed), lambda: is_over))
        for _ in range(400):
            await step(loop, fuzz)
            if task.done():
                break
        is_over = True
        return await task

    with fuzz.stack:
        n_messages = loop.run_until_complete(main())
    # once the sockets are closed, no request waits for a peer
    fuzz.live.clear()
    loop.run_until_complete(end_of(fuzz.tasks))
    gc.collect()
    loop.close()
    gc.collect()
    assert n_messages > 10
    assert fuzz.n_made > 1000
    assert len(fuzz.pool.freed) > 1000
    assert fuzz.pool.written_to() == []

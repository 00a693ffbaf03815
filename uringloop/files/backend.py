"""The operations that file objects request of the operating system, by io_uring requests or threads.

How it works:
1. `Backend` is the list of operations. `ring_backend.RingBackend` makes each one a request on the loop's ring,
   `thread_backend.ThreadBackend` a call in the loop's default executor. Which one a loop has: `choice.backend_of`.
2. Everything above (binary, text, functions, copying, temporary) knows this class only.

Invariant: an operation that is cancelled does not return before the kernel, or the thread, is done with it. The
CancelledError then carries the actual result as its `outcome` (see `outcome_of`): bytes that were read from a
pipe can be kept, and positions stay exact. A file descriptor that is no longer waited for is closed by the backend,
also where the loop was closed meanwhile (see `Opened`).

Offsets: a number of bytes from the beginning of the file, or STREAM for files without positions (pipes, terminals,
sockets: the operation waits until it can proceed), or APPEND to write at the kernel's own position (files opened with
O_APPEND: at the end).
"""

from __future__ import annotations

import _thread
import asyncio
import os
import select
import stat
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeAlias, TypeVar

from ..aio.owner import ContextOwner
from .page_cache import LATER, Block, CachedReads

__all__ = ["APPEND", "OFFSET_MOST", "STREAM", "Backend", "Opened", "Path", "outcome_of"]

STREAM = -1
# The largest off_t.
OFFSET_MOST = (1 << 63) - 1
APPEND = -2

Buffer: TypeAlias = bytes | bytearray | memoryview
Path: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]
_T = TypeVar("_T")

_RELEASE_AGAIN_S = 0.02
_WAKE_AGAIN_S = 0.01
_TERMINAL_AGAIN_S = 0.01
_PTY_MASTER = os.makedev(5, 2)


class Opened:
    """An open file, and what `open` needs to know about it.

    Invariant: from the system call that opened it until a file object owns it, an fd belongs to an Opened, made before
    that call, which closes it with its last reference. So it is not lost when an exception is raised on the way (a
    MemoryError, anywhere), nor when the loop is closed between the thread that opened it and the task that waits.
    """

    __slots__ = ("fd", "is_owned", "st_blksize", "st_mode", "st_size")

    def __init__(self, fd: int = -1) -> None:
        self.fd = fd
        self.is_owned = False
        self.st_mode = self.st_size = self.st_blksize = 0

    def own(self, fd: int) -> None:
        """Close it, unless disowned."""
        self.fd = fd
        self.is_owned = True

    def close(self) -> None:
        if self.is_owned:
            self.is_owned = False
            os.close(self.fd)

    __del__ = close


def outcome_of(error: BaseException) -> Any:
    """What a cancelled operation still did: its result, or None if it did nothing."""
    return getattr(error, "outcome", None)


def _reopen_terminal(fd: int) -> int:
    """Another open file of the same terminal, which does not wait; -1 if it cannot be opened."""
    if os.fstat(fd).st_rdev == _PTY_MASTER:
        return -1  # opening that makes a new terminal
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return -1  # another user's, or TIOCEXCL, or no /proc


class Backend:
    """The operations. All are coroutines, run in the loop's task, and raise OSError without a file's name."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        # None on loops other than uringloop's: how much one of their turns has read is not known.
        self.cached: CachedReads | None = getattr(loop, "_cached_reads", None)
        if self.cached is None and isinstance(loop, ContextOwner):
            self.cached = loop._cached_reads = CachedReads(loop)

    # Files

    async def open(self, path: Path, flags: int, mode: int, dir_fd: int | None = None) -> Opened:
        """Open a file, never inherited by children; the result owns it. Cancelled: closed again."""
        raise NotImplementedError

    async def describe(self, fd: int) -> Opened:
        """The same for a descriptor that is open."""
        raise NotImplementedError

    async def close(self, fd: int, is_slow: bool = False) -> None:
        """Close it. Not cancellable: once this has begun it is closed in any case, even if this raises.

        Parameters:
            is_slow: much was written. On close, ext4 begins to write out data that replaces other contents; and a file
                without a name is deleted, with all its blocks.
        """
        raise NotImplementedError

    async def read(self, fd: int, count: int, offset: int) -> bytes:
        """Read at most `count` bytes; fewer at the end of a file, and only available ones of a stream."""
        raise NotImplementedError

    async def fill(self, fd: int, block: Block, offset: int) -> None:
        """Read the rest of a block until it is full or the file ends; its beginning is at `offset`, not STREAM.

        The block, and the caller's memory if it is that, is held until the kernel is done.
        """
        raise NotImplementedError

    async def fill_later(self, fd: int, block: Block, offset: int) -> int:
        """The same, waiting for turns that have room for it, as far as data is cached; returns the block's state."""
        assert self.cached is not None
        state: int = LATER
        while state == LATER:
            await self.cached.later(self.loop, block)
            state = self.cached.go_on(fd, block, offset, True)
        return state

    async def write(self, fd: int, data: Buffer, offset: int) -> int:
        """Write; returns how many bytes were written: at least one, often all."""
        raise NotImplementedError

    async def readv(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        raise NotImplementedError

    async def writev(self, fd: int, buffers: Sequence[Buffer], offset: int) -> int:
        raise NotImplementedError

    async def fsync(self, fd: int, data_only: bool) -> None:
        raise NotImplementedError

    async def truncate(self, fd: int, length: int) -> None:
        raise NotImplementedError

    async def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        raise NotImplementedError

    async def fadvise(self, fd: int, offset: int, length: int, advice: int) -> None:
        raise NotImplementedError

    async def splice(
        self, source_fd: int, source_offset: int, target_fd: int, target_offset: int, count: int
    ) -> int:
        """splice(2): one of the two is a pipe, whose offset is STREAM. Waits until data can be moved."""
        raise NotImplementedError

    async def ready(self, fd: int, events: int) -> None:
        """Wait until a descriptor is ready for select.POLLIN or POLLOUT; one that cannot be watched always is."""
        raise NotImplementedError

    async def write_terminal(self, fd: int, data: Buffer) -> int:
        """Write to a terminal; not more than it takes at once.

        A terminal is ready as long as it takes a single byte, and blocks a writer of more until all of it is taken: a
        thread, or the loop, where the kernel writes while a request is submitted. So this writes through a separate
        open file, which does not wait; the flags of the given one belong to all that share it.
        """
        some = data if len(data) <= select.PIPE_BUF else memoryview(data)[: select.PIPE_BUF]
        is_own = os.get_blocking(fd)
        second = _reopen_terminal(fd) if is_own else fd
        try:
            while True:
                await self.ready(fd, select.POLLOUT)
                if second < 0:
                    return await self.call(os.write, fd, some)
                try:
                    return os.write(second, some)
                except BlockingIOError:
                    # Another writer was quicker, or there is room for one byte where a line's end takes two.
                    await asyncio.sleep(_TERMINAL_AGAIN_S)
        finally:
            if is_own and second >= 0:
                os.close(second)

    # Names

    async def stat(self, path: Path | int, dir_fd: int | None, follow_symlinks: bool) -> os.stat_result:
        raise NotImplementedError

    async def rename(
        self, source: Path, target: Path, source_dir: int | None, target_dir: int | None
    ) -> None:
        raise NotImplementedError

    async def unlink(self, path: Path, dir_fd: int | None, is_directory: bool) -> None:
        """Remove a name, or with `is_directory` an empty directory."""
        raise NotImplementedError

    async def mkdir(self, path: Path, mode: int, dir_fd: int | None) -> None:
        raise NotImplementedError

    async def symlink(self, target: Path, path: Path, dir_fd: int | None) -> None:
        raise NotImplementedError

    async def link(
        self,
        source: Path,
        target: Path,
        source_dir: int | None,
        target_dir: int | None,
        follow_symlinks: bool,
    ) -> None:
        raise NotImplementedError

    # Everything without a separate operation

    async def call(
        self,
        function: Callable[..., _T],
        *args: Any,
        undo: Callable[[_T], object] | None = None,
        is_due: bool = False,
    ) -> _T:
        """Call `function(*args)` in the default executor. Cancelled: it is not started any more, or waited for.

        Parameters:
            undo: called with the result, in the loop's thread, if that will not be delivered.
            is_due: the call is made even if cancelled; except where memory was short, which raises.
        """
        call = _Call(self.loop, function, args)
        try:
            # not waited for: only what it cannot begin, or has no memory for, ends the call in this way
            self.loop.run_in_executor(None, call.run).add_done_callback(call.end)
            await call.over()
        except (asyncio.CancelledError, MemoryError) as error:
            is_waited_for = is_due and not isinstance(
                error, MemoryError
            )  # which may have come before it was due
            if is_waited_for or not call.take_back():
                error.outcome = await call.outlast(undo)  # type: ignore[union-attr]
            raise
        except BaseException:
            call.take_back()
            raise
        result: _T = call.result()
        return result

    async def open_fifo(self, path: Path, flags: int, mode: int, dir_fd: int | None) -> Opened:
        """Open a FIFO, which waits until its other end is opened, in a separate thread.

        The executor and the kernel have few threads for all files: some FIFOs that stay unopened would take them all.
        Cancelled: the other end is opened for a moment, which ends the thread; if that fails (without /proc, or the
        right to write) it stays until a process that has the FIFO releases it. No memory of a caller depends on it,
        and what it opens is closed. The end of an interpreter without daemon threads, which waits for its threads,
        releases them in the same way.
        """

        thread = _FifoThread(self.loop, path, flags, mode, dir_fd)
        thread.start()
        call = thread.call
        try:
            await call.over()
        except asyncio.CancelledError:
            # A release before the thread waits is lost, hence another one after a while.
            while not call.is_over and thread.release():
                with suppress(asyncio.CancelledError, TimeoutError):  # the first one will be raised
                    await asyncio.wait_for(call.over(), _RELEASE_AGAIN_S)
            raise
        opened: Opened = call.result()
        return opened


class _Call:
    """A function that runs in a thread, and the task that waits for it.

    asyncio uses two futures and three callbacks for a call in an executor; if one of them is lost because memory is
    short for a moment, the task waits for ever.
    """

    __slots__ = ("_args", "_error", "_function", "_loop", "_result", "_unbegun", "_waiter", "is_over")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, function: Callable[..., Any], args: tuple[Any, ...]
    ) -> None:
        self._loop = loop
        self._function = function
        self._args = args
        self._unbegun = [True]  # pop() is atomic: either the thread takes it, or cancel() does
        self._waiter: asyncio.Future[None] | None = None
        self._result: Any = None
        self._error: BaseException | None = None
        self.is_over = False

    def run(self) -> None:
        """In the thread."""
        if not self.take_back():
            return
        try:
            self._result = self._function(*self._args)
        except BaseException as error:
            self._error = error
        self.is_over = True
        while True:
            try:
                self._loop.call_soon_threadsafe(self._wake)
                return
            except RuntimeError:  # the loop is closed: nothing waits
                return
            except MemoryError:
                time.sleep(_WAKE_AGAIN_S)

    def take_back(self) -> bool:
        """Keep it from running, unless it has begun."""
        try:
            self._unbegun.pop()
        except IndexError:
            return False
        return True

    def end(self, future: asyncio.Future[None]) -> None:
        """The executor's future is done; also if the executor is shut down, and the function never began."""
        if future.cancelled():
            error: BaseException | None = asyncio.CancelledError()
        else:
            error = future.exception()
        if error is not None and not self.is_over:
            self._error = error
            self.is_over = True
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def over(self) -> None:
        """Wait until it is over."""
        while not self.is_over:
            self._waiter = self._loop.create_future()
            await self._waiter

    async def outlast(self, undo: Callable[[Any], object] | None) -> Any:
        """Wait for a call that cannot be undone, however often we are cancelled; its result, None if it failed."""
        while not self.is_over:
            with suppress(asyncio.CancelledError, MemoryError):  # the first one is going to be raised
                await self.over()
        if self._error is None and undo is not None:
            undo(self._result)
            return None
        return self._result

    def result(self) -> Any:
        """What the function returned; raises what it raised."""
        error, self._error = self._error, None  # it refers to this frame
        if error is None:
            return self._result
        try:
            raise error
        finally:
            del error


class _FifoThread(threading.Thread):
    """A thread that opens a FIFO."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, path: Path, flags: int, mode: int, dir_fd: int | None
    ) -> None:
        self.call = _Call(loop, self._open, (path, flags, mode, dir_fd))
        super().__init__(target=self.call.run, name=f"open {os.fsdecode(path)}", daemon=_has_daemon_threads())
        self._lock = threading.Lock()
        self._fifo: Opened | None = None  # without access; kept while the thread may wait

    def _open(self, path: Path, flags: int, mode: int, dir_fd: int | None) -> Opened:
        """In the thread."""
        fifo, opened = Opened(), Opened()
        fifo.own(os.open(path, os.O_PATH | os.O_CLOEXEC, dir_fd=dir_fd))
        with self._lock:
            self._fifo = fifo
        try:
            opened.own(os.open(path, flags, mode, dir_fd=dir_fd))
        finally:
            with self._lock:
                self._fifo = None
                fifo.close()
        return opened

    def release(self) -> bool:
        """End a wait for the other end.  Returns: False if that is not possible.

        The name may be gone by now, or be another file's: the FIFO itself is known.
        """
        with self._lock:
            if self._fifo is None:
                return not self.call.is_over  # it has not begun to wait
            try:
                if not stat.S_ISFIFO(os.fstat(self._fifo.fd).st_mode):
                    return False
                name = f"/proc/self/fd/{self._fifo.fd}"
                os.close(os.open(name, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
            except OSError:
                return False
        return True


def _release_fifos() -> None:
    """The interpreter is going to wait for its threads."""
    for thread in threading.enumerate():
        if isinstance(thread, _FifoThread):
            while thread.is_alive() and thread.release():
                thread.join(_RELEASE_AGAIN_S)


def _has_daemon_threads() -> bool:
    """Sub-interpreters of LoopGroup's kind have none."""
    allowed: bool = getattr(_thread, "daemon_threads_allowed", lambda: True)()
    return allowed


if not _has_daemon_threads():
    # as concurrent.futures does: before Python joins the threads
    threading._register_atexit(_release_fifos)  # type: ignore[attr-defined]

"""serve_view(): what this process's loops do now, for `python -m uringloop top`; docs/observing.md.

How it works:
 1. A daemon thread listens on a UNIX socket in a folder that only the user can enter (`places`).  It serves all its
    peers by poll(2), without a loop of its own: it answers while each loop of the process is blocked, as long as
    something gives it the GIL.
 2. A peer of the same user, or root, sends one line, one of REQUESTS, and gets one JSON document.  Nothing of what it
    sends is ever run, imported, unpickled or used as a name.
 3. Each loop is recorded from its creation, or, if it runs already, from when it first gets to a request for that.
    A loop that does not get to it is blocked, which is shown as well.
 4. A fork child does not serve: the socket is its parent's.

Invariant: a peer costs at most one descriptor, MOST_REQUEST_BYTES, one answer and PEER_S seconds, and there are at most
MOST_PEERS of them.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import json
import logging
import os
import select
import signal
import socket
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ..eventloop.loop import Loop, _observe_loops, _observe_loops_no_more
from . import describing, places
from .recording import Recording, record

if TYPE_CHECKING:
    from types import TracebackType

MOST_PEERS = 16
PEER_S = 5.0  # from connecting to having the answer
MOST_LOOPS = 64
ANSWER_S = 0.05  # without a GIL: how long a loop may take to give its numbers

_FAULTS = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT)

_offered: list[View] = []  # by $URINGLOOP_TOP; empty, or one
_offering = threading.Lock()
_open_views: weakref.WeakSet[View] = weakref.WeakSet()


class View:
    """Made by serve_view(); a context manager that closes it.

    Thread: any.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self._loops = _Loops()
        self._pid = os.getpid()
        self._listener, self._path = _listen(path)
        self._wake_reads, self._wake_writes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._is_closed = False
        self._peers: dict[int, _Peer] = {}
        self._thread = threading.Thread(target=self._serve, name="uringloop view", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # no more threads, or an interpreter that allows none of this kind
            self._drop_descriptors()
            self._path.unlink()
            raise
        self._loops.follow()
        _open_views.add(self)

    @property
    def path(self) -> Path:
        """Where its socket is."""
        return self._path

    @property
    def is_closed(self) -> bool:
        """Whether it has ended: by close(), or because this is a fork child."""
        return self._is_closed

    def close(self) -> None:
        """Serve no more, and remove the socket.  Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        _open_views.discard(self)
        self._loops.leave()
        os.write(self._wake_writes, b"x")
        if self._thread is not threading.current_thread():
            self._thread.join()
        self._drop_descriptors()
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<View {'closed' if self._is_closed else 'at'} {self._path}>"

    def _drop_descriptors(self) -> None:
        self._listener.close()
        os.close(self._wake_reads)
        os.close(self._wake_writes)
        for peer in self._peers.values():
            peer.close()
        self._peers.clear()

    def _leave_parent(self) -> None:
        """In a fork child: its copies of the descriptors are closed, and the parent's socket stays."""
        self._is_closed = True
        self._loops.forget()
        self._drop_descriptors()

    # -- the thread --------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        # signals are for the threads of the program: one that arrives here would not end a system call there
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals().difference(_FAULTS))
        poller = select.poll()
        poller.register(self._wake_reads, select.POLLIN)
        poller.register(self._listener, select.POLLIN)
        while not self._is_closed:
            try:
                self._serve_ready(poller, poller.poll(self._timeout_ms()))
            except Exception:
                logging.getLogger("uringloop").exception("the live view goes on after an error")
                time.sleep(0.1)  # it may last

    def _timeout_ms(self) -> int | None:
        if not self._peers:
            return None
        first = min(peer.ends_at for peer in self._peers.values())
        return max(0, int((first - time.monotonic()) * 1000) + 1)

    def _serve_ready(self, poller: select.poll, ready: list[tuple[int, int]]) -> None:
        for fd, _ in ready:
            if self._is_closed:
                return
            if fd == self._listener.fileno():
                self._accept(poller)
            elif fd in self._peers:
                self._go_on(poller, fd)
        now = time.monotonic()
        for fd in [fd for fd, peer in self._peers.items() if peer.ends_at <= now]:
            self._end(poller, fd)

    def _go_on(self, poller: select.poll, fd: int) -> None:
        peer = self._peers[fd]
        goes_on = False
        try:
            goes_on = peer.go_on(self._answer)
        finally:  # also where an answer fails
            if goes_on:
                poller.modify(fd, select.POLLIN if peer.answer is None else select.POLLOUT)
            else:
                self._end(poller, fd)

    def _accept(self, poller: select.poll) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                time.sleep(0.1)  # it stays readable, and the process has no descriptors
            return
        with contextlib.ExitStack() as stack:
            stack.callback(connection.close)
            _, uid = places.peer_of(connection)
            if not places.may_talk(uid):
                logging.getLogger("uringloop").warning("the live view refused a peer of user %d", uid)
                return
            if len(self._peers) >= MOST_PEERS:
                return
            connection.setblocking(False)
            poller.register(connection, select.POLLIN)
            self._peers[connection.fileno()] = _Peer(connection)
            stack.pop_all()

    def _end(self, poller: select.poll, fd: int) -> None:
        poller.unregister(fd)
        self._peers.pop(fd).close()

    def _answer(self, request: bytes) -> bytes | None:
        """The answer; None for what is no request."""
        answers = {
            places.STATE: (self._loops.state, lambda: self._loops.state(0)),
            places.KERNEL: (self._loops.kernel,),
        }
        if request not in answers:
            return None
        for answer in answers[request]:
            text = json.dumps({"protocol": places.PROTOCOL, **answer()}).encode() + b"\n"
            if len(text) <= places.MOST_ANSWER_BYTES:
                return text
        return json.dumps({"protocol": places.PROTOCOL, "error": "the answer is too large"}).encode()


class _Peer:
    """A connection: a request line comes in, an answer goes out."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.ends_at = time.monotonic() + PEER_S
        self.request = b""
        self.answer: memoryview | None = None

    def go_on(self, answer: Callable[[bytes], bytes | None]) -> bool:
        """Read or write what is possible; returns whether there is more to do."""
        try:
            if self.answer is None:
                received = self.connection.recv(places.MOST_REQUEST_BYTES + 1 - len(self.request))
                self.request += received
                if received and b"\n" not in self.request and len(self.request) <= places.MOST_REQUEST_BYTES:
                    return True
                found = answer(self.request)
                if found is None:
                    return False
                self.answer = memoryview(found)
            self.answer = self.answer[self.connection.send(self.answer) :]
            return len(self.answer) > 0
        except BlockingIOError:
            return True
        except OSError:  # it has gone
            return False

    def close(self) -> None:
        self.connection.close()


def _listen(path: str | os.PathLike[str] | None) -> tuple[socket.socket, Path]:
    """A listening socket and its path; it gets its name when it listens already."""
    if path is None:
        folder = places.make_folder()
        places.remove_stale(folder)
        names = [folder / f"{os.getpid()}{end}.sock" for end in ("", *(f".{n}" for n in range(2, 100)))]
    else:
        chosen = Path(os.path.abspath(os.fspath(path)))
        if chosen.is_socket() and not places.is_served(chosen):
            chosen.unlink()
        folder, names = chosen.parent, [chosen]
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    made = folder / f".{os.getpid()}.{threading.get_ident():x}"
    try:
        listener.bind(str(made))
        try:
            os.chmod(made, 0o600)
            listener.listen(MOST_PEERS)
            for name in names:
                try:
                    os.link(made, name)
                except FileExistsError:
                    continue
                return listener, name
        finally:
            made.unlink()
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(names[0]))
    except BaseException:
        listener.close()
        raise


class _Loops:
    """The loops of the process, recorded."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # of what follows; never held while a loop is called
        self._numbers: weakref.WeakKeyDictionary[Loop, int] = weakref.WeakKeyDictionary()
        self._recordings: weakref.WeakKeyDictionary[Loop, Recording] = weakref.WeakKeyDictionary()
        self._asked_at: weakref.WeakKeyDictionary[Loop, float] = weakref.WeakKeyDictionary()
        self._last: weakref.WeakKeyDictionary[Loop, dict[str, Any]] = weakref.WeakKeyDictionary()
        self._n_loops = 0
        self._is_left = False
        self._kernel: list[dict[str, Any]] | None = None

    def follow(self) -> None:
        """Record all loops, and those that are made from now on."""
        for loop in _observe_loops(self.add):
            self.add(loop)

    def leave(self) -> None:
        """And no more."""
        _observe_loops_no_more(self.add)
        with self._lock:
            self._is_left = True
            recordings = list(self._recordings.items())
            self._recordings.clear()
        for loop, recording in recordings:
            _in_its_thread(loop, recording.close)

    def forget(self) -> None:
        """In a fork child; the lock may be one that a thread of the parent has."""
        self._lock = threading.RLock()
        with contextlib.suppress(ValueError):
            _observe_loops_no_more(self.add)
        self._is_left = True

    def add(self, loop: Loop) -> None:
        """Also the observer of new loops.  Thread: any."""
        with self._lock:
            if loop in self._numbers:
                return
            self._n_loops += 1
            self._numbers[loop] = self._n_loops
            self._asked_at[loop] = time.monotonic()
        _in_its_thread(loop, self._begin, loop)

    def _begin(self, loop: Loop) -> None:
        """Record it.  Thread: the loop's, or any while the loop does not run."""
        if loop.is_closed():
            return
        recording = record(loop)
        with self._lock:
            if not self._is_left:
                self._recordings[loop] = recording
                return
        recording.close()

    # -- answers -----------------------------------------------------------------------------------------------

    def state(self, most_tasks: int = describing.MOST_TASKS) -> dict[str, Any]:
        """Of all loops.  most_tasks: how many of one are described; fewer where there are many loops."""
        with self._lock:
            found = [(number, loop) for loop, number in self._numbers.items() if not loop.is_closed()]
        found.sort(key=lambda one: one[0])
        n_loops = min(len(found), MOST_LOOPS)
        most = min(most_tasks, max(describing.MOST_TASKS_OF_ALL // max(n_loops, 1), 10))
        described = [self._describe(number, loop, most) for number, loop in found[:n_loops]]
        return {"process": describing.process(), "loops": described, "n_loops": len(found)}

    def _describe(self, number: int, loop: Any, most_tasks: int) -> dict[str, Any]:
        recording, asked_at = self._recordings.get(loop), self._asked_at.get(loop)
        asked_s = None if asked_at is None else time.monotonic() - asked_at
        facts = describing.loop(loop, number, recording, asked_s, most_tasks)
        return {**facts, **self._numbers_of(loop, recording, facts["state"] != "stopped")}

    def _numbers_of(self, loop: Any, recording: Recording | None, is_running: bool) -> dict[str, Any]:
        """With a GIL the caller may just read; without one a loop has the guard of what is read while it runs."""
        nothing: dict[str, Any] = {"statistics": None, "ring": {}, "recorded": None}
        try:
            if describing.has_gil() or not is_running:
                return describing.numbers(loop, recording)
            done = threading.Event()

            def read() -> None:
                self._last[loop] = describing.numbers(loop, recording)
                done.set()

            loop.call_soon_threadsafe(read)
            done.wait(ANSWER_S)
            return self._last.get(loop, nothing)
        except RuntimeError:  # closed meanwhile
            return nothing

    def kernel(self) -> dict[str, Any]:
        """What the kernel offers io_uring, probed once; only where a loop uses it already, as filters may kill."""
        with self._lock:
            uses_it = any(not loop.is_closed() and loop.fdmon == "io_uring" for loop in self._numbers)
        if self._kernel is None and uses_it:
            from ..liburing import features  # here, because it loads cffi

            self._kernel = [
                {
                    "name": one.feature.name.replace("`", ""),
                    "since": one.feature.since,
                    "is_available": one.is_available,
                    "reason": one.reason,
                }
                for one in features.try_all()
            ]
        return {"features": self._kernel}


def _in_its_thread(loop: Any, callback: Callable[..., object], *args: Any) -> None:
    """Call it in the loop's thread if that runs, else here."""
    try:
        if loop.is_running() and loop._thread_id != threading.get_ident():
            loop.call_soon_threadsafe(callback, *args)
        else:
            callback(*args)
    except RuntimeError:  # it was closed, or began to run, meanwhile
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(callback, *args)


def serve_view(path: str | os.PathLike[str] | None = None) -> View:
    """Offer what the loops of this process do, for `python -m uringloop top`, to the same user and root.

    A daemon thread answers on a UNIX socket.  All loops of the process are recorded meanwhile (uringloop.record()).

    Parameters: path: of the socket; None for PID.sock in $XDG_RUNTIME_DIR/uringloop or /tmp/uringloop-UID.

    Returns: a View, whose close() ends it.

    Raises: PermissionError if other users may enter that folder; OSError if the socket cannot be made.
    """
    return View(path)


def offer_as_environment_says() -> None:
    """$URINGLOOP_TOP: 1 or a path; called for each new loop, and a program must not fail for want of a view."""
    wanted = os.environ.get("URINGLOOP_TOP", "")
    if wanted in ("", "0") or any(not view.is_closed for view in _offered):
        return
    if not _offering.acquire(blocking=False):
        return  # another thread offers it now, and finds this loop
    try:
        _offered[:] = [View(None if wanted == "1" else wanted)]
    except RuntimeError as error:  # as in sub-interpreters that allow no such threads
        logging.getLogger("uringloop").info("there is no live view (URINGLOOP_TOP): %s", error)
    except OSError as error:
        logging.getLogger("uringloop").warning("there is no live view (URINGLOOP_TOP): %s", error)
    finally:
        _offering.release()


def _close_views() -> None:
    for view in list(_open_views):
        view.close()


def _leave_views() -> None:
    global _offering
    _offering = threading.Lock()  # a thread of the parent may have had it
    for view in list(_open_views):
        view._leave_parent()
    _open_views.clear()


atexit.register(_close_views)
os.register_at_fork(after_in_child=_leave_views)

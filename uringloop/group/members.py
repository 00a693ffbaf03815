"""The group's view of its members: their threads, their interpreters, and the calls that are on their way."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import logging
import socket
import sys
import threading
import warnings
import weakref
from typing import TYPE_CHECKING, Any

from ..exceptions import MemberEnded
from . import interpreters
from .link import PickleLink
from .member import Settings, run_in_interpreter, run_in_thread

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("uringloop")

STARTING, SERVING, DRAINING, ENDED = "starting", "serving", "draining", "ended"


class MemberThread:
    """One life of a member: from its start to the end of its thread.

    Parameters:
        settings: for the member.
        service_ended: called with (number of the service, exception or None).

    Thread: the group's loop.
    """

    def __init__(
        self, settings: Settings, service_ended: Callable[[int, BaseException | None], None]
    ) -> None:
        self.settings = settings
        self.state = STARTING
        self.loop = asyncio.get_running_loop()
        self.calls: dict[int, asyncio.Future[Any]] = {}
        self.ended: asyncio.Future[BaseException | None] = (
            self.loop.create_future()
        )  # why; None: it was asked to
        self._service_ended = service_ended
        self._numbers = itertools.count(1)
        self._ready = self.loop.create_future()
        self._link: Any = None
        self._is_asked_to_end = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"uringloop member {settings.index}")

    async def start(self) -> None:
        """Wait until it is ready.  Raises: what it raised instead."""
        self.calls[0] = self._ready
        try:
            await self._connect()
            self._thread.start()
        except BaseException as error:  # no descriptors, or no threads, are left
            self.state = ENDED
            self._close_link(error)
            raise
        _running.add(self)
        try:
            await self._ready
        finally:
            self.calls.pop(0, None)
        self.state = SERVING

    def call(self, function: Any, *arguments: Any, **keywords: Any) -> asyncio.Future[Any]:
        """Call a coroutine function in the member, or a method of its MemberMain by name.

        Returns: a future; to cancel it cancels the call.
        Raises: what pickle raises for functions and arguments that cannot go to another interpreter.
        """
        future = self.loop.create_future()
        if self.state == ENDED or self._link is None:
            future.set_exception(MemberEnded(self.settings.index))
            return future
        number = next(self._numbers)
        payload = self._link.dumps((function, arguments, keywords))
        self.calls[number] = future
        future.add_done_callback(lambda future: self._call_is_over(number, future))
        self._link.send(("call", number, payload))
        return future

    def _call_is_over(self, number: int, future: asyncio.Future[Any]) -> None:
        self.calls.pop(number, None)
        if future.cancelled():
            self._link.send(("cancel", number))

    def end(self) -> None:
        """Make it end at once: what is still open there is aborted."""
        self._is_asked_to_end = True
        if self._link is not None:
            self._link.send(("end",))

    def abandon(self) -> None:
        """The same from any thread, when the group's loop does not run any more."""
        raise NotImplementedError

    # -- in the group's loop, for the member -----------------------------------------------------------

    async def _connect(self) -> None:
        """Make this end of the link, where that has to be there before the member."""

    def _attach(self, link: Any) -> None:
        self._link = link
        if self._is_asked_to_end:
            self.end()

    def _received(self, message: tuple[Any, ...]) -> None:
        """A message of the member."""
        kind, number, outcome = message
        error: BaseException
        if kind == "service ended":
            self._service_ended(number, None if outcome is None else self._exception(outcome))
            return
        future = self.calls.get(number)
        if future is None or future.done():
            return
        if kind == "failed":
            error = self._exception(outcome)
            if isinstance(error, StopIteration):  # a future refuses it
                error = RuntimeError(f"a call of a LoopGroup raised {error!r}")
            future.set_exception(error)
        elif kind == "cancelled":
            future.cancel()
        else:
            try:
                future.set_result(None if number == 0 else self._link.loads(outcome))
            except (Exception, SystemExit) as failure:  # of the unpickling
                future.set_exception(failure)

    def _exception(self, outcome: Any) -> BaseException:
        error: BaseException = outcome
        return error

    def _run(self) -> None:
        """The thread."""
        failure: BaseException | None = None
        try:
            self._run_member()
        except BaseException as error:
            failure = error
        try:
            self.loop.call_soon_threadsafe(self._thread_ended, failure)
        except RuntimeError:  # the group's loop is closed
            if failure is not None:
                raise failure from None

    def _run_member(self) -> None:
        """Run the member until it ends.  In its thread."""
        raise NotImplementedError

    def _thread_ended(self, failure: BaseException | None) -> None:
        self._thread.join()
        was, self.state = self.state, ENDED
        if failure is None and not self._is_asked_to_end:
            failure = MemberEnded(self.settings.index)
        elif failure is not None and was != STARTING and (self._is_asked_to_end or was == DRAINING):
            logger.error("member %d of a LoopGroup failed at its end", self.settings.index, exc_info=failure)
        reason = MemberEnded(self.settings.index)
        reason.__cause__ = failure
        for future in list(self.calls.values()):
            if not future.done():
                future.set_exception(failure if future is self._ready and failure is not None else reason)
        self.calls.clear()
        self._close_link(failure)

    def _close_link(self, failure: BaseException | None) -> None:
        """The end: of the thread, or before there was one."""
        self._failure = failure
        if self._link is not None:
            self._link.close()
        if self._link is None or self._link.is_lost:
            self._link_is_closed()  # else when it is

    def _link_is_closed(self) -> None:
        if not self.ended.done():
            self.ended.set_result(self._failure)


class ThreadMember(MemberThread):
    """A member in this interpreter."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._lock = threading.Lock()
        self._is_abandoned = False
        self._link_made: Any = None

    def _run_member(self) -> None:
        run_in_thread(self.settings, self.loop, self._received, self._attach, self._made)

    def _made(self, link: Any) -> None:
        """In the member's thread: the group's loop, which would attach the link, may not run any more."""
        with self._lock:
            self._link_made = link
            if self._is_abandoned:
                link.send(("end",))

    def abandon(self) -> None:
        with self._lock:
            self._is_abandoned = True
            if self._link_made is not None:
                self._link_made.send(("end",))


class InterpreterMember(MemberThread):
    """A member in an interpreter of its own."""

    _own_end: socket.socket
    _others_end: socket.socket | None = None
    _is_over = False  # the thread has ended
    _thread_failure: BaseException | None = None

    async def _connect(self) -> None:
        own, others = socket.socketpair()
        try:
            own.setblocking(False)
            _, link = await self.loop.create_connection(
                lambda: PickleLink(self._received, self._link_lost), sock=own
            )
        except BaseException:
            own.close()
            others.close()
            raise
        self._attach(link)
        self._own_end = own
        self._others_end = (
            others  # the member duplicates it: one that fails at its start leaves no descriptor behind
        )
        self.settings = dataclasses.replace(self.settings, link_fd=others.fileno())

    def _thread_ended(self, failure: BaseException | None) -> None:
        """Only after the last message, which can be the reason, or the outcome of a call."""
        self._is_over, self._thread_failure = True, failure
        if self._link is None or self._link.is_lost:
            super()._thread_ended(failure)
        elif self._others_end is not None:
            with contextlib.suppress(OSError):  # the member has done so
                self._others_end.shutdown(socket.SHUT_WR)  # also where a fork child has a copy of it

    def _link_lost(self) -> None:
        if self.state == ENDED:  # else the member has closed its end, and its thread will end
            self._link_is_closed()
        elif self._is_over:
            super()._thread_ended(self._thread_failure)

    def abandon(self) -> None:
        with contextlib.suppress(OSError):  # closed: it has ended
            self._own_end.shutdown(socket.SHUT_RDWR)

    def _close_link(self, failure: BaseException | None) -> None:
        if self._others_end is not None:
            self._others_end.close()
        super()._close_link(failure)

    def _exception(self, outcome: Any) -> BaseException:
        data, text = outcome
        try:
            error: BaseException = self._link.loads(data)
        except Exception as failure:
            error = failure
        if not isinstance(error, BaseException):
            error = RuntimeError(f"what was raised was pickled as {type(error).__qualname__}")
        with contextlib.suppress(Exception):  # one that takes no notes, a frozen dataclass for example
            error.add_note(f'in member {self.settings.index} of the LoopGroup:\n\n"""\n{text}"""')
            if isinstance(error, ImportError) and "subinterpreters" in str(error):
                error.add_note("use kind='thread', or processes: docs/many-loops.md")
        return error

    def _run_member(self) -> None:
        fields = dataclasses.astuple(self.settings)
        code = (
            f"import sys\nsys.path[:] = {[entry for entry in sys.path if type(entry) is str]!r}\n"
            f"from {run_in_interpreter.__module__} import run_in_interpreter as run\nrun(*{fields!r})\n"
        )
        interpreter = interpreters.create()
        try:
            failure = interpreters.run(interpreter, code)
        finally:
            interpreters.destroy(interpreter)
        if failure is not None:
            raise RuntimeError(f"an interpreter of a LoopGroup failed:\n\n{failure}")


_running: weakref.WeakSet[MemberThread] = weakref.WeakSet()


def _end_all() -> None:
    """The program ends without having stopped its groups: Python waits for their threads."""
    left = [member for member in list(_running) if member.state != ENDED]
    for member in left:
        member.abandon()
    if left:
        warnings.warn(f"a LoopGroup was not stopped: {len(left)} members", ResourceWarning, stacklevel=1)


# as concurrent.futures does: before Python joins the threads
threading._register_atexit(_end_all)  # type: ignore[attr-defined]

KINDS = {"thread": ThreadMember, "interpreter": InterpreterMember}

"""What runs in a member of a LoopGroup: in its thread, and in its interpreter if it has one of its own."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import pickle
import socket
import sys
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..policy import new_event_loop
from .balancer import Seat
from .link import DirectLink, PickleLink
from .server import CountedServer

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

# The path of a UNIX socket is the group's, not that of the first server that closes.
KEEPS_PATH: tuple[Any, ...] = (("cleanup_socket", False),) if sys.version_info >= (3, 13) else ()


@dataclass(frozen=True)
class Settings:
    """What a member needs to know at its start; numbers and strings, which any interpreter can have."""

    index: int
    address: int  # of the balancer
    generation: int  # of the seat
    fdmon: str | None
    link_fd: int = -1  # this end of the pair of sockets; -1: a DirectLink


class Member:
    """A member of a LoopGroup, for a function that LoopGroup.run() runs in it.

    Attributes:
        index: its number in the group, from 0.
        sockets: the listening sockets that this function was given; give them to servers of the running loop.

    Thread: the member's.
    """

    def __init__(self, runner: MemberMain, number: int, sockets: list[socket.socket]) -> None:
        self._runner = runner
        self._number = number
        self._is_notified = False
        self._on_drain: list[Callable[[], object]] = []
        self._drain_waiter: asyncio.Future[None] | None = None
        self._started: asyncio.Future[None] = runner.loop.create_future()
        self.index = runner.settings.index
        self.sockets = sockets

    @property
    def is_draining(self) -> bool:
        """Whether the group or this member is going to end.

        A while before the function is notified, so that connections can end by themselves: an HTTP server best answers
        with "Connection: close" from now on.
        """
        return self._runner.is_draining

    def __repr__(self) -> str:
        return f"<Member {self.index} of a LoopGroup>"

    def started(self) -> None:
        """LoopGroup.run() may return: this function is ready to serve.  Otherwise it returns at the first `await`."""
        if not self._started.done():
            self._started.set_result(None)

    def on_drain(self, callback: Callable[[], object]) -> None:
        """Call `callback` when the group or this member is going to end; the function has to return soon after that.

        A function that neither calls this nor awaits draining() is cancelled instead.
        """
        if self._is_notified:
            self._runner.loop.call_soon(callback)
        self._on_drain.append(callback)

    async def draining(self) -> None:
        """Wait until the group or this member is going to end."""
        if self._is_notified:
            return
        if self._drain_waiter is None:
            self._drain_waiter = self._runner.loop.create_future()
            self.on_drain(functools.partial(self._drain_waiter.set_result, None))
        await asyncio.shield(self._drain_waiter)

    def _drain(self) -> bool:
        """Returns: whether the function wanted to know."""
        self._is_notified = True
        for callback in self._on_drain:
            callback()
        return bool(self._on_drain)


async def serve_protocol(
    member: Member, protocol_factory: Any, make_context: Any, arguments: dict[str, Any]
) -> None:
    """The function behind LoopGroup.serve()."""
    loop = asyncio.get_running_loop()
    tls = make_context() if callable(make_context) else make_context
    servers: list[asyncio.Server] = []
    try:
        for sock in member.sockets:
            if sock.family == socket.AF_UNIX:
                arguments = {**arguments, **dict(KEEPS_PATH)}
                create: Any = loop.create_unix_server
            else:
                create = loop.create_server
            servers.append(await create(protocol_factory, sock=sock, ssl=tls, **arguments))
        member.started()
        await member.draining()
    finally:
        for server in servers:
            server.close()
    for server in servers:
        if isinstance(server, CountedServer):
            await server.wait_until_unused()


class MemberMain:
    """The main program of a member: does what the group says, until it says that the member shall end."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.is_draining = False
        self.link: Any = None
        self._tasks: dict[int, asyncio.Task[Any]] = {}  # of the group's calls
        self._services: dict[Member, asyncio.Task[Any]] = {}
        self._main_task: Any = None
        self._is_over = (
            False  # what arrives now would not be ended with the rest: the group learns that this has ended
        )

    def run(self, connect: Callable[[MemberMain], Coroutine[Any, Any, Any]]) -> None:
        """Run main() on a new loop, and leave nothing open."""
        with asyncio.Runner(loop_factory=lambda: new_event_loop(self.settings.fdmon)) as runner:
            try:
                runner.run(self.main(connect))
            finally:
                self._is_over = True
                self.release()

    async def main(self, connect: Callable[[MemberMain], Coroutine[Any, Any, Any]]) -> None:
        """Parameters: connect: a coroutine function that returns this end of the link."""
        self.loop = asyncio.get_running_loop()
        self._end = self.loop.create_future()
        self._main_task = asyncio.current_task()
        self.seat = Seat(self.settings.address, self.settings.index, self.settings.generation, self.loop)
        self.loop._seat = self.seat  # type: ignore[attr-defined]
        self.link = await connect(self)
        self.seat.begin()
        self.link.send(("ready", 0, None))
        await self._end

    def release(self) -> None:
        """Close what is left, after main() has returned or raised; whatever callbacks raise meanwhile."""
        if self.link is None:
            return
        self.seat.end()
        for _ in range(100):  # connections that were accepted get their transports in a few turns
            with contextlib.suppress(SystemExit, KeyboardInterrupt):
                self.loop.run_until_complete(asyncio.sleep(0))
            if not self._abort_connections():
                break
        self.link.close()
        with contextlib.suppress(SystemExit, KeyboardInterrupt):
            self.loop.run_until_complete(asyncio.sleep(0))

    def _abort_connections(self) -> bool:
        """Returns: whether there were any."""
        transports = self.loop._transports  # type: ignore[attr-defined]
        found = [one for one in [transports[fd] for fd in list(transports)] if one is not self.link.transport]
        for transport in found:
            transport.abort()
        return bool(found)

    def received(self, message: tuple[Any, ...]) -> None:
        """A message of the group."""
        kind, *rest = message
        if kind == "call" and not self._is_over:
            number, payload = rest
            task = self.loop.create_task(self._call(number, payload))
            self._tasks[number] = task
            task.add_done_callback(lambda task: self._call_ended(number, task))
        elif kind == "cancel":
            task_to_cancel = self._tasks.get(rest[0])
            if task_to_cancel is not None:
                task_to_cancel.cancel()
        elif kind == "end":
            self.end()

    def end(self) -> None:
        """End at once: the group says so, or is gone."""
        if not self._end.done():
            self._end.set_result(None)

    def _call_ended(self, number: int, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(number, None)
        if not task.cancelled():
            task.exception()  # SystemExit, with which this member ends: the group reports that

    async def _call(self, number: int, payload: Any) -> None:
        """Run a call of the group, and send its outcome."""
        try:
            function, arguments, keywords = self.link.loads(payload)
            if isinstance(function, str):
                function = getattr(self, function)
            outcome = ("done", number, self.link.dumps(await function(*arguments, **keywords)))
        except asyncio.CancelledError:
            if self._main_task.done() or self._main_task.cancelling():
                raise  # all tasks are: this member is going to end, which the group learns
            outcome = ("cancelled", number, None)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            outcome = ("failed", number, self._portable(error))
        self.link.send(outcome)

    def _portable(self, error: BaseException) -> Any:
        """The exception for the other end."""
        return error if isinstance(self.link, DirectLink) else portable(error)

    # -- what the group calls --------------------------------------------------------------------------

    async def start_service(
        self, number: int, function: Any, arguments: tuple[Any, ...], listeners: list[tuple[int, int]]
    ) -> None:
        """Parameters: listeners: (number at the balancer, fd of the group's socket), which stays open meanwhile."""
        sockets = []
        for listener, fd in listeners:
            sock = socket.socket(fileno=os.dup(fd))
            sock.setblocking(False)
            self.seat.know(sock, listener)
            sockets.append(sock)
        member = Member(self, number, sockets)
        task = self.loop.create_task(function(member, *arguments), name=f"service {number} of a LoopGroup")
        self._services[member] = task
        if self.is_draining:
            member._is_notified = True
        task.add_done_callback(lambda task: self._service_ended(number, member, task))
        if function is not serve_protocol:
            self.loop.call_soon(self.loop.call_soon, member.started)
        await member._started

    def _service_ended(self, number: int, member: Member, task: asyncio.Task[Any]) -> None:
        del self._services[member]
        error = RuntimeError("it was cancelled") if task.cancelled() else task.exception()
        for sock in member.sockets:
            sock.close()
        if error is not None and not member._started.done():
            member._started.set_exception(error)
        else:
            member.started()
            # cancelled by the end of the member, or by itself
            failure = None if error is None or task.cancelled() else self._portable(error)
            self.link.send(("service ended", number, failure))

    async def end_service(self, number: int) -> None:
        """End it, if it has begun: the group could not start it everywhere."""
        for member, task in list(self._services.items()):
            if member._number == number:
                if not member._drain():
                    task.cancel()
                await asyncio.wait([task])

    async def drain(self, linger_s: float) -> None:
        """Take no more connections, and wait until the services and the calls of the group have ended.

        Parameters: linger_s: how long to wait for connections to end by themselves before services are notified.  A
            server that closes them may close one on which a request is on its way.
        """
        self.is_draining = True
        self.seat.end()
        await self._linger(linger_s)
        for member, task in list(self._services.items()):
            if not member._drain():
                task.cancel()
        this = asyncio.current_task()
        while waiting := {*self._services.values(), *self._tasks.values()} - {this}:
            await asyncio.wait(waiting)

    async def _linger(self, linger_s: float) -> None:
        ended = asyncio.Event()
        self.seat.on_ended = ended.set
        try:
            async with asyncio.timeout(linger_s):
                while self.seat.n_open():
                    ended.clear()
                    await ended.wait()
        except TimeoutError:
            pass  # those are idle, or take long
        finally:
            self.seat.on_ended = None

    async def statistics(self) -> dict[str, Any]:
        """Of the loop; and what is in the way of others."""
        return dict(self.loop.statistics())  # type: ignore[attr-defined]


def run_in_thread(
    settings: Settings, loop: asyncio.AbstractEventLoop, to_group: Any, attach: Any, made: Any
) -> None:
    """The main function of a member's thread.

    Parameters:
        loop: the group's.
        to_group: called there with each message.
        attach: called there with the link to this member, before its first message.
        made: called here with the link.
    """
    main = MemberMain(settings)

    async def connect(main: MemberMain) -> DirectLink:
        link = DirectLink(main.loop, main.received)
        loop.call_soon_threadsafe(attach, link)
        made(link)
        return DirectLink(loop, to_group)

    main.run(connect)


def portable(error: BaseException) -> tuple[bytes, str]:
    """An exception for another interpreter: pickled, as RuntimeError where it cannot be, and the traceback as text."""
    text = "".join(traceback.format_exception(error))
    try:
        data = pickle.dumps(error)
        pickle.loads(data)
    except Exception:
        try:
            said = f"{type(error).__qualname__}: {error}"
        except Exception:
            said = type(error).__qualname__
        data = pickle.dumps(RuntimeError(said))
    return data, text


def run_in_interpreter(*fields: Any) -> None:
    """The main function of a member's interpreter.  Parameters: those of Settings."""
    settings = Settings(*fields)
    main = MemberMain(settings)

    async def connect(main: MemberMain) -> PickleLink:
        sock = socket.socket(fileno=os.dup(settings.link_fd))
        sock.setblocking(False)
        _, link = await main.loop.create_connection(lambda: PickleLink(main.received, main.end), sock=sock)
        return link

    try:
        main.run(connect)
    except Exception as error:
        if main.link is None:  # no loop, or none that could use the link: the group has to learn why
            with socket.socket(fileno=os.dup(settings.link_fd)) as sock:
                sock.sendall(PickleLink.frame(("failed", 0, portable(error))))
        raise

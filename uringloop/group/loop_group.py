"""LoopGroup: event loops in threads or sub-interpreters of one process, which share listening sockets evenly.

How it works:
 1. The group belongs to the loop that starts it, which may be any asyncio loop.  Each member is a thread with a
    uringloop loop (members.py, member.py), and in an interpreter of its own if that is the kind.
 2. Connections are accepted by a thread of C and given to the member with the fewest (balancer.h).
 3. What the group runs in each member it keeps on a list: a member that is started again runs it again.

Thread: the group's loop.
"""

from __future__ import annotations

import asyncio
import logging
import math
import operator
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

from ..exceptions import MemberEnded
from . import interpreters
from .balancer import Balancer
from .member import KEEPS_PATH, Settings, serve_protocol
from .members import DRAINING, ENDED, KINDS, SERVING, MemberThread
from .statistics import GroupStatistics, MemberStatistics

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
    from types import TracebackType


logger = logging.getLogger("uringloop")

FIRST_PAUSE_S = 0.1  # before a member that ended is started again; doubled each time
LAST_PAUSE_S = 5.0
GRACE_S = 5.0  # for a member to end, from the message on
LONG_LIFE_S = 10.0  # after a life of this length the pause is the first again


class _Service:
    """Something that runs in each member."""

    def __init__(self, number: int, function: Any, arguments: tuple[Any, ...]) -> None:
        self.number = number
        self.function = function
        self.arguments = arguments
        self.listeners: list[tuple[int, socket.socket]] = []


class _Place:
    """A member's place: who is there now, and what came before."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.life: MemberThread | None = None
        self.generation = 0
        self.n_restarts = 0
        self.is_blocked = False  # one that was here before did not end
        self.started_at = 0.0
        self.pause_s = FIRST_PAUSE_S
        self.keeper: asyncio.Task[None] | None = None
        # Held from the beginning of an end, or of a start, to the end of what follows it.
        self.lock = asyncio.Lock()

    @property
    def state(self) -> str:
        return ENDED if self.life is None else self.life.state


class LoopGroup:
    """Loops on all CPUs of one process, with shared listening sockets.

    Parameters:
        members: how many; None: one for each CPU that this process may use.
        kind: "interpreter": each in a sub-interpreter with a GIL of its own (from Python 3.12 on): they run at the same
            time and share no objects, so functions, arguments and results are pickled.  "thread": each in a thread of
            this interpreter, under its GIL if it has one.  None: "interpreter" from Python 3.13 on, "thread" before
            and without a GIL.
        fdmon: the monitor of the members' loops, see new_event_loop().
        drain_timeout_s: how long stop(), restart() and `async with` wait for what is still open.
        linger_s: how long of that connections may end by themselves, before what runs in a member is notified.
        restart: whether a member that fails is started again.

    Use it with `async with`, or call start() and stop().
    Raises: ValueError.
    """

    def __init__(
        self,
        members: int | None = None,
        *,
        kind: str | None = None,
        fdmon: str | None = None,
        drain_timeout_s: float = 30.0,
        linger_s: float = 0.5,
        restart: bool = True,
    ) -> None:
        if members is None:
            members = len(os.sched_getaffinity(0))
        if not 1 <= operator.index(members) <= 1024:
            raise ValueError(f"a LoopGroup has 1 to 1024 members, not {members}")
        for name, seconds in (("drain_timeout_s", drain_timeout_s), ("linger_s", linger_s)):
            if not isinstance(seconds, (int, float)) or not seconds >= 0:
                raise ValueError(f"{name} must be a number of seconds, not {seconds!r}")
        if kind is None:
            kind = "interpreter" if interpreters.are_default() else "thread"
        if kind not in KINDS:
            raise ValueError(f"kind must be 'interpreter', 'thread' or None, not {kind!r}")
        if kind == "interpreter" and not interpreters.ARE_THERE:
            raise ValueError(
                "sub-interpreters with a GIL of their own are new in Python 3.12: use kind='thread'"
            )
        self.kind = kind
        self.fdmon = fdmon
        self.drain_timeout_s = drain_timeout_s
        self.linger_s = linger_s
        self.restarts = restart
        self._places = [_Place(index) for index in range(members)]
        self._services: dict[int, _Service] = {}
        self._n_services = 0
        self._sockets: list[socket.socket] = []
        self._paths: list[tuple[str, int]] = []  # of UNIX sockets, with their inodes
        self._tasks: set[asyncio.Task[None]] = set()  # restarts, which go on when their caller is cancelled
        self._stop_at = math.inf  # in the loop's time: what is open then is aborted
        self._hurried = asyncio.Event()  # _stop_at has changed
        self._balancer: Balancer | None = None
        self._is_ending = False
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None  # that has started it
        self._thread = 0
        self._failed: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        states = ", ".join(place.state for place in self._places)
        return f"<LoopGroup of {len(self._places)} {self.kind}s: {states}>"

    def __len__(self) -> int:
        return len(self._places)

    # -- life ------------------------------------------------------------------------------------------

    async def __aenter__(self) -> LoopGroup:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start all members.

        Raises: what the first member that failed has raised, MonitorUnavailable for example; none is left then.
        """
        if self._balancer is not None:
            raise RuntimeError("this LoopGroup was started before; make another one")
        if self._is_ending:
            raise RuntimeError("this LoopGroup was stopped; make another one")
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._balancer = Balancer(len(self._places))
        self._failed = asyncio.get_running_loop().create_future()
        self._failed.add_done_callback(lambda failed: failed.cancelled() or failed.exception())
        try:
            self._balancer.start()
            await _all(self._start_member(place) for place in self._places)
        except BaseException:
            await self.stop(0)
            raise

    async def stop(self, timeout_s: float | None = None) -> None:
        """Accept nothing more, wait for what is open, at most `timeout_s` seconds, and end all members.

        Parameters: timeout_s: None: the group's drain_timeout_s.  What is open then is aborted, also for another call
            of stop() that waits longer.

        In a fork child it does nothing: the members are the parent's.
        """
        if self._pid != os.getpid():
            return
        self._check_loop()
        loop = asyncio.get_running_loop()
        self._is_ending = True
        timeout_s = self.drain_timeout_s if timeout_s is None else timeout_s
        self._stop_at = min(self._stop_at, loop.time() + timeout_s)
        self._hurried.set()
        self._hurried = asyncio.Event()
        keepers = [place.keeper for place in self._places if place.keeper is not None]
        for keeper in keepers:
            keeper.cancel()
        try:
            await asyncio.gather(*keepers, return_exceptions=True)
            await asyncio.gather(*[self._end_for_good(place) for place in self._places])
        finally:
            self._release()

    def _release(self) -> None:
        """The end of stop(), also where that is cancelled."""
        for task in self._tasks:
            task.cancel()
        for place in self._places:
            if place.life is not None:
                place.life.end()
        if self._balancer is not None:
            self._balancer.stop()
            if not any(place.is_blocked or place.life is not None for place in self._places):
                self._balancer.close()
        for sock in [
            *self._sockets,
            *(one for service in self._services.values() for _, one in service.listeners),
        ]:
            sock.close()
        self._sockets.clear()
        for path, inode in self._paths:
            _unlink(path, inode)
        self._paths.clear()
        if self._failed is not None and not self._failed.done():
            self._failed.set_result(None)

    async def restart(self, index: int, timeout_s: float | None = None) -> None:
        """Replace a member by a new one; the others serve meanwhile.

        Connections that come meanwhile go to the others; those of the member have `timeout_s` to end.  A call that is
        cancelled is finished nevertheless.
        """
        place = self._place(index)
        self._check_running()
        timeout_s = self.drain_timeout_s if timeout_s is None else timeout_s
        task = asyncio.get_running_loop().create_task(self._restart(place, timeout_s))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.shield(task)

    async def _restart(self, place: _Place, timeout_s: float) -> None:
        async with place.lock:
            await self._end_member(place, asyncio.get_running_loop().time() + timeout_s)
            try:
                await self._begin_member(place)
            except BaseException:
                if not self._is_ending:
                    place.keeper = asyncio.get_running_loop().create_task(self._start_again(place))
                raise
            place.n_restarts += 1

    async def wait(self) -> None:
        """Wait until stop() is called.

        Raises: what a function of run() raised, if it failed in a member that is not started again.
        """
        if self._failed is None:
            raise RuntimeError("this LoopGroup was not started")
        self._check_process()
        self._check_loop()
        await asyncio.shield(self._failed)

    def _check_running(self) -> None:
        self._check_process()
        if self._is_ending:
            raise RuntimeError("this LoopGroup was stopped")
        if self._balancer is None:
            raise RuntimeError("this LoopGroup was not started: use `async with`, or await start()")
        self._check_loop()

    def _check_process(self) -> None:
        if self._pid != os.getpid():
            raise RuntimeError("this LoopGroup is the parent process's; make another one")

    def _check_loop(self) -> None:
        """Futures and locks of the group are its loop's."""
        if self._loop is None:
            return  # not started
        running = asyncio._get_running_loop()
        if running is not self._loop and (running is not None or threading.get_ident() != self._thread):
            raise RuntimeError(
                f"this LoopGroup belongs to the loop that started it, {self._loop!r}: in another thread use "
                "asyncio.run_coroutine_threadsafe()"
            )

    def _place(self, index: int) -> _Place:
        if not 0 <= index < len(self._places):
            raise IndexError(f"this LoopGroup has members 0 to {len(self._places) - 1}, not {index}")
        return self._places[index]

    async def _start_member(self, place: _Place) -> None:
        async with place.lock:
            await self._begin_member(place)

    async def _begin_member(self, place: _Place) -> None:
        """Start a member, unless there is one.  With the lock."""
        assert self._balancer is not None
        if self._is_ending or place.life is not None:
            return
        settings = Settings(place.index, self._balancer.address, place.generation, self.fdmon)
        life: MemberThread = KINDS[self.kind](
            settings, lambda number, error: self._service_ended(place, life, number, error)
        )
        place.life = life
        place.started_at = time.monotonic()
        try:
            await life.start()
            await _all(self._start_service(life, service) for service in list(self._services.values()))
        except BaseException:
            await self._await_end(place, life)
            raise
        place.keeper = asyncio.get_running_loop().create_task(self._keep(place, life))

    async def _start_service(self, life: MemberThread, service: _Service) -> None:
        listeners = [(number, sock.fileno()) for number, sock in service.listeners]
        await life.call("start_service", service.number, service.function, service.arguments, listeners)

    async def _await_end(self, place: _Place, life: MemberThread) -> None:
        """End a member at once; one that is blocked is left alone.  With the lock."""
        assert self._balancer is not None
        life.end()
        try:
            await asyncio.wait([life.ended], timeout=GRACE_S)  # which a cancellation does not cancel
        finally:
            if not life.ended.done():  # a thread cannot be ended from outside
                place.is_blocked = True
                logger.error(
                    "member %d of a LoopGroup is blocked and does not end; it is left alone", place.index
                )
            place.life = None
            place.generation = self._balancer.vacate(place.index)

    async def _end_member(self, place: _Place, until: float) -> None:
        """Let a member drain, and end it.  With the lock.  Parameters: until: in the loop's time, at the latest."""
        life = place.life
        keeper, place.keeper = place.keeper, None
        if keeper is not None:
            keeper.cancel()
        if life is None:
            return
        try:
            if life.state == SERVING:
                life.state = DRAINING
                await self._wait_for(life.call("drain", self.linger_s), until)
        finally:
            await self._await_end(place, life)

    async def _end_for_good(self, place: _Place) -> None:
        """End a member for stop(), also one whose start is blocked."""
        if not place.lock.locked():
            await place.lock.acquire()
        elif not await self._wait_for(asyncio.ensure_future(place.lock.acquire()), math.inf):
            if place.life is not None:
                place.life.end()
            place.is_blocked = True
            logger.error("member %d of a LoopGroup is blocked while it starts; it is left alone", place.index)
            return
        try:
            await self._end_member(place, math.inf)
        finally:
            place.lock.release()

    async def _wait_for(self, future: asyncio.Future[Any], until: float) -> bool:
        """Wait for a future, but not beyond `until` nor beyond the end of stop().  Returns: whether it is done."""
        loop = asyncio.get_running_loop()
        try:
            while not future.done() and (left_s := min(until, self._stop_at) - loop.time()) > 0:
                hurried = loop.create_task(self._hurried.wait())
                try:
                    await asyncio.wait(
                        [future, hurried],
                        timeout=None if left_s == math.inf else left_s,
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                finally:
                    hurried.cancel()
        finally:
            if not future.done():
                future.cancel()
        if future.done() and not future.cancelled():
            error = future.exception()
            if error is not None and not isinstance(error, MemberEnded):
                logger.error("a member of a LoopGroup failed while it drained", exc_info=error)
            return True
        return False

    async def _keep(self, place: _Place, life: MemberThread) -> None:
        """Start the member again when it ends by itself."""
        assert self._balancer is not None
        failure = await asyncio.shield(life.ended)
        place.life = None
        place.generation = self._balancer.vacate(place.index)
        logger.error("member %d of a LoopGroup has ended", place.index, exc_info=failure)
        if self.restarts:
            await self._start_again(place)
        else:
            place.keeper = None
            self._fail(failure)

    async def _start_again(self, place: _Place) -> None:
        """Start a member until that succeeds, with pauses."""
        this = asyncio.current_task()
        while not self._is_ending:
            if time.monotonic() - place.started_at > LONG_LIFE_S:
                place.pause_s = FIRST_PAUSE_S
            await asyncio.sleep(place.pause_s)
            place.pause_s = min(2 * place.pause_s, LAST_PAUSE_S)
            async with place.lock:
                if place.keeper is not this:
                    return  # restart() has started one meanwhile
                try:
                    await self._begin_member(place)
                except (SystemExit, KeyboardInterrupt, asyncio.CancelledError):
                    raise
                except BaseException:
                    logger.exception("member %d of a LoopGroup could not be started again", place.index)
                    continue
                place.n_restarts += 1
                return

    def _service_ended(
        self, place: _Place, life: MemberThread, number: int, error: BaseException | None
    ) -> None:
        """A function of run() has ended in a member."""
        if error is None or number not in self._services:
            return
        function = self._services[number].function
        logger.error("%r has failed in member %d of a LoopGroup", function, place.index, exc_info=error)
        if life.state != SERVING:
            return
        if self.restarts:
            life.end()  # and _keep() starts it again
        else:
            self._fail(error)

    def _fail(self, error: BaseException | None) -> None:
        if self._failed is not None and not self._failed.done():
            self._failed.set_exception(error or RuntimeError("a member of the LoopGroup has ended"))

    # -- work ------------------------------------------------------------------------------------------

    def submit(
        self,
        function: Callable[..., Coroutine[Any, Any, Any]],
        *args: Any,
        member: int | None = None,
        **kwargs: Any,
    ) -> asyncio.Future[Any]:
        """Call a coroutine function in a member.

        Parameters:
            function: with kind="interpreter" it is pickled, and so are arguments and result: the function has to be at
                the top level of a module that the member can import, which `__main__` is not.
            member: None: the one with the fewest calls on their way; then with the fewest connections.

        Returns: a future of the result; to cancel it cancels the call.
        Raises: MemberEnded by the future.
        """
        self._check_running()
        self._check_function(function)
        place = self._least_busy() if member is None else self._place(member)
        if place is None or place.life is None:
            future = asyncio.get_running_loop().create_future()
            future.set_exception(MemberEnded(-1 if place is None else place.index))
            return future
        return place.life.call(function, *args, **kwargs)

    def _check_function(self, function: Any) -> None:
        if not callable(function):
            raise TypeError(f"a function was expected, got {function!r}; give its arguments separately")
        if self.kind == "interpreter" and getattr(function, "__module__", None) == "__main__":
            raise ValueError(
                f"{function!r} is in __main__, which another interpreter cannot import: move it to a module, "
                "or use kind='thread'"
            )

    def _least_busy(self) -> _Place | None:
        assert self._balancer is not None
        serving = [place for place in self._places if place.life is not None and place.state == SERVING]

        def load(place: _Place) -> tuple[int, int]:
            assert self._balancer is not None
            assert place.life is not None
            return len(place.life.calls), self._balancer.member_numbers(place.index)[0]

        return min(serving, key=load, default=None)

    async def serve(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str | Sequence[str] | None = None,
        port: int | None = None,
        *,
        path: str | bytes | os.PathLike[str] | None = None,
        sock: socket.socket | None = None,
        backlog: int = 1024,
        ssl: ssl.SSLContext | Callable[[], ssl.SSLContext] | None = None,
        **arguments: Any,
    ) -> list[socket.socket]:
        """Serve a protocol in all members, which share the connections evenly.

        Parameters:
            protocol_factory: with kind="interpreter" it is pickled, see submit().
            host, port, path, sock, backlog: where, as for run().
            ssl: a context, or a function that makes one in each member: contexts cannot be pickled.
            arguments: others of loop.create_server(): ssl_handshake_timeout, ssl_shutdown_timeout.

        Returns: the listening sockets; they are the group's.
        """
        for name in arguments:
            if name not in ("ssl_handshake_timeout", "ssl_shutdown_timeout"):
                raise TypeError(f"LoopGroup.serve() got an unexpected keyword argument {name!r}")
        self._check_function(protocol_factory)
        if host is None and port is None and path is None and sock is None:
            raise ValueError("Neither host/port, path nor sock were specified")
        return await self.run(
            serve_protocol,
            protocol_factory,
            ssl,
            {"backlog": backlog, **arguments},
            host=host,
            port=port,
            path=path,
            sock=sock,
            backlog=backlog,
        )

    async def run(
        self,
        function: Callable[..., Coroutine[Any, Any, Any]],
        *args: Any,
        host: str | Sequence[str] | None = None,
        port: int | None = None,
        path: str | bytes | os.PathLike[str] | None = None,
        sock: socket.socket | None = None,
        backlog: int = 1024,
    ) -> list[socket.socket]:
        """Run a coroutine function in each member until the group ends; also in those that are started again.

        Parameters:
            function: called with a Member, whose `sockets` listen where the other parameters say, and with `args`; with
                kind="interpreter" it is pickled, see submit().
            host, port: as for loop.create_server(); port 0: any.
            path: of a UNIX socket.
            sock: a bound socket, which the group takes over.

        Returns: the listening sockets, which are the group's, when all members have called Member.started() or have
            come to their first `await`.
        Raises: what the first member that failed has raised.
        """
        self._check_running()
        assert self._balancer is not None
        self._check_function(function)
        path = None if path is None else os.fsdecode(path)
        service = _Service(self._n_services, function, args)
        self._n_services += 1
        made = await _listen(host, port, path, sock, backlog)
        lives: list[MemberThread] = []
        try:
            self._check_running()
            if path is not None and not path.startswith("\0"):
                self._paths.append((path, os.stat(path).st_ino))
            for one in made:
                copy = one.dup()  # stays, whatever the caller does with the socket
                service.listeners.append((self._balancer.listen(copy.fileno()), copy))
            self._services[service.number] = service
            self._sockets += made
            lives += [
                place.life for place in self._places if place.life is not None and place.state == SERVING
            ]
            await _all(self._start_service(life, service) for life in lives)
            self._check_running()
        except BaseException:
            self._services.pop(service.number, None)
            ends = [life.call("end_service", service.number) for life in lives]
            await asyncio.wait([*ends, asyncio.ensure_future(asyncio.sleep(0))], timeout=GRACE_S)
            for end in ends:
                end.cancel()
            for number, copy in service.listeners:
                self._balancer.unlisten(number)
                copy.close()
            for one in made:
                if one in self._sockets:
                    self._sockets.remove(one)
                one.close()
            raise
        return made

    async def statistics(self) -> GroupStatistics:
        """What each member and the balancer have counted."""
        self._check_running()
        assert self._balancer is not None
        members = []
        for place in self._places:
            life = place.life
            calls = 0 if life is None else len(life.calls)
            loop: dict[str, Any] = {}
            if life is not None and life.state in (SERVING, DRAINING):
                try:
                    loop = await asyncio.wait_for(life.call("statistics"), 1.0)
                except (TimeoutError, MemberEnded):
                    pass  # it is blocked, or has ended: what the balancer knows is known
            given = self._balancer.member_numbers(place.index)
            members.append(MemberStatistics(place.index, place.state, place.n_restarts, calls, loop, *given))
        return GroupStatistics(tuple(members), *self._balancer.numbers())


def _unlink(path: str, inode: int) -> None:
    """Remove the path of a socket, unless it is another one's by now."""
    try:
        if os.stat(path).st_ino == inode:
            os.unlink(path)
    except FileNotFoundError:
        pass


async def _all(coroutines: Iterable[Awaitable[object]]) -> None:
    """Await all, and raise what the first that failed has raised, when none is left."""
    for outcome in await asyncio.gather(*coroutines, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


async def _listen(
    host: str | Sequence[str] | None,
    port: int | None,
    path: str | None,
    sock: socket.socket | None,
    backlog: int,
) -> list[socket.socket]:
    """Listening sockets, made as asyncio makes them: by a server that never serves."""
    loop = asyncio.get_running_loop()
    if sock is not None:
        if host is not None or port is not None or path is not None:
            raise ValueError("host, port and path cannot be given together with sock")
        sock.setblocking(False)
        sock.listen(backlog)
        return [sock]
    if path is not None:
        if host is not None or port is not None:
            raise ValueError("host and port cannot be given together with path")
        keeps_path: dict[str, Any] = dict(KEEPS_PATH)
        server = await loop.create_unix_server(
            asyncio.Protocol, path, backlog=backlog, start_serving=False, **keeps_path
        )
    elif host is None and port is None:
        return []
    else:
        server = await loop.create_server(
            asyncio.Protocol, host, port or 0, backlog=backlog, start_serving=False
        )
    made = [socket.socket(fileno=os.dup(one.fileno())) for one in server.sockets]
    server.close()
    for one in made:
        one.setblocking(False)
        one.listen(backlog)
    return made

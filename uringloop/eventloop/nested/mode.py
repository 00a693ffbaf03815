"""Running a loop inside its own callbacks: run_nested(), nested mode, and allow_nested() for asyncio.run().

Only allow_nested() replaces parts of asyncio, as documented there.  The run itself is in levels.pyx.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import sys
import threading
from asyncio import coroutines, events, runners, tasks
from collections.abc import Callable
from typing import Any

from ..base.part import LoopPart
from .levels import run_level, watch_turns

# What allow_nested() replaced: (owner, name) -> (function, replacement); empty unless it is in effect.
_stock: dict[tuple[Any, str], tuple[Any, Any]] = {}


class NestedMixin(LoopPart):
    """The part of Loop that runs it inside itself."""

    _is_nestable = False
    _nested_level = None  # see levels.pyx
    _n_nested = 0  # nested runs and turns of AioContext.poll() on the stack

    def _setup_nested(self, nested: bool) -> None:
        self._is_nestable = bool(nested)
        watch_turns(self)

    def run_nested(self, awaitable: Any) -> Any:
        """Run this loop, inside a callback or task of it, until the awaitable is done.

        Everything else on the loop continues meanwhile, except the caller and runs below it on the stack.  Like
        `await`, it passes a cancellation of the calling task on to the awaitable.

        Parameters:
            awaitable: a coroutine, which becomes a task, a future, or an object with __await__.

        Returns: its result.
        Raises: its exception; RuntimeError when the loop does not run in this thread, or when the awaitable waits for a
        task that is below on the stack.
        Thread: the loop's.
        """
        self._check_nested()
        future = tasks.ensure_future(awaitable, loop=self)
        if future is awaitable:
            return run_level(self, future)
        return self._run_own_task(future)

    def _check_nested(self) -> None:
        self._check_closed()
        if self._thread_id is None:
            raise RuntimeError("run_nested() needs an event loop that runs; use run_until_complete()")
        if self._thread_id != threading.get_ident():
            raise RuntimeError(
                "run_nested() was called outside of the event loop's thread; use asyncio.run_coroutine_threadsafe()"
            )
        if events._get_running_loop() is not self:
            raise RuntimeError("Cannot run the event loop while another loop is running")

    def _run_own_task(self, task: Any) -> Any:
        """Run a task that was made for this run, and that no other code owns."""
        task._log_destroy_pending = False
        try:
            return run_level(self, task)
        except BaseException as error:
            if not task.done():
                if not isinstance(error, RuntimeError):
                    # Ctrl-C: the result of this run is not wanted any more.  But a task that waits for one below on the
                    # stack is left alone: it would pass the cancellation on to that one.
                    task.cancel()
            elif not task.cancelled():
                task.exception()  # as in run_until_complete: it has been seen
            raise

    # -- nested mode -----------------------------------------------------------------------------------

    @property
    def nested(self) -> bool:
        """Whether run_until_complete() and run_forever() may be called while this loop runs."""
        return self._is_nestable or bool(_stock)

    @nested.setter
    def nested(self, enabled: bool) -> None:
        self._is_nestable = bool(enabled)

    def _is_nested_call(self) -> bool:
        return self._thread_id == threading.get_ident() and self.nested

    def run_until_complete(self, future: Any) -> Any:
        """See asyncio.loop.run_until_complete; in nested mode also while the loop runs."""
        if self._is_nested_call():
            return self.run_nested(future)
        return super().run_until_complete(future)

    def _run_nested_forever(self) -> None:
        """run_forever() in nested mode: until stop(), which ends this run only."""
        self._check_nested()
        run_level(self, self.create_future(), True)

    @property
    def _nest_patched(self) -> bool:
        """nest_asyncio looks for this before it replaces a loop's methods; ours need no replacement."""
        if sys._getframe(1).f_code.co_name == "_patch_loop":
            self._is_nestable = True
        if not self._is_nestable:
            raise AttributeError("_nest_patched")
        return True


# -- asyncio.run -----------------------------------------------------------------------------------------------


def allow_nested() -> None:
    """Let asyncio.run() and asyncio.Runner.run() be called while a uringloop loop runs, on that loop.

    Also puts all loops of uringloop into nested mode.  For the whole process, until disallow_nested(); the second call
    does nothing.  Where no loop of uringloop runs, asyncio.run() works as before.
    """
    if _stock:
        return
    for owner, name, replacement in (
        (asyncio, "run", _make_run(asyncio.run)),
        (runners, "run", _make_run(runners.run)),
        (asyncio.Runner, "run", _make_runner_run(asyncio.Runner.run)),
    ):
        _stock[owner, name] = getattr(owner, name), replacement
    for (owner, name), (_, replacement) in _stock.items():
        setattr(owner, name, replacement)


def disallow_nested() -> None:
    """Undo allow_nested(); loops that were made with nested=True stay in nested mode."""
    for (owner, name), (stock, replacement) in _stock.items():
        if getattr(owner, name) is replacement:  # or other code has replaced it since, and calls ours
            setattr(owner, name, stock)
    _stock.clear()


def running_nestable_loop() -> Any:
    """The loop of uringloop that runs in this thread, if asyncio.run() is to use it; else None."""
    loop = events._get_running_loop() if _stock else None
    return loop if isinstance(loop, NestedMixin) else None


def run_main(loop: Any, main: Any, *, context: Any = None, debug: bool | None = None) -> Any:
    """What asyncio.run(main) does, on a loop that is already running and continues to run."""
    if not coroutines.iscoroutine(main):
        if sys.version_info < (3, 14):
            raise ValueError(f"a coroutine was expected, got {main!r}")
        if not inspect.isawaitable(main):
            raise TypeError("An asyncio.Future, a coroutine or an awaitable is required")
        main = _awaited(main)
    loop._check_nested()
    debug_before = loop.get_debug()
    if debug is not None:
        loop.set_debug(debug)
    try:
        return loop._run_own_task(loop.create_task(main, context=context))
    finally:
        if debug is not None:
            loop.set_debug(debug_before)


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


def _make_run(stock: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(stock)
    def run(main: Any, *, debug: bool | None = None, **kwargs: Any) -> Any:
        loop = running_nestable_loop()
        if loop is None:
            return stock(main, debug=debug, **kwargs)
        return run_main(loop, main, debug=debug)

    return run


def _make_runner_run(stock: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(stock)
    def run(self: Any, coro: Any, *, context: contextvars.Context | None = None) -> Any:
        loop = running_nestable_loop()
        if loop is None:
            self._has_run = True
            return stock(self, coro, context=context)
        if self._loop is not None and self._loop is not loop and not hasattr(self, "_has_run"):
            _leave_own_loop(self)
        # a runner whose loop has run keeps using it, and a closed one raises
        is_closed = self._state is runners._State.CLOSED  # type: ignore[attr-defined]
        if self._loop not in (None, loop) or is_closed:
            return stock(self, coro, context=context)
        if self._context is None:
            self._context = contextvars.copy_context()  # all runs of a runner share one
        # an empty context is false
        return run_main(loop, coro, context=self._context if context is None else context, debug=self._debug)

    return run


def _leave_own_loop(runner: Any) -> None:
    """A runner makes its loop when it is entered; a loop that ran nothing is dropped, so that nothing need close it."""
    own = runner._loop
    if own.is_closed() or own.is_running() or tasks.all_tasks(own):
        return
    own.close()
    runner._loop = None
    runner._state = runners._State.CREATED  # type: ignore[attr-defined]
    if runner._set_event_loop:
        events.set_event_loop(None)
        runner._set_event_loop = False

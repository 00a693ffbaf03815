"""The ways to use uringloop in an application: new_event_loop, run, and, while policies exist, a policy."""

from __future__ import annotations

import asyncio
import sys
import warnings
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from .eventloop.loop import Loop
from .eventloop.nested.mode import allow_nested, run_main, running_nestable_loop

_T = TypeVar("_T")


def new_event_loop(fdmon: str | None = None, *, nested: bool = False) -> Loop:
    """A new event loop; also for `--loop uringloop:new_event_loop` and `loop_factory=`.

    Parameters:
        fdmon: "io_uring", "epoll" or "poll" to force a monitor; "auto-any" for the best available to it.
        nested: whether run_until_complete() and run_forever() may be called while the loop runs.

    Raises: MonitorUnavailable, ValueError.
    """
    return Loop(fdmon, nested)


def get_running_loop() -> Loop:
    """The loop that runs in this thread, as asyncio.get_running_loop(); for type checkers it is a Loop.

    Raises: RuntimeError if none runs; TypeError if the one that runs is not of uringloop.
    """
    loop = asyncio._get_running_loop()
    if isinstance(loop, Loop):
        return loop
    if loop is None:
        raise RuntimeError("no running event loop")
    raise TypeError(
        f"the running event loop is {loop!r}, which is not of uringloop: start the program with uringloop.run(main()), "
        "give loop_factory=uringloop.new_event_loop to what starts it, or see docs/running.md; a program that chooses "
        "its loop itself, as uvicorn does, is not changed by URINGLOOP_AS=asyncio, but by URINGLOOP_AS=uvloop"
    )


def run(
    main: Coroutine[Any, Any, _T],
    *,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = new_event_loop,
    debug: bool | None = None,
) -> _T:
    """Run a coroutine on a new uringloop loop, as asyncio.run does; after allow_nested() on a running one.

    Raises: what the coroutine raises; RuntimeError if a loop runs in this thread and allow_nested() was not called.
    """
    running = running_nestable_loop()
    if running is not None:
        result: _T = run_main(running, main, debug=debug)
        return result
    other = asyncio._get_running_loop()
    if other is not None:
        text = "asyncio.run() cannot be called from a running event loop: await the coroutine"
        if isinstance(other, Loop):
            text += ", or call uringloop.allow_nested() before, which lets it run on that loop"
        raise RuntimeError(text)
    with asyncio.Runner(debug=debug, loop_factory=loop_factory) as runner:
        return runner.run(main)


def make_policy_class() -> type:
    """EventLoopPolicy; made on first access, since policies are deprecated in 3.14 and gone in 3.16."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from asyncio import unix_events

        base = (
            getattr(unix_events, "_DefaultEventLoopPolicy", None) or unix_events._UnixDefaultEventLoopPolicy
        )

    class EventLoopPolicy(base):  # type: ignore[misc, valid-type]
        """asyncio.DefaultEventLoopPolicy with uringloop's loops."""

        _loop_factory = staticmethod(new_event_loop)

    EventLoopPolicy.__module__ = "uringloop"
    EventLoopPolicy.__qualname__ = "EventLoopPolicy"
    return EventLoopPolicy


def install(*, nested: bool = False) -> None:
    """Make uringloop the default for the process, by setting the event-loop policy.

    From Python 3.14 on it warns of deprecation once, as asyncio.set_event_loop_policy() does.

    Parameters:
        nested: also call allow_nested().
    """
    from . import EventLoopPolicy

    if sys.version_info >= (3, 14):
        warnings.warn(
            "uringloop.install() is deprecated: event-loop policies end with Python 3.16; use uringloop.run()",
            DeprecationWarning,
            stacklevel=2,
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # asyncio's own: ours names the caller's line
        asyncio.set_event_loop_policy(EventLoopPolicy())
    if nested:
        allow_nested()

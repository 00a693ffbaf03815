"""The ways to put a loop or an AioContext into a GLib main context: new_event_loop, run, attach."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from ..aiocontext.context import AioContext
from ..eventloop.loop import Loop
from .loop import GLibLoop, _Entrance
from .native import Source

_T = TypeVar("_T")

PRIORITY_DEFAULT = 0  # GLib.PRIORITY_DEFAULT, without importing it


def new_event_loop(
    main_context: Any = None, *, fdmon: str | None = None, priority: int = PRIORITY_DEFAULT
) -> GLibLoop:
    """A new event loop that lives in a GLib main context.

    Parameters:
        main_context: a GLib.MainContext; None for the default one.
        fdmon: "io_uring", "epoll" or "poll" to force a monitor.
        priority: GLib's priority of everything that the loop does.

    Raises: ImportError, MonitorUnavailable, ValueError, TypeError; RuntimeError when another thread owns the
    main context.
    """
    return GLibLoop(main_context, fdmon, priority)


def run(
    main: Coroutine[Any, Any, _T],
    *,
    main_context: Any = None,
    fdmon: str | None = None,
    priority: int = PRIORITY_DEFAULT,
    debug: bool | None = None,
) -> _T:
    """Run a coroutine as asyncio.run does, on a loop inside a GLib main context, which iterates meanwhile."""
    if asyncio._get_running_loop() is not None:
        raise RuntimeError("asyncio.run() cannot be called from a running event loop")

    def factory() -> GLibLoop:
        return new_event_loop(main_context, fdmon=fdmon, priority=priority)

    with asyncio.Runner(debug=debug, loop_factory=factory) as runner:
        return runner.run(main)


def attach(
    aio_context: AioContext | Loop, main_context: Any = None, *, priority: int = PRIORITY_DEFAULT
) -> Source:
    """Let GLib drive an AioContext, or an ordinary loop that was made already.

    Parameters:
        aio_context: open, and attached nowhere else; or a Loop, which is the running one in its callbacks then.
        main_context: a GLib.MainContext; None for the default one.
        priority: GLib's priority.

    Returns: the source; its detach() ends this, and so does dropping it.
    Raises: RuntimeError when the context is closed or attached or has raw requests in flight, or another thread owns
    the main context; ImportError, TypeError, MonitorUnavailable.
    """
    if isinstance(aio_context, Loop):
        source = Source(aio_context.aio_context, main_context, priority, _Entrance(aio_context))
        aio_context._use_python_handlers()
        return source
    return Source(aio_context, main_context, priority, None)

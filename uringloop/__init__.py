"""uringloop: a drop-in asyncio event loop for Linux, on io_uring where available.

uringloop.run(main())
asyncio.set_event_loop_policy(uringloop.EventLoopPolicy())       # Python < 3.16
uvicorn app:app --loop uringloop:new_event_loop
"""

import os as _os
import sys as _sys
from typing import Any as _Any

try:
    from .eventloop.loop import Loop
except ModuleNotFoundError as _error:
    if not (_error.name or "").startswith("uringloop."):
        raise
    raise ImportError(
        f"the compiled module {_error.name} is missing: uringloop was imported from a source tree that was not "
        "built. Leave that folder if uringloop is installed already (the folder hides it), or run "
        "`pip install -e .` there"
    ) from _error
from ._version import __version__
from .eventloop.nested.mode import allow_nested, disallow_nested
from .exceptions import MemberEnded, MonitorUnavailable, SqeNotSupported, UringLoopError
from .policy import get_running_loop, new_event_loop, run

__all__ = [
    "Loop",
    "MemberEnded",
    "MonitorUnavailable",
    "SqeNotSupported",
    "UringLoopError",
    "__version__",
    "allow_nested",
    "disallow_nested",
    "get_running_loop",
    "new_event_loop",
    "run",
]

if _sys.version_info < (3, 16):
    __all__ += ["EventLoopPolicy", "install"]

# Their modules; the classes of objects that an AioContext or gc_policy() makes are for annotations.
_ON_FIRST_USE = {
    "AioContext": ".aiocontext.context",
    "BottomHalf": ".aio.bottom_halves",
    "EventNotifier": ".aiocontext.event_notifier",
    "GcPauses": ".gcpolicy",
    "GcPolicy": ".gcpolicy",
    "GcStatistics": ".gcpolicy",
    "LoopGroup": ".group.loop_group",
    "Member": ".group.member",
    "PollHandler": ".aio.poll_handlers",
    "Recording": ".observing.recording",
    "Snapshot": ".observing.recording",
    "Stall": ".observing.stalls",
    "StallFrame": ".observing.stalls",
    "StallWatch": ".observing.stalls",
    "Statistics": ".aiocontext.statistics",
    "Summaries": ".observing.summaries",
    "View": ".observing.view",
    "gc_policy": ".gcpolicy",
    "log_summaries": ".observing.summaries",
    "record": ".observing.recording",
    "serve_view": ".observing.view",
    "watch_stalls": ".observing.stalls",
}

if "URINGLOOP_STALLS" in _os.environ:
    from .observing.stalls import watch_as_environment_says as _watch

    _watch()

# The same, in builds with liburing.
_OF_RAW_REQUESTS = {
    "ContextRequest": ".requests.request",
    "Cqe": ".requests.request",
    "FIRST_RESERVED_GROUP": ".uring.buffers",
    "RawRequest": ".requests.awaiting",
}


def _seen_by_tools_that_freeze_programs() -> None:
    """They follow the imports in bytecode, also in functions that are never called."""
    from . import _frozen  # noqa: F401


def __getattr__(name: str) -> _Any:
    """Names that are made or loaded on first access: even naming policies warns on new Pythons."""
    if name in _OF_RAW_REQUESTS:
        import importlib

        try:
            return getattr(importlib.import_module(_OF_RAW_REQUESTS[name], __name__), name)
        except ModuleNotFoundError as error:
            raise AttributeError(f"uringloop.{name}: this build has no liburing ({error})") from None
    if name in _ON_FIRST_USE:
        import importlib

        return getattr(importlib.import_module(_ON_FIRST_USE[name], __name__), name)
    if name == "open":  # not in __all__: `import *` would hide the builtin
        from .files import open

        globals()["open"] = open
        return open
    if name in ("adopt", "files"):
        import importlib

        return importlib.import_module(f".{name}", __name__)
    if name in ("EventLoopPolicy", "install") and _sys.version_info < (3, 16):
        from . import policy

        value = policy.make_policy_class() if name == "EventLoopPolicy" else policy.install
        return globals().setdefault(name, value)  # two threads get one class
    if name in ("EventLoopPolicy", "install"):
        raise AttributeError(f"uringloop.{name}: Python 3.16 has no event-loop policies; use uringloop.run()")
    raise AttributeError(f"module 'uringloop' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Without the other folders, which imports make attributes of the package."""
    loaded = {name for name in globals() if name.startswith("_") or name in ("glib", "liburing")}
    return sorted(
        {*loaded, *__all__, *_ON_FIRST_USE, *_OF_RAW_REQUESTS, "adopt", "exceptions", "files", "open"}
    )

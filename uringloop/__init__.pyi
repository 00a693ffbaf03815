import asyncio
import sys

from . import adopt as adopt
from . import files as files
from ._version import __version__ as __version__
from .aio.bottom_halves import BottomHalf as BottomHalf
from .aio.poll_handlers import PollHandler as PollHandler
from .aiocontext.context import AioContext as AioContext
from .aiocontext.event_notifier import EventNotifier as EventNotifier
from .aiocontext.statistics import Statistics as Statistics
from .eventloop.loop import Loop as Loop
from .eventloop.nested.mode import allow_nested as allow_nested
from .eventloop.nested.mode import disallow_nested as disallow_nested
from .exceptions import MemberEnded as MemberEnded
from .exceptions import MonitorUnavailable as MonitorUnavailable
from .exceptions import SqeNotSupported as SqeNotSupported
from .exceptions import UringLoopError as UringLoopError
from .files import open as open
from .gcpolicy import GcPauses as GcPauses
from .gcpolicy import GcPolicy as GcPolicy
from .gcpolicy import GcStatistics as GcStatistics
from .gcpolicy import gc_policy as gc_policy
from .group.loop_group import LoopGroup as LoopGroup
from .group.member import Member as Member
from .observing.recording import Recording as Recording
from .observing.recording import Snapshot as Snapshot
from .observing.recording import record as record
from .observing.stalls import Stall as Stall
from .observing.stalls import StallFrame as StallFrame
from .observing.stalls import StallWatch as StallWatch
from .observing.stalls import watch_stalls as watch_stalls
from .observing.summaries import Summaries as Summaries
from .observing.summaries import log_summaries as log_summaries
from .observing.view import View as View
from .observing.view import serve_view as serve_view
from .policy import get_running_loop as get_running_loop
from .policy import new_event_loop as new_event_loop
from .policy import run as run
from .requests.awaiting import RawRequest as RawRequest
from .requests.request import ContextRequest as ContextRequest
from .requests.request import Cqe as Cqe

FIRST_RESERVED_GROUP: int

if sys.version_info >= (3, 16):
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
else:
    __all__ = [
        "EventLoopPolicy",
        "Loop",
        "MemberEnded",
        "MonitorUnavailable",
        "SqeNotSupported",
        "UringLoopError",
        "__version__",
        "allow_nested",
        "disallow_nested",
        "get_running_loop",
        "install",
        "new_event_loop",
        "run",
    ]

    from .policy import install as install

    if sys.version_info >= (3, 14):
        from asyncio.unix_events import _DefaultEventLoopPolicy as _BasePolicy
    else:
        from asyncio import DefaultEventLoopPolicy as _BasePolicy

    class EventLoopPolicy(_BasePolicy):
        def new_event_loop(self) -> asyncio.AbstractEventLoop: ...

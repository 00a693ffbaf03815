"""Loop: asyncio's event loop on an AioContext.

Order of bases: RawCore, or LoopCore in a build without liburing (compiled: callbacks, raw requests), NestedMixin
(runs inside of runs), ServeMixin (connections), TlsMixin (TLS), SocketsMixin (sock_*), ResolveMixin (getaddrinfo),
ProcessesMixin (children), StdlibHooks (borrowed from stock asyncio), asyncio.BaseEventLoop (everything else).
"""

import asyncio
import importlib
import os
import sys
import threading
import warnings
import weakref
from asyncio import base_events, events
from asyncio.log import logger

from ..fdmon.select import make_monitor
from .base.loop_core import has_settings_in_environment
from .lost_tasks import after_memory_error, is_for_want_of_memory
from .nested.mode import NestedMixin
from .processes import ProcessesMixin
from .resolve import ResolveMixin
from .serve import ServeMixin
from .sockets import SocketsMixin
from .stdlib_hooks import StdlibHooks
from .tls import TlsMixin

try:
    from .raw import RawCore as Core
except ModuleNotFoundError as _error:
    if not (_error.name or "").startswith("uringloop."):
        raise
    from .base.loop_core import LoopCore as Core  # a build without liburing

_RECORDED_EVENTS = 4096  # of a loop that URINGLOOP_RECORD records

_live_loops = {}  # weak references, which leave it by themselves
_observers = []  # called with each new loop, by the thread that makes it


class Loop(
    Core,
    NestedMixin,
    ServeMixin,
    TlsMixin,
    SocketsMixin,
    ResolveMixin,
    ProcessesMixin,
    StdlibHooks,
    asyncio.BaseEventLoop,
):
    """A drop-in asyncio event loop.

    Parameters:
        fdmon: "io_uring", "epoll" or "poll" to force a monitor; "auto-any" for the best available to this loop;
            None for $URINGLOOP_FDMON, else the best available one, for all loops of the process.
        nested: whether run_until_complete() and run_forever() may be called while the loop runs.

    Raises: MonitorUnavailable, ValueError; see fdmon/select.py.
    """

    def __init__(self, fdmon=None, nested=False):
        self._closed = True  # until the loop is complete: __del__ must not warn about half a loop
        monitor, reason = make_monitor(fdmon)
        asyncio.BaseEventLoop.__init__(self)
        self._adopt_monitor(monitor)
        self._fdmon_reason = reason
        self._acceptors = {}  # listening socket -> Acceptor
        self._sendfiles = {}  # stream transport -> future of its sendfile that waits for room
        self._watched_by = {}  # exporter -> what it keeps of this loop
        self._slow_context = None  # that of the slow callback while slow_callback_hook runs
        self._pid = os.getpid()
        has_settings = has_settings_in_environment()
        if has_settings:
            self._poll_as_environment_says()
            self._record_as_environment_says()
        self._setup_stdlib()
        self._setup_processes()
        self._setup_nested(nested)
        _live_loops[weakref.ref(self, _forget_loop)] = None
        for observer in tuple(_observers):
            observer(self)
        if has_settings:
            self._offer_as_environment_says()

    @property
    def fdmon(self):
        """The monitor's name: "io_uring", "epoll" or "poll"."""
        return self.aio_context.fdmon

    @property
    def fdmon_reason(self):
        """Why the loop uses this monitor; None when io_uring was chosen freely."""
        return self._fdmon_reason

    def __repr__(self):
        name = type(self).__name__
        if self.aio_context is None:
            return f"<{name} unmade>"
        return (
            f"<{name} fdmon={self.fdmon} running={self.is_running()} "
            f"closed={self.is_closed()} debug={self.get_debug()}>"
        )

    def statistics(self):
        """What the loop did so far, a Statistics; see docs/observing.md."""
        return self.aio_context._statistics(connections=len(self._transports))

    def _poll_as_environment_says(self):
        text = os.environ.get("URINGLOOP_POLL_MAX_NS")
        if not text:
            return
        try:
            self.aio_context.set_poll_params(int(text))
        except (ValueError, OverflowError) as error:
            self._close_aio_context()
            self._closed = True
            raise ValueError(f"URINGLOOP_POLL_MAX_NS must be nanoseconds, 0 or more, not {text!r}") from error

    def _record_as_environment_says(self):
        """Record from the start; uringloop.record() and others find what was recorded."""
        if os.environ.get("URINGLOOP_RECORD", "0") not in ("", "0"):
            self.aio_context._record(_RECORDED_EVENTS)

    def _offer_as_environment_says(self):
        """Offer the live view of the process, which shows this loop, too."""
        if "URINGLOOP_TOP" in os.environ:
            # a layer above, which few programs need
            importlib.import_module("uringloop.observing.view").offer_as_environment_says()

    def set_poll_params(self, max_ns, grow=2, shrink=0):
        """Adaptive polling: busy-poll for a while before blocking; see AioContext.set_poll_params.

        Parameters:
            max_ns: nanoseconds to poll at most (io_uring only); 0 switches it off; None, the default of loops on
                io_uring and epoll: only while that is measured to cost no more CPU time than to sleep.
            grow, shrink: factor and divisor by which that time adapts to events; 0 means 2, and "to 0".
        """
        self._check_closed()
        self.aio_context.set_poll_params(max_ns, grow, shrink)

    def add_poll_handler(self, io_poll, io_poll_ready):
        """Poll memory that has no fd; see AioContext.add_poll_handler.

        Parameters:
            io_poll: returns whether there is work to do, and has no side effect.
            io_poll_ready: called without arguments, in the loop, when io_poll returned true.

        Returns: a handle; its remove() ends it.
        """
        self._check_closed()
        return self.aio_context.add_poll_handler(io_poll, io_poll_ready)

    # -- running ---------------------------------------------------------------------------------------

    def _run_forever_setup(self):
        self._check_closed()
        self._check_running()
        self._renew_signals()
        self._old_agen_hooks = sys.get_asyncgen_hooks()
        try:
            self._set_coroutine_origin_tracking(self._debug)
            self._thread_id = threading.get_ident()
            sys.set_asyncgen_hooks(
                firstiter=self._asyncgen_firstiter_hook, finalizer=self._asyncgen_finalizer_hook
            )
            events._set_running_loop(self)
        except BaseException:  # MemoryError, a signal's handler: the loop must not count as running
            self._run_forever_cleanup()
            raise

    def _run_forever_cleanup(self):
        self._stopping = False
        self._thread_id = None
        events._set_running_loop(None)
        self._set_coroutine_origin_tracking(False)
        if self._old_agen_hooks is not None:
            sys.set_asyncgen_hooks(*self._old_agen_hooks)
            self._old_agen_hooks = None

    def call_exception_handler(self, context):
        """See asyncio.loop.call_exception_handler."""
        if is_for_want_of_memory(context.get("exception")):
            after_memory_error(self, context.get("handle"))
        super().call_exception_handler(context)

    def _after_memory_error(self):
        """For callers that raise or drop the exception: the step or the wake-up of a task may be lost."""
        after_memory_error(self)

    def close(self, _getpid=os.getpid):
        """See asyncio.loop.close."""
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        if self._closed:
            return
        if self._pid == _getpid():
            self._close_stdlib()
            self._close_processes()
        super().close()
        self._acceptors.clear()
        self._close_aio_context()

    def __del__(self, _warn=warnings.warn, _is_finalizing=sys.is_finalizing):
        if self.aio_context is not None and not self.is_closed():
            _warn(f"unclosed event loop {self!r}", ResourceWarning, source=self)
            # at the interpreter's end modules are being taken apart, and the kernel closes everything
            if not self.is_running() and not _is_finalizing():
                self.close()

    # -- debug mode ------------------------------------------------------------------------------------

    def set_debug(self, enabled):
        """See asyncio.loop.set_debug."""
        self._debug = enabled
        if self.is_running():
            self.call_soon_threadsafe(self._set_coroutine_origin_tracking, enabled)

    def _run_debug(self, handle):
        """Debug mode: run one callback; an exception that it reports can name where its handle was made."""
        if handle.cancelled():
            return
        interrupted = self._current_handle  # in a nested run
        try:
            self._current_handle = handle
            handle._run()
        finally:
            self._current_handle = interrupted
            handle = None  # a traceback of a task may keep this frame, which must not keep the task

    def _report_slow(self, what, seconds):
        """A callback took slow_callback_duration or longer."""
        if self._debug:
            described = base_events._format_handle(what) if isinstance(what, events.Handle) else repr(what)
            logger.warning("Executing %s took %.3f seconds", described, seconds)
        if self.slow_callback_hook is None:
            return
        try:
            owner = getattr(what._callback, "__self__", None) if isinstance(what, events.Handle) else None
            self._slow_context = what._context if isinstance(what, events.Handle) else None
            self.slow_callback_hook(owner if isinstance(owner, asyncio.Task) else what, seconds)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.call_exception_handler({"message": "Exception in slow_callback_hook", "exception": error})
        finally:
            self._slow_context = None

    # -- fork ------------------------------------------------------------------------------------------

    def _after_fork_in_child(self):
        """In a fork child: separate from the parent, which sends the unsent data.

        Returns: whether the loop keeps running here; else it is closed.
        """
        goes_on = not self.is_running() and not self._has_unsent() and self._leave_aio_context()
        if not goes_on:
            self._forget_aio_context()  # from now on nothing is removed from the parent's epoll set
        self._leave_signals()
        self._leave_processes()
        if not goes_on:
            self._signal_handlers.clear()
            self._acceptors.clear()
            return False
        executor = self._default_executor
        if getattr(executor, "_thread_name_prefix", None) == "asyncio" and executor._threads:
            self._default_executor = None  # the one that asyncio makes; its threads are the parent's
        self._pid = os.getpid()
        return True

    def _has_unsent(self):
        return any(self._transports[fd].get_write_buffer_size() for fd in self._transports)


def _observe_loops(observer):
    """Call observer(loop) with each loop that is made from now on; returns those that there are.

    Thread: any.  A loop that another thread makes meanwhile may be in both.
    """
    _observers.append(observer)
    return [loop for reference in list(_live_loops) if (loop := reference()) is not None]


def _observe_loops_no_more(observer):
    """Undo one _observe_loops().  Thread: any."""
    _observers.remove(observer)


def _forget_loop(reference):
    _live_loops.pop(reference, None)


def _part_with_parent():
    """In a fork child: no loop of the parent may be touched, and none of its kernel objects kept alive."""
    for reference in list(_live_loops):
        loop = reference()
        if loop is not None and not loop._after_fork_in_child():
            _forget_loop(reference)
    if sys.version_info < (3, 12):  # since then asyncio does it
        policy = events._event_loop_policy
        loop = getattr(getattr(policy, "_local", None), "_loop", None)
        if isinstance(loop, Loop) and loop.is_closed():
            policy._local = type(policy._local)()
    try:
        from ..uring.ring import forget_spare_rings
    except ImportError:
        return
    forget_spare_rings()


os.register_at_fork(after_in_child=_part_with_parent)

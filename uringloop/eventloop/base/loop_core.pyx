"""LoopCore: the parts of the asyncio loop that run once per callback, timer, or watched fd.

`Loop` (loop.py) inherits from this first and from asyncio.BaseEventLoop second: methods here replace the Python
versions, everything else is asyncio's own.  No cdef attribute has a name that BaseEventLoop assigns, except through the
properties at the end, which keep asyncio's private names true.

Thread: the loop's, except call_soon_threadsafe and _write_to_self.
"""

cimport cython
from libc.stdint cimport INT64_MAX, int64_t, uint64_t
from cpython.contextvars cimport PyContext_CopyCurrent
from cpython.float cimport PyFloat_CheckExact
from cpython.long cimport PyLong_CheckExact
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE

from ...aio.context_core cimport ContextCore, ul_monotonic_ns
from ...aio.handles cimport Handle, ThreadSafeHandle, TimerHandle
from ...aio.program cimport Program
from ...fdmon.base cimport FDMonitor, FdHandler
from ...support.guard cimport FREE_THREADED, is_held, peek_int, peek_object, peek_size, poke_int, set_once
from ...support.fastcall cimport PyMethodDef, call_slowly, put_fast_method
from ...support.system cimport POLLIN, POLLOUT
from .watching cimport EVENT_READ, EVENT_WRITE, FdWatching

import _thread
import sys
import threading
import time
import weakref

from asyncio import base_events, coroutines, events, format_helpers, futures, tasks
from collections import deque
import inspect
import selectors
from types import BuiltinFunctionType

from ...aiocontext.context import AioContext
from ...exceptions import SqeNotSupported
from .views import ReadyView, ScheduledView, SelectorView

cdef extern from "Python.h":
    int PyObject_GenericSetAttr(object, object, PyObject *) except -1
    bint PyUnicode_CHECK_INTERNED(object) noexcept
    object PyObject_Vectorcall(object function, PyObject **args, size_t n_args, PyObject *names)

cdef extern from "../../support/type_tag.h":
    unsigned ul_tag_of(PyObject *type) noexcept

cdef extern from "<stdlib.h>":
    char *getenv(const char *name)

cdef extern from "<math.h>" nogil:
    double ceil(double)

# Beyond this a time in nanoseconds does not fit; such a timer never fires (292 years).
cdef double FARTHEST_S = 9.0e9
cdef int64_t FARTHEST_NS = INT64_MAX

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef enum:
    FLOOD = 1024  # callbacks that may wait while other threads schedule more

cdef enum:
    GREEN_WAIT_NS = 1_000_000

cdef object Future = futures.Future
cdef bint has_thread_safe_handles = hasattr(events, "_ThreadSafeHandle")  # since Python 3.14

cdef class LoopCore(FdWatching):
    """The compiled half of Loop."""

    def __cinit__(self, *args, **kwargs):
        self.is_loop_closed = True  # until __init__ has given it a context

    def _adopt_monitor(self, FDMonitor monitor not None):
        """Make the context on this monitor; called once, by Loop.__init__."""
        self.aio_context = AioContext(monitor)
        self.guard = self.aio_context.guard
        self.aio_context.poll_if_cheap()
        self.aio_context.report_to(weakref.ref(self))
        self.follow_slowness()
        self.aio_context.program = LoopProgram(self)

    # Look up again what applications' tests replace to travel in time.
    def __setattr__(self, name, value):
        PyObject_GenericSetAttr(self, name, <PyObject *>value)
        if is_looked_up(name):
            self.known_tag = UNKNOWN_TAG

    def __delattr__(self, name):
        PyObject_GenericSetAttr(self, name, NULL)
        if is_looked_up(name):
            self.known_tag = UNKNOWN_TAG

    def _look_up_again(self):
        """An attribute of loop._selector has changed."""
        self.known_tag = UNKNOWN_TAG

    cdef int look_up_again(self) except -1:
        """Find out which of these methods and functions are not ours."""
        cdef dict own = self.__dict__
        kind = type(self)
        view = own.get("_selector")
        self.has_own_base_time = base_events.BaseEventLoop.time is not plain_base_time
        self.has_own_time = self.has_own_base_time or kind.time is not plain_time or "time" in own
        self.has_own_call_at = kind.call_at is not plain_call_at or "call_at" in own
        self.has_own_turn = kind._run_once is not plain_run_once or "_run_once" in own
        self.has_own_select = view is not None and (
            type(view) is not SelectorView or SelectorView.select is not plain_select or "select" in view.__dict__)
        self.has_own_clock = self.has_own_time or not ul_is_clock_stock_by(&clock, "time", "monotonic")
        self.has_own_timers = self.has_own_clock or self.has_own_call_at
        self.is_followed = False
        # last: a lookup assigns the tags
        self.known_clock = ul_clock_version(&clock) or UNKNOWN_VERSION
        self.known_view_tag = ul_view_tag(&clock) or <unsigned>UNKNOWN_TAG
        self.known_tag = ul_class_tag(self) or <unsigned>UNKNOWN_TAG
        return 0

    cdef int follow_program(self) except -1:
        """Before a turn: determine whose clock and whose select it uses."""
        if not is_as_known(self):
            self.look_up_again()
        if not self.is_followed:
            self.aio_context.has_own_clock = self.has_own_clock
            self.aio_context.has_own_select = self.has_own_select
            self.is_followed = True
        return 0

    # -- callbacks -------------------------------------------------------------------------------------

    cdef Handle new_handle(self, object callback, object args, object context):
        cdef Handle handle = Handle.__new__(Handle)
        self.fill_plain(handle, callback, args, context)
        return handle

    cdef int fill_plain(self, Handle handle, object callback, object args, object context) except -1:
        handle.callback = callback
        handle.args = args
        handle.n_args = -1
        handle.loop = self
        handle.context = PyContext_CopyCurrent() if context is None else context
        if peek_int(<const int *>&self.is_debug):
            handle.debug_info = format_helpers.extract_stack(sys._getframe(0))
        return 0

    def call_soon(self, callback, *args, context=None):
        """See asyncio.loop.call_soon."""
        cdef Handle handle
        if self.is_loop_closed:
            raise RuntimeError("Event loop is closed")
        if self.is_debug:
            self._check_thread()
            self.check_callback(callback, "call_soon")
        handle = self.new_handle(callback, args, context)
        self.aio_context.ready.push(handle)
        return handle

    cdef int call_own_soon(self, object callback, object first, object second, object context) except -1:
        """call_soon(callback, first, second) for a step of the loop's own, which no program has to see."""
        cdef Handle handle
        if self.is_debug or self.is_loop_closed:
            plain_call_soon(self, callback, first, second, context=context)
            return 0
        handle = self.aio_context.ready.new_handle()
        handle.callback = callback
        handle.first = first
        handle.second = second
        handle.n_args = 2
        handle.loop = self
        handle.context = PyContext_CopyCurrent() if context is None else context
        self.aio_context.ready.push(handle)
        return 0

    def call_soon_threadsafe(self, callback, *args, context=None):
        """See asyncio.loop.call_soon_threadsafe; from any thread, and from Python's signal handlers."""
        cdef Handle handle
        if peek_int(<const int *>&self.is_loop_closed):
            raise RuntimeError("Event loop is closed")
        if peek_int(<const int *>&self.is_debug):
            self.check_callback(callback, "call_soon_threadsafe")
        handle = ThreadSafeHandle.__new__(ThreadSafeHandle) if has_thread_safe_handles else Handle.__new__(Handle)
        self.fill_plain(handle, callback, args, context)
        if peek_int(<const int *>&self.is_loop_closed):
            # closed meanwhile: debug mode makes its traceback in Python code, during which other threads may run
            raise RuntimeError("Event loop is closed")
        self.aio_context.ready.push_from_any(self.guard, handle)
        self.aio_context.notifier.notify()
        if FREE_THREADED:
            if peek_size(&self.aio_context.ready.n_arrived) > FLOOD and not is_held(self.guard):
                with nogil:
                    sched_yield()
        elif self.aio_context.ready.count() > FLOOD and self.aio_context.is_other_thread():
            # A thread that schedules faster than the loop runs would keep the GIL; the queue would grow, and with it
            # the wait of each callback and timer.  asyncio releases the GIL here each time, to write to a pipe.
            with nogil:
                sched_yield()
        return handle

    def call_later(self, delay, callback, *args, context=None):
        """See asyncio.loop.call_later; resolution is a nanosecond, never early."""
        if delay is None:
            raise TypeError("delay must not be None")
        if has_own_timers(self) and self.has_own_call_at:
            return self.call_at(self.time() + delay, callback, *args, context=context)
        return self.schedule(self.time() + <double>delay, callback, args, context, "call_later")

    def call_at(self, when, callback, *args, context=None):
        """See asyncio.loop.call_at."""
        if when is None:
            raise TypeError("when cannot be None")
        return self.schedule(when, callback, args, context, "call_at")

    cdef TimerHandle schedule(self, double when_s, object callback, object args, object context, str method):
        cdef TimerHandle handle
        if self.is_loop_closed:
            raise RuntimeError("Event loop is closed")
        if self.is_debug:
            self._check_thread()
            self.check_callback(callback, method)
        handle = TimerHandle.__new__(TimerHandle)
        handle.callback = callback
        handle.args = args
        handle.n_args = -1
        handle.loop = self
        handle.context = PyContext_CopyCurrent() if context is None else context
        if self.is_debug:
            handle.debug_info = format_helpers.extract_stack(sys._getframe(0))
        handle.when_s = when_s
        handle.when_ns = as_ns(when_s)
        self.aio_context.timers.push(handle)
        return handle

    def time(self):
        """Seconds of time.monotonic()."""
        if has_own_timers(self) and (self.has_own_base_time or not ul_is_clock_stock_by(&clock, "time", "monotonic")):
            return base_events.BaseEventLoop.time(self)
        return <double>ul_monotonic_ns() / 1e9

    cdef int check_callback(self, object callback, str method) except -1:
        if coroutines.iscoroutine(callback) or inspect.iscoroutinefunction(callback):
            raise TypeError(f"coroutines cannot be used with {method}()")
        if not callable(callback):
            raise TypeError(f"a callable object was expected by {method}(), got {callback!r}")
        return 0

    def _add_callback(self, handle):
        """Queue a handle that other code made (asyncio's signal handling does)."""
        if handle.cancelled():
            return
        if not isinstance(handle, Handle) or type(handle) is events.Handle:
            handle = self.new_handle(handle._run, (), None)
        self.aio_context.ready.push(<Handle>handle)

    def _write_to_self(self):
        if self.aio_context is not None:
            self.aio_context.notifier.notify()

    def _timer_handle_cancelled(self, handle):
        """asyncio's TimerHandle would call this; ours notifies its heap."""

    def create_future(self):
        return Future(loop=self)

    # -- running ---------------------------------------------------------------------------------------

    def run_forever(self):
        """See asyncio.loop.run_forever."""
        if self.running_thread is not None and self._is_nested_call():
            return self._run_nested_forever()
        self._run_forever_setup()
        try:
            self.aio_context.begin_run()
            self.aio_context.begin_turns()
            try:
                self.run_turns()
            finally:
                self.aio_context.end_turns()
        finally:
            self.aio_context.wants_return = False
            self._run_forever_cleanup()

    cdef int run_turns(self) except -1:
        """Run until stop(); data written right before that, or before an exception, is still sent."""
        try:
            self.aio_context.wants_return = self.is_stopping
            are_threads_green = type(_thread.start_new_thread) is not BuiltinFunctionType
            while True:
                if not (self.is_followed and is_as_known(self)):
                    self.follow_program()
                if self.has_own_turn:
                    self._run_once()
                elif are_threads_green:
                    green_turn(self)
                else:
                    self.aio_context.turn(True)
                if self.is_stopping:
                    return 0
                if self.is_loop_closed:
                    raise RuntimeError("Event loop is closed: this process is a fork of the one that runs it")
        except MemoryError:
            self._after_memory_error()  # for the next run
            raise
        finally:
            if not self.aio_context.monitor.is_closed:
                self.aio_context.settle()

    def _run_once(self):
        """One turn, as asyncio's private method of this name."""
        self._check_closed()
        self.aio_context.begin_run()
        self.aio_context.begin_turns()
        try:
            self.aio_context.turn(True)
        finally:
            self.aio_context.end_turns()

    def _select(self, timeout):
        """loop._selector.select(): wait, and leave the events to the next turn, or to the one in progress.

        Returns: what asyncio's select would return; a completion has no key of its own, and counts as the monitor's fd.
        """
        cdef ContextCore context = self.aio_context
        cdef FdHandler handler
        cdef size_t at
        self._check_closed()
        context.begin_run()
        context.wait_for(-1 if timeout is None else as_wait_ns(timeout))
        found = []
        at = context.ready_list.head
        while at != context.ready_list.tail:
            handler = <FdHandler>context.ready_list.items[at & context.ready_list.mask]
            at += 1
            found.append((self._selector_key(handler.fd, handler.events), handler.revents))
        if context.monitor.has_undispatched():
            found.append((self._selector_key(context.monitor.fileno(), POLLIN), POLLIN))
        return [(key, selected(key.events, revents)) for key, revents in found]

    def _selector_key(self, int fd, short asked):
        wanted = (EVENT_READ if asked & POLLIN else 0) | (EVENT_WRITE if asked & POLLOUT else 0)
        return selectors.SelectorKey(fd, fd, wanted, self._watching_handles(fd))

    def _process_events(self, event_list):
        """Do nothing: the turn already has the events that _selector.select() returned, and dispatches them."""

    def stop(self):
        """See asyncio.loop.stop: the current turn is finished."""
        self.is_stopping = True
        if self.aio_context is not None:
            self.aio_context.wants_return = True

    def is_running(self):
        return self.running_thread is not None

    def is_closed(self):
        return peek_int(<const int *>&self.is_loop_closed) != 0

    def _check_closed(self):
        if peek_int(<const int *>&self.is_loop_closed):
            raise RuntimeError("Event loop is closed")

    def _check_thread(self):
        if self.running_thread is None:
            return
        if self.running_thread != threading.get_ident():  # by name: gevent replaces it, also where the loop starts
            raise RuntimeError("Non-thread-safe operation invoked on an event loop other than the current one")

    def get_debug(self):
        return peek_int(<const int *>&self.is_debug) != 0

    def _close_aio_context(self):
        """Close monitor and notifier; callbacks and timers are dropped."""
        self.fd_callbacks.clear()
        if self.aio_context is not None:
            self.aio_context.end()

    def _forget_aio_context(self):
        """In a fork child: see ContextCore.forget."""
        self.is_loop_closed = True
        self.fd_callbacks.clear()
        if self.aio_context is not None:
            self.aio_context.forget()

    def _leave_aio_context(self):
        """In a fork child: see ContextCore.leave."""
        return self.aio_context is not None and self.aio_context.leave()

    # -- raw requests: see raw.pyx, which exists in builds with liburing -------------------------------------

    @property
    def supports_sqe(self):
        """Whether add_sqe() works: this loop runs on io_uring, and its ring is not restricted."""
        return self._has_ring and not self.aio_context.engine.is_restricted

    @property
    def _has_ring(self):
        return self.aio_context is not None and self.aio_context.engine is not None

    def add_sqe(self, prep, *args, callback=None, keepalive=None, multishot=False):
        """Make an io_uring request; not supported here: SqeNotSupported."""
        self._check_closed()
        raise SqeNotSupported(self.aio_context.monitor.name, self.fdmon_reason)

    def add_sqes(self, chain, *, keepalive=None):
        """Make linked io_uring requests; not supported here: SqeNotSupported."""
        return self.add_sqe(None)

    # -- slow callbacks --------------------------------------------------------------------------------

    @property
    def slow_callback_duration(self):
        """Seconds from which on a callback is slow; see asyncio.loop.slow_callback_duration."""
        return self.slow_s

    @slow_callback_duration.setter
    def slow_callback_duration(self, seconds):
        self.slow_s = seconds
        self.follow_slowness()

    @property
    def slow_callback_hook(self):
        """Called as hook(what, seconds) after each callback that took slow_callback_duration or longer.

        Also without debug mode; it reads the clock twice per callback while it is set, and costs nothing while it is
        None.  `what` is the asyncio.Task that ran, else the asyncio.Handle, or the transport whose protocol was called.
        Runs in the loop's thread; an exception goes to the loop's exception handler.
        """
        return self.slow_hook

    @slow_callback_hook.setter
    def slow_callback_hook(self, hook):
        if hook is not None and not callable(hook):
            raise TypeError(f"a callable object or None was expected, got {hook!r}")
        self.slow_hook = hook
        self.follow_slowness()

    cdef int follow_slowness(self) except -1:
        """Callbacks are timed in debug mode and when there is a hook."""
        report = None
        if self.aio_context is None:
            return 0
        # Weak: a loop that is left open is freed, and warns, with its last reference, not when garbage is collected.
        loop = weakref.ref(self)
        if self.is_debug or self.slow_hook is not None:
            def report(what, seconds):
                loop()._report_slow(what, seconds)
        self.aio_context.run_handle_debug = (lambda handle: loop()._run_debug(handle)) if self.is_debug else None
        return self.aio_context.report_slow(report, as_ns(self.slow_s))

    # -- asyncio's private names, kept true ------------------------------------------------------------

    @property
    def _debug(self):
        return peek_int(<const int *>&self.is_debug) != 0

    @_debug.setter
    def _debug(self, enabled):
        poke_int(<int *>&self.is_debug, bool(enabled))
        self.follow_slowness()

    @property
    def _closed(self):
        return peek_int(<const int *>&self.is_loop_closed) != 0

    @_closed.setter
    def _closed(self, value):
        poke_int(<int *>&self.is_loop_closed, bool(value))

    @property
    def _stopping(self):
        return self.is_stopping

    @_stopping.setter
    def _stopping(self, value):
        self.is_stopping = value
        if self.aio_context is not None:
            self.aio_context.wants_return = value

    @property
    def _ready(self):
        # a closed loop has what asyncio's has then, and close() clears it
        return deque() if self.is_loop_closed else ReadyView(self, self._list_ready)

    @_ready.setter
    def _ready(self, value):
        self._refuse_to_replace("_ready")

    @property
    def _scheduled(self):
        return [] if self.is_loop_closed else ScheduledView(self, self._list_scheduled)

    @_scheduled.setter
    def _scheduled(self, value):
        self._refuse_to_replace("_scheduled")

    @property
    def _timer_cancelled_count(self):
        return 0 if self.aio_context is None else self.aio_context.timers.n_cancelled

    @_timer_cancelled_count.setter
    def _timer_cancelled_count(self, value):
        self._refuse_to_replace("_timer_cancelled_count")

    def _refuse_to_replace(self, name):
        if self.aio_context is not None:  # BaseEventLoop.__init__ makes its own, before there is a context
            raise AttributeError(f"loop.{name} is a view: it cannot be replaced")

    def _list_ready(self):
        """The callbacks of the next turn, in their order: those of call_soon(), then timers that are due."""
        if self.aio_context is None:
            return []
        return self.aio_context.ready.handles() + self.aio_context.due.handles()

    def _list_scheduled(self):
        return [] if self.aio_context is None else self.aio_context.timers.handles()

    def _take_ready(self):
        """Remove the first of _list_ready(); the caller runs it."""
        if self.aio_context is not None:
            self.aio_context.ready.take_arrived()
            if self.aio_context.ready.count():
                return self.aio_context.ready.pop()
            if self.aio_context.due.count():
                return self.aio_context.due.pop()
        raise IndexError("no callback is ready")

    @property
    def _thread_id(self):
        return self.running_thread

    @_thread_id.setter
    def _thread_id(self, value):
        self.running_thread = value
        # Here, too: Home Assistant checks loop.__dict__ to see whether it is called in the loop's thread.
        self.__dict__["_thread_id"] = value


# -- what programs replace -----------------------------------------------------------------------------------
#
# Tests travel in time: they replace time.monotonic (freezegun, mocks), loop.time or call_at (mocks, subclasses), the
# wait (loop._selector.select: looptime, aiotools), or the turn (loop._run_once).  Stock asyncio looks all of that up
# each time.  Here a class is looked up again when its version tag has changed, an object when an attribute is set, and
# the clock when one of the two dictionaries that lead to it has changed: a few comparisons for each timer and turn.

cdef extern from "../base/stock_clock.h":
    struct ul_stock_clock:
        pass
    int ul_learn_clock(ul_stock_clock *, list kept, object asyncio_names, object time_module, object view) except -1
    bint ul_is_clock_stock_by(ul_stock_clock *, object name_time, object name_monotonic) noexcept
    uint64_t ul_clock_version(const ul_stock_clock *) noexcept
    unsigned ul_view_tag(const ul_stock_clock *) noexcept
    unsigned ul_class_tag(object) noexcept

cdef enum:
    UNKNOWN_TAG = 0xFFFFFFFF

cdef ul_stock_clock clock
cdef list kept_for_clock = []
cdef object plain_time = LoopCore.__dict__["time"]
cdef object plain_call_at = LoopCore.__dict__["call_at"]
cdef object plain_run_once = LoopCore.__dict__["_run_once"]
cdef object plain_base_time = base_events.BaseEventLoop.time
cdef object plain_select = SelectorView.select
cdef str TIME = sys.intern("time")
cdef str CALL_AT = sys.intern("call_at")
cdef str RUN_ONCE = sys.intern("_run_once")
cdef str SELECTOR = sys.intern("_selector")

cdef uint64_t UNKNOWN_VERSION = 0xFFFFFFFFFFFFFFFF

ul_learn_clock(&clock, kept_for_clock, base_events.__dict__, time, SelectorView)


cdef inline bint is_looked_up(object name):
    """A new loop sets some forty attributes: names that setattr() passes need only be compared by address."""
    return (name is TIME or name is CALL_AT or name is RUN_ONCE or name is SELECTOR
            or (not PyUnicode_CHECK_INTERNED(name) and name in (TIME, CALL_AT, RUN_ONCE, SELECTOR)))


cdef inline bint is_as_known(LoopCore loop) noexcept:
    """Whether nothing has changed since look_up_again(); "cannot be known" and "not known" are different numbers."""
    return (ul_class_tag(loop) == loop.known_tag and ul_view_tag(&clock) == loop.known_view_tag
            and ul_clock_version(&clock) == loop.known_clock)


cdef inline bint has_own_timers(LoopCore loop) except -1:
    if not is_as_known(loop):
        loop.look_up_again()
    return loop.has_own_timers


cdef class LoopProgram(Program):
    """What replaces a loop's clock and wait."""

    cdef object known  # a weak reference to the loop

    def __cinit__(self, LoopCore loop):
        self.known = weakref.ref(loop)

    cdef int begin_turn(self) except -1:
        cdef LoopCore loop = self.known()
        return loop.follow_program() if loop is not None else 0

    cdef double now_s(self) except? -1.0:
        return self.known().time()

    cdef double resolution(self) except? -1.0:
        return self.known()._clock_resolution

    cdef int select(self, object timeout_s) except -1:
        self.known()._selector.select(timeout_s)
        return 0


def has_settings_in_environment():
    """Whether os.environ says something about new loops, at a tenth of its cost: the C library has the same."""
    return (getenv("URINGLOOP_POLL_MAX_NS") != NULL or getenv("URINGLOOP_RECORD") != NULL
            or getenv("URINGLOOP_TOP") != NULL)


cdef int selected(short wanted, short revents) noexcept:
    """Convert events of poll(2) to those of selectors, as selectors does: errors count for both directions."""
    return ((EVENT_READ if revents & ~POLLOUT else 0) | (EVENT_WRITE if revents & ~POLLIN else 0)) & wanted


cdef int green_turn(LoopCore loop) except -1:
    """A turn where gevent or eventlet has made greenlets of threads, an executor's among them.

    A wait in the kernel would stop them all, so the loop waits in time.sleep(), which they have replaced as well, and
    polls a thousand times a second.
    """
    cdef ContextCore context = loop.aio_context
    cdef unsigned long long n_before = context.n_dispatched
    cdef int64_t left_ns
    context.turn(False)
    if loop.is_stopping or loop.is_loop_closed:
        return 0
    left_ns = context.timeout_ns(context.ready.count() == 0)
    if context.n_dispatched != n_before or left_ns == 0:
        left_ns = 0
    elif left_ns < 0 or left_ns > GREEN_WAIT_NS:
        left_ns = GREEN_WAIT_NS
    time.sleep(left_ns / 1e9)
    return 0


# -- the fast way in ---------------------------------------------------------------------------------------
#
# `def call_soon(self, callback, *args, context=None)` builds a tuple for every call.  The functions below take the
# arguments as the interpreter has them (METH_FASTCALL, PEP 590) and put up to two into the handle itself; any
# other call is passed to the method above.

cdef PyMethodDef call_soon_definition, call_later_definition
cdef PyObject *known_names = NULL  # a names tuple that holds "context" only; owned
cdef object plain_call_soon = LoopCore.__dict__["call_soon"]
cdef object plain_call_later = LoopCore.__dict__["call_later"]

cdef extern from "Python.h":
    int PyUnicode_CompareWithASCIIString(object text, const char *ascii)


cdef inline int fill_handle(LoopCore loop, Handle handle, PyObject **args, Py_ssize_t n_args,
                            PyObject *names) except -1:
    """Callback and arguments of a handle; args[0] is the callback, and at most two arguments follow."""
    handle.callback = <object>args[0]
    if n_args > 1:
        handle.first = <object>args[1]
        if n_args > 2:
            handle.second = <object>args[2]
    handle.n_args = <int>n_args - 1
    handle.loop = loop
    if names == NULL or args[n_args] == <PyObject *>None:
        handle.context = PyContext_CopyCurrent()
    else:
        handle.context = <object>args[n_args]
    return 0


cdef inline bint is_plain(LoopCore loop, Py_ssize_t n_args, PyObject *names) noexcept:
    """At most two arguments, no keyword but `context`, no debug mode, loop open; and this thread has the guard."""
    if FREE_THREADED and (loop.guard is None or not is_held(loop.guard)):
        return False
    if loop.is_debug or loop.is_loop_closed or n_args < 1 or n_args > 3:
        return False
    return names == NULL or names == peek_object(&known_names) or is_context_only(names)


cdef bint is_context_only(PyObject *names) noexcept:
    """Whether the one keyword is `context`; by value, since _asyncio's C code has its own string for it.

    The last tuple is kept: almost all calls pass the one of asyncio's tasks.  Without a GIL it is the first one.
    """
    global known_names
    if PyTuple_GET_SIZE(<tuple>names) != 1 or PyUnicode_CompareWithASCIIString(
            <object>PyTuple_GET_ITEM(<tuple>names, 0), "context") != 0:
        return False
    keep_names(&known_names, names)
    return True


cdef int keep_names(PyObject **kept, PyObject *names) noexcept:
    """Returns whether they are kept now, with a reference."""
    cdef PyObject *old = kept[0]
    Py_INCREF(<object>names)
    if FREE_THREADED:
        if set_once(kept, names):
            return True
        Py_DECREF(<object>names)
        return False
    kept[0] = names
    if old != NULL:
        Py_DECREF(<object>old)
    return True


cdef object fast_call_soon(LoopCore loop, PyObject **args, Py_ssize_t n_args, PyObject *names):
    cdef Handle handle
    if not is_plain(loop, n_args, names):
        return call_slowly(plain_call_soon, loop, args, n_args, names)
    handle = loop.aio_context.ready.new_handle()
    fill_handle(loop, handle, args, n_args, names)
    loop.aio_context.ready.push(handle)
    return handle


cdef inline bint is_number(object delay) noexcept:
    """Whether its conversion runs no code of the program, which might close the loop."""
    return PyFloat_CheckExact(delay) or PyLong_CheckExact(delay)


cdef object fast_call_later(LoopCore loop, PyObject **args, Py_ssize_t n_args, PyObject *names):
    cdef TimerHandle handle
    cdef double when_s
    if not is_plain(loop, n_args - 1, names) or not is_number(<object>args[0]) or has_own_timers(loop):
        return call_slowly(plain_call_later, loop, args, n_args, names)
    when_s = <double>ul_monotonic_ns() / 1e9 + <double><object>args[0]
    handle = TimerHandle.__new__(TimerHandle)
    fill_handle(loop, handle, args + 1, n_args - 1, names)
    handle.when_s = when_s
    handle.when_ns = as_ns(when_s)
    loop.aio_context.timers.push(handle)
    return handle


# `create_task` makes the task as asyncio's method does, without its Python frame, for each request of most servers.
# What a program may have changed (the task factory, asyncio.tasks.Task, the method of asyncio's class) is looked at.

cdef PyMethodDef create_task_definition
cdef object base_class = base_events.BaseEventLoop
cdef object plain_create_task = base_class.create_task
cdef unsigned base_class_tag = 0           # while this is the class's, create_task is plain_create_task
cdef object task_class = tasks.Task
cdef tuple task_names = ("loop",)          # of the keywords for the class, after none
cdef PyObject *known_task_names = NULL     # the last keywords of a caller; owned
cdef tuple task_names_after_known = None


cdef bint is_asyncios_create_task() except -1:
    """Whether asyncio's method is as it was."""
    global base_class_tag
    cdef unsigned tag = ul_tag_of(<PyObject *>base_class)
    if tag and tag == base_class_tag:
        return True
    if base_class.create_task is not plain_create_task:
        return False
    base_class_tag = ul_tag_of(<PyObject *>base_class)
    return True


cdef tuple names_for_task(PyObject *names):
    """The names of keywords for the class, if a caller's are `name` and `context` at most; else None."""
    global known_task_names, task_names_after_known
    if names == NULL:
        return task_names
    if names == peek_object(&known_task_names):
        return task_names_after_known
    if PyTuple_GET_SIZE(<tuple>names) > 2:
        return None
    cdef tuple all_names
    for one in <tuple>names:
        if one not in ("name", "context"):
            return None
    all_names = task_names + <tuple>names
    with cython.critical_section(task_names):
        if not FREE_THREADED or known_task_names == NULL:  # without a GIL the first ones are kept, for good
            task_names_after_known = all_names
            keep_names(&known_task_names, names)
    return all_names


cdef object fast_create_task(LoopCore loop, PyObject **args, Py_ssize_t n_args, PyObject *names):
    cdef PyObject *passed[4]
    cdef tuple all_names = None
    cdef Py_ssize_t i
    if (n_args == 1 and not loop.is_debug and not loop.is_loop_closed and (<object>loop)._task_factory is None
            and tasks.Task is task_class and is_asyncios_create_task()):
        all_names = names_for_task(names)
    if all_names is None:
        return call_slowly(base_class.create_task, loop, args, n_args, names)
    passed[0] = args[0]
    passed[1] = <PyObject *>loop
    for i in range(PyTuple_GET_SIZE(all_names) - 1):  # the caller's: none, one or two
        passed[2 + i] = args[1 + i]
    return PyObject_Vectorcall(task_class, passed, 1, <PyObject *>all_names)


put_fast_method(
    LoopCore, &call_soon_definition, b"call_soon", <void *>fast_call_soon,
    b"call_soon($self, callback, *args, context=None)\n--\n\nSee asyncio.loop.call_soon.")
put_fast_method(
    LoopCore, &call_later_definition, b"call_later", <void *>fast_call_later,
    b"call_later($self, delay, callback, *args, context=None)\n--\n\n"
    b"See asyncio.loop.call_later; resolution is a nanosecond, never early.")
cdef const char *create_task_documentation = (
    b"create_task($self, coro, *, name=None, context=None)\n--\n\nSee asyncio.loop.create_task.")
if "name" not in inspect.signature(plain_create_task).parameters:  # since Python 3.14
    create_task_documentation = b"create_task($self, coro, **kwargs)\n--\n\nSee asyncio.loop.create_task."
elif "kwargs" in inspect.signature(plain_create_task).parameters:  # late releases of 3.13
    create_task_documentation = (
        b"create_task($self, coro, *, name=None, context=None, **kwargs)\n--\n\nSee asyncio.loop.create_task.")
put_fast_method(
    LoopCore, &create_task_definition, b"create_task", <void *>fast_create_task, create_task_documentation)


cdef int64_t as_wait_ns(object timeout_s) except? -1:
    """As in selectors: a timeout that is not positive does not wait."""
    cdef double seconds = timeout_s
    if not seconds > 0:
        return 0
    return <int64_t>ceil(min(seconds, FARTHEST_S) * 1e9)


cdef inline int64_t as_ns(double when_s) noexcept:
    """Rounded up, so that loop.time() >= when() holds when the timer fires."""
    if when_s >= FARTHEST_S:
        return FARTHEST_NS
    return <int64_t>ceil(when_s * 1e9) + 1 if when_s > 0 else 0

"""LoopCore: everything of the asyncio loop that runs once per callback, timer, or watched fd.

`Loop` (loop.py) inherits from this first and from asyncio.BaseEventLoop second: what stands here replaces the Python
version, everything else is asyncio's own.  No cdef attribute has a name that BaseEventLoop assigns, except through the
properties at the end, which keep asyncio's private names true.

Thread: the loop's, except call_soon_threadsafe and _write_to_self.
"""

from libc.errno cimport EBADF
from libc.stdint cimport int64_t
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE

from ..aio.context cimport AioContext, ul_monotonic_ns
from ..aio.handles cimport Handle, ThreadSafeHandle, TimerHandle
from ..aio.poll_handlers cimport CallbackHandler
from ..fdmon.base cimport FDMonitor, FdHandler, Stopwatch

import os
import selectors
import sys
import weakref

from asyncio import coroutines, events, format_helpers, futures
import inspect

from ..exceptions import SqeNotSupported

cdef extern from "Python.h":
    object PyContext_CopyCurrent()
    int PyObject_GenericSetAttr(object, object, object) except -1

cdef extern from "<math.h>" nogil:
    double ceil(double)

cdef enum:
    POLLIN = 1
    POLLOUT = 4

# Beyond this a time in nanoseconds does not fit; such a timer never comes (292 years).
cdef double FARTHEST_S = 9.0e9
cdef int64_t FARTHEST_NS = 0x7FFFFFFFFFFFFFFF

cdef object Future = futures.Future
cdef bint has_thread_safe_handles = hasattr(events, "_ThreadSafeHandle")  # since Python 3.14
# C variables: a transport's __del__ asks when module globals may be gone.
cdef int EVENT_READ = selectors.EVENT_READ
cdef int EVENT_WRITE = selectors.EVENT_WRITE


cdef class FdCallbacks(FdHandler):
    """What add_reader and add_writer want of one fd."""

    cdef int on_ready(self, short revents) except -1:
        # as selectors.EpollSelector: an error or a hang-up wakes both directions
        cdef Handle reader = self.reader if revents & ~POLLOUT else None
        cdef Handle writer = self.writer if revents & ~POLLIN else None
        cdef AioContext aio_context = self.aio_context
        if reader is not None:
            aio_context.run_handle(reader)
        # cancelled by remove_writer meanwhile: run() does nothing then
        if writer is not None:
            aio_context.run_handle(writer)
        return 0

    cdef object behind(self):
        return None  # run_handle tells by itself, and names the callback


cdef class LoopCore:
    """The compiled half of Loop."""

    def __cinit__(self, *args, **kwargs):
        self.fd_callbacks = {}
        self.is_loop_closed = True  # until __init__ has given it a context

    def _adopt_monitor(self, FDMonitor monitor not None):
        """Make the context on this monitor; called once, by Loop.__init__."""
        self.aio_context = AioContext(monitor)
        self.aio_context.report_to(weakref.ref(self))
        self.follow_slowness()
        if type(self).time is not LoopCore.time or self.has_own_time:
            self.follow_time()

    def __setattr__(self, name, value):
        """Tests of applications travel in time by replacing loop.time; timers go along."""
        PyObject_GenericSetAttr(self, name, value)
        if name == "time":
            self.follow_time()

    cdef int follow_time(self) except -1:
        self.has_own_time = True
        if self.aio_context is not None:
            self.aio_context.own_clock = self._time_ns
        return 0

    def _time_ns(self):
        return as_ns(<double>self.time())  # rounded as the timers are: at its time one is due

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
        handle.aio_context = PyContext_CopyCurrent() if context is None else context
        if self.is_debug:
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

    def call_soon_threadsafe(self, callback, *args, context=None):
        """See asyncio.loop.call_soon_threadsafe; from any thread, and from Python's signal handlers."""
        cdef Handle handle
        if self.is_loop_closed:
            raise RuntimeError("Event loop is closed")
        if self.is_debug:
            self.check_callback(callback, "call_soon_threadsafe")
        handle = ThreadSafeHandle.__new__(ThreadSafeHandle) if has_thread_safe_handles else Handle.__new__(Handle)
        self.fill_plain(handle, callback, args, context)
        if self.is_loop_closed:
            # closed meanwhile: the traceback of debug mode is made by Python code, between which threads change places
            raise RuntimeError("Event loop is closed")
        self.aio_context.ready.push(handle)
        self.aio_context.notifier.notify()
        return handle

    def call_later(self, delay, callback, *args, context=None):
        """See asyncio.loop.call_later; resolution is a nanosecond, never early."""
        if delay is None:
            raise TypeError("delay must not be None")
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
        handle.aio_context = PyContext_CopyCurrent() if context is None else context
        if self.is_debug:
            handle.debug_info = format_helpers.extract_stack(sys._getframe(0))
        handle.when_s = when_s
        handle.when_ns = as_ns(when_s)
        self.aio_context.timers.push(handle)
        return handle

    def time(self):
        """Seconds of time.monotonic()."""
        return <double>ul_monotonic_ns() / 1e9

    cdef int check_callback(self, object callback, str method) except -1:
        if coroutines.iscoroutine(callback) or inspect.iscoroutinefunction(callback):
            raise TypeError(f"coroutines cannot be used with {method}()")
        if not callable(callback):
            raise TypeError(f"a callable object was expected by {method}(), got {callback!r}")
        return 0

    def _add_callback(self, handle):
        """Queue a handle that somebody else made (asyncio's signal handling does)."""
        if handle.cancelled():
            return
        if not isinstance(handle, Handle) or type(handle) is events.Handle:
            handle = self.new_handle(handle._run, (), None)
        self.aio_context.ready.push(<Handle>handle)

    def _write_to_self(self):
        if self.aio_context is not None:
            self.aio_context.notifier.notify()

    def _timer_handle_cancelled(self, handle):
        """asyncio's TimerHandle would tell; ours tells its heap."""

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
            self.aio_context.n_polls += 1
            try:
                self.run_turns()
            finally:
                self.aio_context.n_polls -= 1
        finally:
            self.aio_context.wants_return = False
            self._run_forever_cleanup()

    cdef int run_turns(self) except -1:
        """Until stop(); what was written right before that, or before an exception, still goes out."""
        try:
            self.aio_context.wants_return = self.is_stopping
            while True:
                self.aio_context.turn(True)
                if self.is_stopping:
                    return 0
                if self.is_loop_closed:
                    raise RuntimeError("Event loop is closed: this process is a fork of the one that runs it")
        finally:
            if not self.aio_context.monitor.is_closed:
                self.aio_context.settle()

    def _run_once(self):
        """One turn, as asyncio's private method of this name."""
        self._check_closed()
        self.aio_context.begin_run()
        self.aio_context.turn(True)

    def stop(self):
        """See asyncio.loop.stop: the turn that runs is finished."""
        self.is_stopping = True
        if self.aio_context is not None:
            self.aio_context.wants_return = True

    def is_running(self):
        return self.running_thread is not None

    def is_closed(self):
        return self.is_loop_closed

    def _check_closed(self):
        if self.is_loop_closed:
            raise RuntimeError("Event loop is closed")

    def _check_thread(self):
        if self.running_thread is None:
            return
        if self.running_thread != PyThread_get_thread_ident():
            raise RuntimeError("Non-thread-safe operation invoked on an event loop other than the current one")

    def get_debug(self):
        return self.is_debug

    def _close_aio_context(self):
        """Close monitor and notifier; callbacks and timers are dropped."""
        self.fd_callbacks.clear()
        if self.aio_context is not None:
            self.aio_context.close()

    def _forget_aio_context(self):
        """In a fork child: see AioContext.forget."""
        self.is_loop_closed = True
        self.fd_callbacks.clear()
        if self.aio_context is not None:
            self.aio_context.forget()

    # -- watching fds ----------------------------------------------------------------------------------

    cdef int change(self, int fd, FdCallbacks old, Handle reader, Handle writer, object file) except -1:
        """Watch fd for these two from now on; no handle, no interest."""
        cdef FdCallbacks new = None
        cdef short kept = 0
        cdef short wanted = (POLLIN if reader is not None else 0) | (POLLOUT if writer is not None else 0)
        if old is None and isinstance(self.aio_context.monitor.handlers.get(fd), CallbackHandler):
            # as for a transport's; replaced without a word, its callbacks would never be called again
            raise RuntimeError(f"File descriptor {fd} is watched by AioContext.set_fd_handler(); remove that first")
        if wanted:
            new = FdCallbacks(fd, wanted)
            new.aio_context = self.aio_context
            new.reader = reader
            new.writer = writer
            new.file = old.file if old is not None and type(file) is int else file
        if old is not None and old.is_queued and new is not None:
            # An event that waits for dispatch stays with the callback it is for, or changing the other
            # direction in each turn would starve it.
            kept = ((~POLLOUT if old.reader is reader else 0) | (~POLLIN if old.writer is writer else 0)) & old.revents
            if old.reader is not reader:
                kept &= ~POLLIN
            if old.writer is not writer:
                kept &= ~POLLOUT
        try:
            self.aio_context.exchange_handler(old, new)
        except OSError:
            if old is not None and old.is_removed:
                self.forget_fd(old)
            raise
        if kept:
            self.aio_context.ready_list.append(new, kept)
        if new is not None:
            self.fd_callbacks[fd] = new
        else:
            self.fd_callbacks.pop(fd, None)
        return 0

    cdef int forget_fd(self, FdCallbacks old) except -1:
        """Nothing watches for these any more: their fd was closed, or is another file by now.

        They count as cancelled: who waits for one may find its place taken by others.
        """
        self.fd_callbacks.pop(old.fd, None)
        if old.reader is not None:
            old.reader.cancel()
        if old.writer is not None:
            old.writer.cancel()
        return 0

    cdef FdCallbacks watched(self, int fd):
        """Those of a number that is to be watched for more; None, too, for what the monitor has found to be closed.

        What was wanted of the old file must not be reported of the one that has its number now.
        """
        cdef FdCallbacks found = self.fd_callbacks.get(fd)
        if found is not None and found.is_removed:
            self.forget_fd(found)
            return None
        return found

    cdef int remove(self, FdCallbacks old, Handle reader, Handle writer) except -1:
        """Only these two are wanted from now on; an fd that was closed is an error if any is left, as in asyncio."""
        if old.is_removed and (reader is not None or writer is not None):
            self.forget_fd(old)
            raise OSError(EBADF, os.strerror(EBADF))
        return self.change(old.fd, old, reader, writer, old.file)

    cdef FdCallbacks callbacks_of(self, object fd):
        """Those of a number or file, or None; as by selectors also those of a file that has been closed."""
        cdef FdCallbacks one
        try:
            return self.fd_callbacks.get(as_fd(fd))
        except ValueError:
            for one in self.fd_callbacks.values():
                if one.file is fd:
                    return one
            raise

    def _add_reader(self, fd, callback, *args):
        cdef int number = as_fd(fd)
        cdef FdCallbacks old = self.watched(number)
        cdef Handle handle
        self._check_closed()
        handle = self.new_handle(callback, args, None)
        self.change(number, old, handle, old.writer if old is not None else None, fd)
        if old is not None and old.reader is not None:
            old.reader.cancel()
        return handle

    def _add_writer(self, fd, callback, *args):
        cdef int number = as_fd(fd)
        cdef FdCallbacks old = self.watched(number)
        cdef Handle handle
        self._check_closed()
        handle = self.new_handle(callback, args, None)
        self.change(number, old, old.reader if old is not None else None, handle, fd)
        if old is not None and old.writer is not None:
            old.writer.cancel()
        return handle

    def _remove_reader(self, fd):
        cdef FdCallbacks old
        if self.is_loop_closed:
            return False
        old = self.callbacks_of(fd)
        if old is None or old.reader is None:
            return False
        self.remove(old, None, old.writer)
        old.reader.cancel()
        return True

    def _remove_writer(self, fd):
        cdef FdCallbacks old
        if self.is_loop_closed:
            return False
        old = self.callbacks_of(fd)
        if old is None or old.writer is None:
            return False
        self.remove(old, old.reader, None)
        old.writer.cancel()
        return True

    def _watched_events(self, int fd):
        """EVENT_READ and EVENT_WRITE bits of selectors that fd is watched for, 0 for none."""
        cdef FdCallbacks found = self.fd_callbacks.get(fd)
        if found is None:
            return 0
        return (EVENT_READ if found.reader is not None else 0) | (EVENT_WRITE if found.writer is not None else 0)

    # -- raw requests: see raw.pyx, which is there in builds with liburing -----------------------------------

    @property
    def supports_sqe(self):
        """Whether add_sqe() works: this loop runs on io_uring."""
        return False

    def add_sqe(self, prep, *args, callback=None, keepalive=None, multishot=False):
        """Make an io_uring request; here there is none: SqeNotSupported."""
        self._check_closed()
        raise SqeNotSupported(self.aio_context.monitor.name, self.fdmon_reason)

    def add_sqes(self, chain, *, keepalive=None):
        """Make linked io_uring requests; here there are none: SqeNotSupported."""
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

        Also without debug mode; it costs two looks at the clock per callback while it is set, and nothing while it is
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
        cdef Stopwatch stopwatch = None
        if self.aio_context is None:
            return 0
        # Weak: a loop that is forgotten open goes, and warns, with its last reference, not when garbage is collected.
        loop = weakref.ref(self)
        if self.is_debug or self.slow_hook is not None:
            stopwatch = Stopwatch(lambda what, seconds: loop()._tell_slow(what, seconds), as_ns(self.slow_s))
        self.aio_context.run_handle_debug = (lambda handle: loop()._run_debug(handle)) if self.is_debug else None
        return self.aio_context.set_stopwatch(stopwatch)

    # -- asyncio's private names, kept true ------------------------------------------------------------

    @property
    def _debug(self):
        return self.is_debug

    @_debug.setter
    def _debug(self, enabled):
        self.is_debug = bool(enabled)
        self.follow_slowness()

    @property
    def _closed(self):
        return self.is_loop_closed

    @_closed.setter
    def _closed(self, value):
        self.is_loop_closed = value

    @property
    def _stopping(self):
        return self.is_stopping

    @_stopping.setter
    def _stopping(self, value):
        self.is_stopping = value
        if self.aio_context is not None:
            self.aio_context.wants_return = value

    @property
    def _thread_id(self):
        return self.running_thread

    @_thread_id.setter
    def _thread_id(self, value):
        self.running_thread = value


# -- the fast way in ---------------------------------------------------------------------------------------
#
# `def call_soon(self, callback, *args, context=None)` builds a tuple for every call.  The functions below take the
# arguments as the interpreter has them (METH_FASTCALL, PEP 590) and put up to two into the handle itself; whatever
# is not plain goes to the method above.

cdef extern from *:
    """
    static int ul_fast_method(PyObject *type, PyMethodDef *definition, void *function)
    {
        PyObject *method;
        int result;
        definition->ml_meth = (PyCFunction)function;
        method = PyDescr_NewMethod((PyTypeObject *)type, definition);
        if (method == NULL)
            return -1;
        result = PyDict_SetItemString(((PyTypeObject *)type)->tp_dict, definition->ml_name, method);
        PyType_Modified((PyTypeObject *)type);
        Py_DECREF(method);
        return result;
    }
    static PyMethodDef ul_call_soon = {"call_soon", NULL, METH_FASTCALL | METH_KEYWORDS,
        "call_soon($self, callback, *args, context=None)\\n--\\n\\nSee asyncio.loop.call_soon."};
    static PyMethodDef ul_call_later = {"call_later", NULL, METH_FASTCALL | METH_KEYWORDS,
        "call_later($self, delay, callback, *args, context=None)\\n--\\n\\n"
        "See asyncio.loop.call_later; resolution is a nanosecond, never early."};
    """
    struct PyMethodDef:
        pass
    int ul_fast_method(object type, PyMethodDef *definition, void *function) except -1
    PyMethodDef ul_call_soon, ul_call_later

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
        handle.aio_context = PyContext_CopyCurrent()
    else:
        handle.aio_context = <object>args[n_args]
    return 0


cdef inline bint is_plain(LoopCore loop, Py_ssize_t n_args, PyObject *names) noexcept:
    """At most two arguments, no keyword but `context`, no debug mode, loop open."""
    if loop.is_debug or loop.is_loop_closed or loop.has_own_time or n_args < 1 or n_args > 3:
        return False
    return names == NULL or names == known_names or is_context_only(names)


cdef bint is_context_only(PyObject *names) noexcept:
    """The one keyword is `context`; by value, since _asyncio's C code has a string of its own for it.

    The tuple that was seen last is kept: almost all calls come with the one of asyncio's tasks.
    """
    global known_names
    if PyTuple_GET_SIZE(<tuple>names) != 1 or PyUnicode_CompareWithASCIIString(
            <object>PyTuple_GET_ITEM(<tuple>names, 0), "context") != 0:
        return False
    Py_INCREF(<object>names)
    if known_names != NULL:
        Py_DECREF(<object>known_names)
    known_names = names
    return True


cdef object call_plain(object method, LoopCore loop, PyObject **args, Py_ssize_t n_args, PyObject *names):
    cdef Py_ssize_t i
    positional = [<object>args[i] for i in range(n_args)]
    keywords = {}
    if names != NULL:
        for i, name in enumerate(<tuple>names):
            keywords[name] = <object>args[n_args + i]
    return method(loop, *positional, **keywords)


cdef object fast_call_soon(LoopCore loop, PyObject **args, Py_ssize_t n_args, PyObject *names):
    cdef Handle handle
    if not is_plain(loop, n_args, names):
        return call_plain(plain_call_soon, loop, args, n_args, names)
    handle = loop.aio_context.ready.new_handle()
    fill_handle(loop, handle, args, n_args, names)
    loop.aio_context.ready.push(handle)
    return handle


cdef object fast_call_later(LoopCore loop, PyObject **args, Py_ssize_t n_args, PyObject *names):
    cdef TimerHandle handle
    cdef double when_s
    if not is_plain(loop, n_args - 1, names) or <object>args[0] is None:
        return call_plain(plain_call_later, loop, args, n_args, names)
    when_s = <double>ul_monotonic_ns() / 1e9 + <double><object>args[0]
    handle = TimerHandle.__new__(TimerHandle)
    fill_handle(loop, handle, args + 1, n_args - 1, names)
    handle.when_s = when_s
    handle.when_ns = as_ns(when_s)
    loop.aio_context.timers.push(handle)
    return handle


ul_fast_method(LoopCore, &ul_call_soon, <void *>fast_call_soon)
ul_fast_method(LoopCore, &ul_call_later, <void *>fast_call_later)


cdef inline int64_t as_ns(double when_s) noexcept:
    """Rounded up, so that loop.time() >= when() holds when the timer fires."""
    if when_s >= FARTHEST_S:
        return FARTHEST_NS
    return <int64_t>ceil(when_s * 1e9) + 1 if when_s > 0 else 0


cdef int as_fd(object fd) except -1:
    """A file descriptor from an int or an object with fileno(); asyncio's exceptions."""
    cdef int number
    if type(fd) is int:
        if fd < 0:
            raise ValueError(f"Invalid file descriptor: {fd}")
        number = fd
        return number
    return selectors._fileobj_to_fd(fd)

"""Cancellable callbacks: what asyncio calls Handle and TimerHandle, run by the context.

`__class__` names asyncio's class, so that isinstance() holds; a subclass of asyncio.Handle itself cannot be a cdef
class, because asyncio.Handle has __slots__ (layout conflict).

Thread: the loop's, except `cancel` of a not yet started handle, which any thread may call as in asyncio.
"""

cimport cython
from cpython.contextvars cimport PyContext_CopyCurrent
from cpython.ref cimport PyObject
from cpython.tuple cimport PyTuple_GET_SIZE

from ..support.assertions cimport is_none, must, must_if
from ..support.capi cimport PY_VECTORCALL_ARGUMENTS_OFFSET, PyObject_Vectorcall, decref, error_is_set
from ..support.probes cimport ul_probe_callback, ul_probe_returned

import asyncio
import asyncio.events
import sys
from _thread import RLock  # the C type: threading.RLock is a Python function around it

from asyncio import format_helpers

cdef extern from "Python.h":
    """
    #define UL_TUPLE_ITEMS(tuple) (&PyTuple_GET_ITEM((tuple), 0))
    static PyObject *ul_current_context(void)
    {
        PyObject *context = PyThreadState_Get()->context;
        return Py_NewRef(context == NULL ? Py_None : context);
    }
    """
    PyObject **UL_TUPLE_ITEMS(object)
    object ul_current_context()
    int enter_free "PyContext_Enter"(object) except -1

_asyncio_handle = asyncio.events.Handle
_asyncio_timer_handle = asyncio.events.TimerHandle
_asyncio_thread_safe_handle = getattr(asyncio.events, "_ThreadSafeHandle", asyncio.events.Handle)
# Newer versions of asyncio show arguments, which may be secret, in debug mode only.
cdef bint hides_arguments = bool(format_helpers._format_callback_source.__kwdefaults__)


# -- contexts in nested turns -------------------------------------------------------------------------------
#
# A context cannot be entered twice.  A nested turn, though, may have to call code in a context that a frame further
# down on the stack is in: the same connection's protocol, or a task that shares its context with the one that waits.
# Then the contexts from there up are left, and entered again after the call.

cdef list enter_entered(object context):
    """enter_context(), whose error is set."""
    cdef object problem = None
    cdef list left
    try:
        error_is_set()
    except BaseException as error:
        problem = error
    left = leave_down_to(context)
    if left is None:
        raise problem
    enter_free(context)
    return left


cdef list leave_down_to(object context):
    """Leave the contexts of this stack down to and including this one; None if it is not among them.

    The list is for enter_again().
    """
    cdef list left = []
    cdef object current = ul_current_context()
    while current is not None:
        try:
            PyContext_Exit(current)
        except RuntimeError:
            break  # the thread's first one was never entered
        left.append(current)
        if current is context:
            return left
        current = ul_current_context()
    enter_again(left)
    return None


cdef int enter_again(list left) except -1:
    while left:
        enter_free(left.pop())
    return 0


cdef object described_call(object loop, object callback, object arguments):
    """In asyncio's words."""
    if hides_arguments:
        return format_helpers._format_callback_source(callback, arguments, debug=loop.get_debug())
    return format_helpers._format_callback_source(callback, arguments)


cdef class Guarded:
    """The base of a loop, in which a Handle finds the guard of its context: see support/guard.h."""


cdef class TimerOwner:
    """The holder of scheduled timers (aio/timers); a separate base class keeps the modules a tree."""

    cdef void handle_cancelled(self) noexcept:
        """A timer that is scheduled here was cancelled."""


@cython.freelist(1024)
cdef class Handle:
    """A callback that will be called once, unless cancelled.  See asyncio.Handle.

    Parameters: as asyncio.Handle: callback, args (tuple), loop, context.
    """

    def __init__(self, callback, args, loop, context=None):
        self.callback = callback
        self.args = tuple(args)
        self.n_args = -1
        self.loop = loop
        self.context = PyContext_CopyCurrent() if context is None else context
        if loop.get_debug():
            self.debug_info = format_helpers.extract_stack(sys._getframe(0))

    @property
    def __class__(self):
        return _asyncio_handle

    cdef int run(self) except -1:
        """Call it; exceptions go to the loop's handler, SystemExit and KeyboardInterrupt through."""
        cdef PyObject *stack[3]
        cdef object callback, context, first, second
        cdef PyObject *result
        if self.is_cancelled:
            return 0
        must(self.n_args >= -1, "the arguments of a handle are counted, or -1: in a tuple")
        must(self.n_args <= 2, "no more than two arguments are kept without a tuple")
        must_if(self.n_args < 0, not is_none(<void *>self.args),
                "a handle without a count has its arguments in a tuple")
        # own references: the callback may cancel its own handle
        callback, context = self.callback, self.context
        ul_probe_callback(<void *>self, <void *>callback)
        if self.n_args < 0:
            return self.run_with_tuple(callback, self.args, context)
        first, second = self.first, self.second
        # stack[0] is scratch space for the callee: a bound method puts its self there
        stack[1] = <PyObject *>first
        stack[2] = <PyObject *>second
        if PyContext_Enter(context) < 0:
            return self.refused(callback)
        result = PyObject_Vectorcall(callback, &stack[1], self.n_args | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL)
        ul_probe_returned(<void *>self)
        if result != NULL:
            decref(result)
            return PyContext_Exit(context)
        return self.failed(callback, context)

    cdef int run_with_tuple(self, object callback, object args, object context) except -1:
        cdef PyObject *result
        if PyContext_Enter(context) < 0:
            return self.refused(callback)
        result = PyObject_Vectorcall(callback, UL_TUPLE_ITEMS(args), PyTuple_GET_SIZE(args), NULL)
        ul_probe_returned(<void *>self)
        if result != NULL:
            decref(result)
            return PyContext_Exit(context)
        return self.failed(callback, context)

    cdef int refused(self, object callback) except -1:
        """The context could not be entered (entered already, or not a context): report it as a failing callback."""
        cdef object problem = None
        cdef list left = None
        try:
            error_is_set()
        except BaseException as error:
            problem = error
        if getattr(self.loop, "_n_nested", 0):
            left = leave_down_to(self.context)
        if left is None:
            self.report(problem, callback)
            return 0
        try:
            return Handle.run(self)  # a bottom half's own run() called this, and would find nothing scheduled
        finally:
            enter_again(left)

    cdef int failed(self, object callback, object context) except -1:
        """The callback raised: the way out of run() that need not be fast."""
        # Within the except clause: an exception of the handler has the callback's exception as its context, and
        # sys.exception() returns that.  After the context was left: the exception handler enters it again.
        try:
            error_is_set()
        except (SystemExit, KeyboardInterrupt):
            PyContext_Exit(context)
            raise
        except BaseException as error:
            PyContext_Exit(context)
            self.report(error, callback)
        return 0

    cdef int report(self, object error, object callback) except -1:
        """Hand an exception of the callback to the loop's exception handler, in asyncio's words."""
        described = described_call(self.loop, callback, self.arguments() or ())
        details = {"message": f"Exception in callback {described}", "exception": error, "handle": self}
        if self.debug_info:
            details["source_traceback"] = self.debug_info
        self.loop.call_exception_handler(details)
        return 0

    cdef object arguments(self):
        """The arguments as a tuple; None after cancel."""
        if self.n_args >= 0 and self.args is None and not self.is_cancelled:
            self.args = () if self.n_args == 0 else ((self.first,) if self.n_args == 1 else (self.first, self.second))
        return self.args

    def _run(self):
        """Run the callback now, in its context; exceptions go to the loop's exception handler."""
        self.run()

    def cancel(self):
        """The callback will not be called; no effect on one that runs or ran."""
        self.do_cancel()

    cdef int do_cancel(self) except -1:
        if self.is_cancelled:
            return 0
        self.is_cancelled = True
        if self.timers is not None:
            self.timers.handle_cancelled()
        if self.debug_info is not None:
            # asyncio keeps the repr in debug mode, since callback and arguments are dropped.  Last: may run user code.
            self.debug_info = repr(self)
        self.callback = self.first = self.second = self.args = None
        must(self.is_cancelled, "a handle that was cancelled stays so")
        return 0

    def cancelled(self):
        return self.is_cancelled

    def get_context(self):
        return self.context

    @property
    def _callback(self):
        return self.callback

    @property
    def _args(self):
        return self.arguments()

    @property
    def _cancelled(self):
        return self.is_cancelled

    @property
    def _context(self):
        return self.context

    @property
    def _loop(self):
        return self.loop

    @property
    def _source_traceback(self):
        return None if type(self.debug_info) is str else self.debug_info

    @_source_traceback.setter
    def _source_traceback(self, value):
        self.debug_info = value

    def _repr_info(self):
        info = [self.__class__.__name__]
        if self.is_cancelled:
            info.append("cancelled")
        if self.callback is not None:
            info.append(described_call(self.loop, self.callback, self.arguments()))
        if self.debug_info and type(self.debug_info) is not str:
            frame = self.debug_info[-1]
            info.append(f"created at {frame[0]}:{frame[1]}")
        return info

    def __repr__(self):
        if type(self.debug_info) is str:
            return self.debug_info
        return "<{}>".format(" ".join(self._repr_info()))


cdef class ThreadSafeHandle(Handle):
    """The handle that call_soon_threadsafe returns since Python 3.14.

    cancel() in another thread waits while the callback runs, so that afterwards it either has run or never will.
    """

    def __cinit__(self):
        self.lock = RLock()

    @property
    def __class__(self):
        return _asyncio_thread_safe_handle

    cdef int run(self) except -1:
        with self.lock:
            return Handle.run(self)

    cdef int do_cancel(self) except -1:
        with self.lock:
            return Handle.do_cancel(self)

    def cancelled(self):
        with self.lock:
            return self.is_cancelled


cdef class TimerHandle(Handle):
    """A callback with a time.  See asyncio.TimerHandle."""

    @property
    def __class__(self):
        return _asyncio_timer_handle

    def when(self):
        """The scheduled time in seconds, on the clock of loop.time()."""
        return self.when_s

    @property
    def _when(self):
        return self.when_s

    @property
    def _scheduled(self):
        return self.timers is not None

    def _repr_info(self):
        info = Handle._repr_info(self)
        info.insert(2 if self.is_cancelled else 1, f"when={self.when_s}")
        return info

    def __hash__(self):
        return hash(self.when_s)

    def __lt__(self, other):
        return self.when_s < other._when if isinstance(other, _asyncio_timer_handle) else NotImplemented

    def __le__(self, other):
        if not isinstance(other, _asyncio_timer_handle):
            return NotImplemented
        return self.when_s < other._when or self.__eq__(other)

    def __gt__(self, other):
        return self.when_s > other._when if isinstance(other, _asyncio_timer_handle) else NotImplemented

    def __ge__(self, other):
        if not isinstance(other, _asyncio_timer_handle):
            return NotImplemented
        return self.when_s > other._when or self.__eq__(other)

    def __eq__(self, other):
        if not isinstance(other, _asyncio_timer_handle):
            return NotImplemented
        return (self.when_s == other._when and self._callback == other._callback and self._args == other._args
                and self._cancelled == other._cancelled)

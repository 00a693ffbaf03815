"""Cancellable callbacks: what asyncio calls Handle and TimerHandle, run by the context.

`__class__` names asyncio's class, so that isinstance() holds; a subclass of asyncio.Handle itself cannot be a cdef
class, because asyncio.Handle has __slots__ (layout conflict).

Thread: the loop's, except `cancel` of a not yet started handle, which any thread may call as in asyncio.
"""

cimport cython
from libc.stdint cimport int64_t
from cpython.ref cimport PyObject
from cpython.tuple cimport PyTuple_GET_SIZE

import asyncio
import asyncio.events
import sys

from asyncio import format_helpers

cdef extern from "Python.h":
    """
    #define UL_TUPLE_ITEMS(tuple) (&PyTuple_GET_ITEM((tuple), 0))
    """
    PyObject **UL_TUPLE_ITEMS(object)
    object PyObject_Vectorcall(object callable, PyObject **args, size_t n_args, PyObject *names)
    object PyObject_CallNoArgs(object callable)
    int PyContext_Enter(object) except -1
    int PyContext_Exit(object) except -1
    object PyContext_CopyCurrent()

_asyncio_handle = asyncio.events.Handle
_asyncio_timer_handle = asyncio.events.TimerHandle


@cython.freelist(512)
cdef class Handle:
    """A callback that will be called once, unless cancelled.  See asyncio.Handle.

    Parameters: as asyncio.Handle: callback, args (tuple), loop, context.
    """

    def __init__(self, callback, args, loop, context=None):
        self.callback = callback
        self.args = tuple(args)
        self.loop = loop
        self.aio_context = PyContext_CopyCurrent() if context is None else context
        if loop.get_debug():
            self.source_traceback = format_helpers.extract_stack(sys._getframe(0))

    @property
    def __class__(self):
        return _asyncio_handle

    cdef int run(self) except -1:
        """Call it; exceptions go to the loop's handler, SystemExit and KeyboardInterrupt through."""
        cdef Py_ssize_t n_args
        cdef object callback, args, aio_context
        if self.is_cancelled:
            return 0
        # own references: the callback may cancel its own handle
        callback, args, aio_context = self.callback, self.args, self.aio_context
        n_args = PyTuple_GET_SIZE(args)
        PyContext_Enter(aio_context)
        try:
            if n_args == 0:
                PyObject_CallNoArgs(callback)
            else:
                PyObject_Vectorcall(callback, UL_TUPLE_ITEMS(args), n_args, NULL)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.report(error, callback, args)
        finally:
            PyContext_Exit(aio_context)
        return 0

    def report(self, error, callback, args):
        """Hand an exception of the callback to the loop's exception handler, in asyncio's words."""
        described = format_helpers._format_callback_source(callback, args)
        details = {"message": f"Exception in callback {described}", "exception": error, "handle": self}
        if self.source_traceback:
            details["source_traceback"] = self.source_traceback
        self.loop.call_exception_handler(details)

    def _run(self):
        """Run the callback now, in its context; exceptions go to the loop's exception handler."""
        self.run()

    def cancel(self):
        """The callback will not be called; no effect on one that runs or ran."""
        if not self.is_cancelled:
            self.is_cancelled = True
            if self.loop is not None and self.loop.get_debug():
                # asyncio keeps the repr, since callback and args go
                self.repr_text = repr(self)
            self.callback = None
            self.args = None

    def cancelled(self):
        return self.is_cancelled

    def get_context(self):
        return self.aio_context

    @property
    def _callback(self):
        return self.callback

    @property
    def _args(self):
        return self.args

    @property
    def _cancelled(self):
        return self.is_cancelled

    @property
    def _context(self):
        return self.aio_context

    @property
    def _loop(self):
        return self.loop

    @property
    def _source_traceback(self):
        return self.source_traceback

    @_source_traceback.setter
    def _source_traceback(self, value):
        self.source_traceback = value

    def _repr_info(self):
        info = ["Handle"]
        if self.is_cancelled:
            info.append("cancelled")
        if self.callback is not None:
            info.append(format_helpers._format_callback_source(self.callback, self.args))
        if self.source_traceback:
            frame = self.source_traceback[-1]
            info.append(f"created at {frame[0]}:{frame[1]}")
        return info

    def __repr__(self):
        if self.repr_text is not None:
            return self.repr_text
        return "<{}>".format(" ".join(self._repr_info()))


cdef class TimerHandle(Handle):
    """A callback with a time.  See asyncio.TimerHandle."""

    @property
    def __class__(self):
        return _asyncio_timer_handle

    def cancel(self):
        if not self.is_cancelled:
            if self.is_scheduled:
                self.timers.handle_cancelled()
            Handle.cancel(self)

    def when(self):
        """The scheduled time in seconds, on the clock of loop.time()."""
        return self.when_s

    @property
    def _when(self):
        return self.when_s

    @property
    def _scheduled(self):
        return self.is_scheduled

    def _repr_info(self):
        info = Handle._repr_info(self)
        info[0] = "TimerHandle"
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

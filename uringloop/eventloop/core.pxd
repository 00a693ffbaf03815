# Everything of the asyncio loop that runs once per callback.
from ..aio.handles cimport Handle, TimerHandle
from .watching cimport FdWatching

cdef class LoopCore(FdWatching):
    cdef bint is_stopping
    cdef bint is_debug
    cdef bint has_own_time           # loop.time was replaced or overridden: timers follow it
    cdef object running_thread       # ident of the thread in run_forever, or None
    cdef double slow_s               # slow_callback_duration
    cdef object slow_hook            # slow_callback_hook, or None
    cdef object __weakref__
    cdef int run_turns(self) except -1
    cdef int follow_time(self) except -1
    cdef int follow_slowness(self) except -1
    cdef int fill_plain(self, Handle handle, object callback, object args, object context) except -1
    cdef int check_callback(self, object callback, str method) except -1
    cdef TimerHandle schedule(self, double when_s, object callback, object args, object context, str method)

# Everything of the asyncio loop that runs once per callback.
from ..aio.context cimport AioContext
from ..aio.handles cimport Handle, TimerHandle
from ..fdmon.base cimport FdHandler

cdef class FdCallbacks(FdHandler):
    cdef AioContext aio_context
    cdef Handle reader               # of add_reader, or None
    cdef Handle writer               # of add_writer, or None
    cdef object file                 # what was to be watched: a number, or an object with fileno()

cdef class LoopCore:
    cdef readonly AioContext aio_context   # owned; None before __init__
    cdef bint is_loop_closed
    cdef bint is_stopping
    cdef bint is_debug
    cdef bint has_own_time           # loop.time was replaced or overridden: timers follow it
    cdef object running_thread       # ident of the thread in run_forever, or None
    cdef double slow_s               # slow_callback_duration
    cdef object slow_hook            # slow_callback_hook, or None
    cdef dict fd_callbacks           # fd -> FdCallbacks
    cdef object __weakref__
    cdef int run_turns(self) except -1
    cdef int follow_time(self) except -1
    cdef int follow_slowness(self) except -1
    cdef Handle new_handle(self, object callback, object args, object context)
    cdef int fill_plain(self, Handle handle, object callback, object args, object context) except -1
    cdef int check_callback(self, object callback, str method) except -1
    cdef TimerHandle schedule(self, double when_s, object callback, object args, object context, str method)
    cdef int change(self, int fd, FdCallbacks old, Handle reader, Handle writer, object file) except -1
    cdef int forget_fd(self, FdCallbacks old) except -1
    cdef FdCallbacks watched(self, int fd)
    cdef int remove(self, FdCallbacks old, Handle reader, Handle writer) except -1
    cdef FdCallbacks callbacks_of(self, object fd)

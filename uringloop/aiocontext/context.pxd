# The public AioContext.
from ..aio.context_core cimport ContextCore
from ..aio.poll_handlers cimport PollHandler

cdef class AioContext(ContextCore):
    cdef int check_use(self) except -1
    cdef int set_poll_callbacks(self, PollHandler handler, object io_poll, object io_poll_ready) except -1

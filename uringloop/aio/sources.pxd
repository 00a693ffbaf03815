# The public AioContext.
from .context cimport ContextCore
from .poll_handlers cimport PollHandler

cdef class AioContext(ContextCore):
    cdef int check_use(self) except -1
    cdef int set_poll_callbacks(self, PollHandler handler, object io_poll, object io_poll_ready) except -1

from .base cimport FDMonitor

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents

cdef class PollMonitor(FDMonitor):
    cdef pollfd *fds          # one slot per handler with interest; owned
    cdef list slots           # the FdHandler of each slot
    cdef size_t capacity
    cdef bint is_stale        # fds and slots must be rebuilt from handlers
    cdef int rebuild(self) except -1

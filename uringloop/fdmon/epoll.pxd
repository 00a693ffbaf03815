from libc.stdint cimport uint64_t
from cpython.ref cimport PyObject

from .base cimport FDMonitor, FdHandler, ReadyList

cdef extern from "<sys/epoll.h>" nogil:
    union epoll_data:
        uint64_t u64
    struct epoll_event:
        unsigned events
        epoll_data data

cdef class EpollMonitor(FDMonitor):
    cdef int epoll_fd            # owned, -1 when closed
    cdef bint has_pwait2         # nanosecond timeouts
    cdef PyObject **by_fd        # fd -> the handler of that fd, borrowed from `handlers`; owned array
    cdef int by_fd_capacity
    cdef unsigned n_registrations
    cdef int create(self) except -1
    cdef int withdraw(self, FdHandler handler) except -1
    cdef int replace_set(self) except -1
    cdef int collect(self, ReadyList ready_list) except -1
    cdef int reserve(self, int fd) except -1
    cdef int control(self, int operation, FdHandler handler) noexcept
    cdef int report(self, ReadyList ready_list, int n_ready, const epoll_event *events) except -1

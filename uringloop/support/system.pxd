# Numbers of the system's headers that several modules use.  Python.h enables all of them (_GNU_SOURCE).

cdef extern from "<poll.h>" nogil:
    enum:
        POLLIN
        POLLPRI
        POLLOUT
        POLLERR
        POLLHUP
        POLLNVAL
        POLLRDHUP

cdef extern from "<limits.h>" nogil:
    enum:
        IOV_MAX     # parts per sendmsg(2): more is EINVAL

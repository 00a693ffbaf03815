# Numbers of the system's headers.  Python.h enables all of them (_GNU_SOURCE).

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

cdef extern from "<fcntl.h>" nogil:
    enum:
        AT_FDCWD
        AT_EMPTY_PATH
        AT_REMOVEDIR
        AT_SYMLINK_FOLLOW
        AT_SYMLINK_NOFOLLOW
        AT_STATX_DONT_SYNC  # locally known values, without a request to a server

cdef extern from "../support/statx.h" nogil:
    enum:
        STATX_BASIC_STATS   # what stat(2) has

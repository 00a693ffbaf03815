# The socket of a stream transport: its fd, its names, and the Python object for it on demand.
from libc.stdint cimport uint64_t

from .wire cimport WireEnd

cdef class Kind:
    cdef readonly object family        # the plain numbers: an enum member costs more than accept(2) when it is made
    cdef readonly object type
    cdef readonly object proto
    cdef readonly object sockname      # the name that all connections share: AF_UNIX; None if it is read on demand
    cdef readonly bint is_known        # the family's names are converted here

cdef class Connection:
    cdef readonly Kind kind
    cdef object peername               # None where the kernel no longer has it, the family is not known here, or
    cdef uint64_t peer_four            # it is an IPv4 name: packed (transports/addresses); else 0
    cdef int fd                        # owned; -1 once it is taken

cdef class Endpoint(WireEnd):
    cdef object kind                   # Kind of an accepted connection; None if it began as a Python socket
    cdef uint64_t peer_four            # packed IPv4 name of the peer, until `extra` has it; or 0
    cdef int take_connection(self, Connection connection) except -1
    cdef object python_socket(self)
    cdef int complete_extra(self) except -1
    cdef int unpack_peername(self) except -1
    cdef int share(self) except -1
    cdef int close_fd(self) except -1

cdef Connection connection_of(int fd, Kind kind)
cpdef Connection accept(int fd, Kind kind)

# What stream and datagram transports have in common.
from cpython.ref cimport PyObject

from ..aio.context_core cimport ContextCore, Flushable
from ..support.flag cimport flag

cdef class Transport(Flushable):
    cdef object loop                    # the asyncio loop; None after connection_lost
    cdef ContextCore aio_context
    cdef object protocol                # None after connection_lost
    cdef dict extra                     # of get_extra_info
    cdef object sock                    # the Python socket, which owns the fd; None until it is made, and when closed
    cdef const int *fd_at               # where the socket's number is now: see number_in
    cdef TransportTable table           # knows it by its number, until it is closed; or None
    cdef Py_ssize_t high_bytes          # limits of the write buffer
    cdef Py_ssize_t low_bytes
    cdef int table_fd                   # its number there
    cdef int fd                         # streams: -1 when closed; datagrams: stays for repr(), -1 after __del__
    cdef int conn_lost                  # connection_lost is scheduled; then writes after that, for asyncio's warning
    cdef flag is_shared                 # the program may use the socket itself: nothing waits for the end of the turn
    cdef flag is_closing_               # close or abort was called, or the connection failed
    cdef flag is_paused                 # by pause_reading
    cdef flag is_protocol_paused        # pause_writing was called
    cdef int pause_protocol(self) except -1
    cdef int resume_protocol(self) except -1
    cdef int force_close(self, object error) except -1
    cdef int fatal_error(self, object error, str message) except -1
    cdef void leave_table(self) noexcept

cdef class TransportTable:
    cdef PyObject **by_fd              # fd -> the Transport that has it, borrowed, or NULL; owned array
    cdef int capacity                  # of by_fd
    cdef object guard                  # of the loop's context; see support/guard.h
    cdef dict others                   # fd -> weak reference to a transport that is not one of ours; None without one
    cdef int reserve(self, int fd) except -1
    cdef list fds(self)

cdef int call_flow_control(object loop, object transport, object protocol, str name, object owner) except -1

cdef int warn_unclosed(object transport) except -1

cdef const int *number_in(object sock, int fd) noexcept

cdef bint has_lost(object sock, int fd) noexcept

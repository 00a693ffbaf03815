# What stream and datagram transports have in common.
from ..aio.context_core cimport ContextCore, Flushable

cdef class Transport(Flushable):
    cdef object loop                    # the asyncio loop; None after connection_lost
    cdef ContextCore aio_context
    cdef object protocol                # None after connection_lost
    cdef dict extra                     # of get_extra_info
    cdef object sock                    # the Python socket, which owns the fd; None until it is made, and when closed
    cdef int fd                         # streams: -1 when closed; datagrams: stays for repr(), -1 after __del__
    cdef const int *fd_at               # where the socket's number is now: see number_in
    cdef int conn_lost                  # connection_lost is scheduled; then writes after that, for asyncio's warning
    cdef bint is_shared                 # the program may use the socket itself: nothing waits for the end of the turn
    cdef bint is_closing_               # close or abort was called, or the connection failed
    cdef bint is_paused                 # by pause_reading
    cdef bint is_protocol_paused        # pause_writing was called
    cdef Py_ssize_t high_bytes          # limits of the write buffer
    cdef Py_ssize_t low_bytes
    cdef int pause_protocol(self) except -1
    cdef int resume_protocol(self) except -1
    cdef int force_close(self, object error) except -1
    cdef int fatal_error(self, object error, str message) except -1

cdef int call_flow_control(object loop, object transport, object protocol, str name, object owner) except -1

cdef int warn_unclosed(object transport) except -1

cdef const int *number_in(object sock, int fd) noexcept

cdef bint has_lost(object sock, int fd) noexcept

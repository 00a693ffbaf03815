# asyncio's face of a datagram socket.
from ...aio.context cimport AioContext, Flushable
from .packets cimport Batch, DatagramQueue

cdef class DatagramTransport(Flushable):
    cdef object loop                    # the asyncio loop; None after connection_lost
    cdef AioContext aio_context
    cdef object protocol                # None after connection_lost
    cdef object extra                   # dict of get_extra_info
    cdef object sock                    # the Python socket, which owns the fd; None when closed
    cdef object address                 # remote_addr, or None
    cdef readonly int fd                # of sock; the number stays for the repr; -1 after __del__
    cdef const int *fd_at               # where the socket's number is now: see transports/stream/endpoint
    cdef bint is_shared                 # the program may act on the socket itself: everything is sent at once
    cdef object reader                  # the Handle of _add_reader while reading, and after; or None
    cdef object writer                  # that of _add_writer, in the same way
    cdef int family                     # of sock: what addresses to send to are read as
    cdef int kernel_family              # what the kernel says: how it is received
    cdef bint is_internet               # family is AF_INET or AF_INET6
    cdef bint is_connected              # the socket has a peer: everything is sent there
    cdef int conn_lost                  # connection_lost is scheduled; then sends after that, for asyncio's warning
    cdef bint is_closing_               # close or abort was called, or the endpoint failed
    cdef bint is_paused                 # by pause_reading
    cdef bint is_protocol_paused        # pause_writing was called
    cdef bint is_blocked                # the kernel had no room: the fd is watched for it
    cdef bint has_scheduled_news
    cdef object sending_context         # a copy of the one in which sendto() was called since the last flush; or None
    cdef Py_ssize_t high_bytes
    cdef Py_ssize_t low_bytes
    cdef list errors                    # of sending, that the protocol was not told of yet
    cdef Batch batch                    # received, not delivered
    cdef DatagramQueue queue            # to send; not empty while blocked
    cdef int receive(self) except -1
    cdef int receive_by_python(self) except -1
    cdef int deliver(self) except -1
    cdef int report_failure(self) except -1
    cdef int send_now(self, object data) except -1
    cdef int send_some(self) except -1
    cdef int send_by_python(self, object data, object address) except? -1
    cdef int wait_for_room(self) except -1
    cdef int stop_waiting(self) except -1
    cdef int start_reading(self) except -1
    cdef int stop_reading(self) except -1
    cdef int send_queued(self) except -1
    cdef int tell_errors(self) except -1
    cdef int schedule_news(self) except -1
    cdef int pause_if_full(self) except -1
    cdef int resume_if_drained(self) except -1
    cdef int end_if_sent(self) except -1
    cdef int call_flow_control(self, str name) except -1
    cdef int lose(self, object error) except -1
    cdef int force_close(self, object error) except -1
    cdef int fatal_error(self, object error, str message) except -1

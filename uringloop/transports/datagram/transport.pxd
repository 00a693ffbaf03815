# asyncio's interface to a datagram socket.
from ..base cimport Transport
from .packets cimport Batch, DatagramQueue

cdef class DatagramTransport(Transport):
    cdef object address                 # remote_addr, or None
    cdef object reader                  # the Handle of _add_reader while reading, and after; or None
    cdef object writer                  # that of _add_writer, in the same way
    cdef int family                     # of sock: destination addresses are read as this
    cdef int kernel_family              # according to the kernel: decides how to receive
    cdef bint is_internet               # family is AF_INET or AF_INET6
    cdef bint is_connected              # the socket has a peer: everything is sent there
    cdef bint is_blocked                # the kernel had no room: the fd is watched for it
    cdef bint has_scheduled_report
    cdef object sending_context         # a copy of the one in which sendto() was called since the last flush; or None
    cdef list errors                    # of sending, not reported to the protocol yet
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
    cdef int report_errors(self) except -1
    cdef int schedule_report(self) except -1
    cdef int pause_if_full(self) except -1
    cdef int resume_if_drained(self) except -1
    cdef int end_if_sent(self) except -1
    cdef int lose(self, object error) except -1

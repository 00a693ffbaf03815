# asyncio's interface to a connected stream socket.
from ...aio.context_core cimport ContextCore
from ...support.flag cimport flag
from .endpoint cimport Endpoint

cdef class StreamTransport(Endpoint):
    cdef object server                  # asyncio.Server or None
    cdef object given_context           # the contextvars.Context to call the protocol in, or None: copies, then
    cdef object made_waiter             # future that is done when connection_made was called, or None
    cdef object empty_waiter            # future of sendfile, done when the queue is empty
    cdef flag is_drained                # the protocol is of asyncio.streams: see is_closing()
    cdef flag is_eof_written            # by write_eof
    cdef flag is_being_made             # connection_made is called, and nothing is read yet
    cdef flag is_started                # connection_made was called
    cdef flag is_connected              # connection_made was called and connection_lost was not
    cdef flag has_eof_received          # the peer closed its side and the protocol keeps ours open
    cdef flag has_scheduled_report
    cdef int setup(self, object loop, ContextCore aio_context, object protocol, object server,
                   object context) except -1
    cdef int start(self, object connection_made, object waiter) except -1
    cdef int set_protocol_(self, object protocol) except -1
    cdef int pause_if_full(self) except -1
    cdef int resume_if_drained(self) except -1
    cdef int finish_sent(self) except -1
    cdef int send_queued(self) except -1
    cdef int send_drained(self) except -1
    cdef int refuse_write(self, object data) except -1
    cdef int buffered_arrived(self, const char *data, Py_ssize_t n_bytes) except -1
    cdef int call_data_received(self, bytes data) except -1
    cdef int arrive_behind_rest(self, const char *data, Py_ssize_t n_bytes) except -1
    cdef int deliver_rest_and_held(self) except -1
    cdef int may_read(self) except -1
    cdef int write_chunk(self, bytes chunk) except -1

cdef int attach_to(object server, object client) except -1

cdef int detach_from(object server, object client) except -1

cdef int replace_client(object server, object old, object new) except -1

# TLS between an application's protocol and any stream transport.
from ...aio.context_core cimport Resumable
from .engine cimport TlsEngine

cdef class TlsProtocol(Resumable):
    cdef object __weakref__
    cdef object guard                   # the loop's; see support/guard.h
    cdef object loop
    cdef TlsEngine engine
    cdef object transport               # the transport below; None before connection_made and after connection_lost
    cdef object app_protocol            # None after connection_lost
    cdef bint is_drained                # the protocol is of asyncio.streams: see is_closing() of the stream transport
    cdef object app_get_buffer          # bound methods of a BufferedProtocol, else None
    cdef object app_buffer_updated
    cdef object app_transport           # the TlsTransport; None after connection_lost
    cdef object waiter                  # future that is done once the handshake is, or None
    cdef object sslcontext
    cdef object extra                   # dict of get_extra_info
    cdef object backlog                 # deque of bytes objects that are not encrypted yet
    cdef Py_ssize_t backlog_offset      # bytes of its first chunk that are encrypted
    cdef Py_ssize_t backlog_bytes       # not encrypted yet
    cdef object handshake_timeout       # seconds
    cdef object shutdown_timeout
    cdef object handshake_timer         # TimerHandle or None
    cdef object shutdown_timer
    cdef double handshake_started       # loop.time() in debug mode, else 0
    cdef int state                      # one of TlsState
    cdef int app_state                  # one of AppState
    cdef int conn_lost                  # writes after the end, for asyncio's warning
    cdef bint is_app_reading_paused     # by the application
    cdef bint is_reading_paused         # by us, of the transport below
    cdef bint is_app_writing_paused     # pause_writing of the application was called
    cdef bint is_writing_paused         # the transport below called pause_writing
    cdef bint has_eof_received
    cdef bint is_app_closed             # the application closed or aborted, or the connection was lost
    cdef bint is_closed_again           # close() was called on a closed transport
    cdef Py_ssize_t read_high_bytes
    cdef Py_ssize_t read_low_bytes
    cdef Py_ssize_t write_high_bytes
    cdef Py_ssize_t write_low_bytes
    cdef int set_state(self, int state) except -1
    cdef int set_app_protocol(self, object protocol) except -1
    cdef int wake_waiter(self, object error) except -1
    cdef int start_handshake(self) except -1
    cdef int do_handshake(self) except -1
    cdef int handshake_ended(self, object error) except -1
    cdef int start_shutdown(self) except -1
    cdef int close(self) except -1
    cdef int do_flush(self) except -1
    cdef int do_shutdown(self) except -1
    cdef int shutdown_ended(self, object error) except -1
    cdef int abort(self, object error) except -1
    cdef int write_app_data(self, object chunks, Py_ssize_t n_bytes) except -1
    cdef int do_write(self, bint is_last) except -1
    cdef int encrypt_backlog(self, bint is_last) except -1
    cdef int write_backlog(self) except -1
    cdef int send_outgoing(self) except -1
    cdef int do_read(self) except -1
    cdef int read_copied(self) except -1
    cdef int read_buffered(self) except -1
    cdef int call_eof_received(self) except -1
    cdef int control_app_writing(self) except -1
    cdef int call_app_flow_control(self, str name) except -1
    cdef int control_reading(self) except -1
    cdef int resume_app_reading(self) except -1
    cdef Py_ssize_t write_buffer_bytes(self) except -1
    cdef int fatal_error(self, object error, str message) except -1

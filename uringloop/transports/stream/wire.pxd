# How bytes travel between a stream transport and its socket.
from cpython.ref cimport PyObject

from ...fdmon.base cimport FdHandler
from ...support.flag cimport flag
from ..base cimport Transport

cdef extern from "<sys/uio.h>" nogil:
    ctypedef struct iovec "struct iovec":
        void *iov_base
        size_t iov_len

cdef enum:
    READS_PER_EVENT = 4            # fairness: a socket that never runs dry gives others a turn

cdef struct SendQueue:
    PyObject *chunks               # owned: NULL if it is empty, a bytes object, or a list of them, oldest first
    Py_ssize_t first               # index of the oldest chunk that is not fully sent
    Py_ssize_t first_offset        # bytes of it that are sent
    Py_ssize_t n_bytes             # not sent yet

cdef int push_chunk(SendQueue *queue, bytes chunk) except -1
cdef int consume_bytes(SendQueue *queue, Py_ssize_t n_bytes) except -1
cdef void clear_queue(SendQueue *queue) noexcept
cdef size_t chunks_in(const SendQueue *queue) noexcept
cdef object first_chunks(SendQueue *queue, size_t count)
cdef size_t fill_vector(const SendQueue *queue, iovec *vector, size_t capacity, Py_ssize_t most_bytes) noexcept

cdef class WireEnd(Transport):
    # what a wire reports to its transport
    cdef Wire wire                 # None once the socket is closed
    cdef SendQueue queue           # used by the functions above only
    cdef object aio_ctx            # contextvars.Context in which the protocol is called
    cdef const char *rest          # of a chunk whose delivery is on the stack: what comes next, for nested turns
    cdef Py_ssize_t n_rest         # 0: there is none; valid while buffered_arrived() is in the protocol's method
    cdef int number                # fd at the start, for repr()
    cdef flag is_buffered          # gets memory, for a BufferedProtocol; else bytes objects
    cdef flag keeps_records        # SOCK_SEQPACKET, SCTP: one write, one record; the end sends at once, by readiness
    cdef flag is_receiving         # between start_reading and stop_reading
    cdef int deliver_rest(self) except -1
    cdef int data_arrived(self, const char *data, Py_ssize_t n_bytes) except -1
    cdef int bytes_arrived(self, bytes data) except -1
    cdef int eof_arrived(self) except -1
    cdef int read_failed(self, int error) except -1
    cdef int wire_failed(self, object error) except -1
    cdef int sent(self) except -1
    cdef bint wants_report(self) noexcept
    cdef int schedule_report(self) except -1
    cdef int write_failed(self, int error) except -1
    # the transport's state that follows from it
    cdef int fail_reading(self, int error) except -1
    cdef int fail_writing(self, int error) except -1
    cdef int fail(self, object error) except -1
    cdef int after_sent(self) except -1

cdef class Wire:
    # Borrowed from the transport; -1 once that has closed the socket.  System calls take end.fd_at[0], which also shows
    # a close by the program.
    cdef int fd
    cdef int send_error            # a failed send not reported to the end yet; an errno or 0
    cdef WireEnd end               # None when detached
    cdef list held                 # bytes that the end could not take yet; None mostly
    cdef int held_error            # after `held`: a negated errno, 1 for end of file, 0 for nothing
    cdef flag wants_read           # between start_reading and stop_reading
    cdef int begin(self, WireEnd end, int fd) except -1
    cdef int start_reading(self) except -1
    cdef int stop_reading(self) except -1
    cdef int send_queued(self) except -1
    cdef int send_now(self) except -1
    cdef int send_last(self) except -1
    cdef bint is_sending(self) noexcept
    cdef int report_sent(self) except -1
    cdef int stop_writing(self) except -1
    cdef int detach(self) except -1
    cdef int go_on(self) except -1
    cdef int shared(self) except -1
    cdef int leave_ring(self) except -1
    cdef int hold_back(self, bytes data) except -1
    cdef int hold_first(self, bytes data) except -1
    cdef int hold_end(self) except -1
    cdef int stopped(self, int result) except -1
    cdef int deliver_held(self) except -1
    cdef bint has_held(self) noexcept
    cdef Py_ssize_t write_vector(self, bint *is_short) except? -1
    cdef int write_all(self) except? -1

cdef class WireHandler(FdHandler):
    cdef ReadinessWire wire

cdef class ReadinessWire(Wire):
    cdef WireHandler handler       # None without interest
    cdef object file               # the identity of its file, once the program also has the socket; else None
    cdef int hint                  # expected size of the next read, bytes
    cdef flag wants_write
    cdef bint is_closed_by_program(self) except -1
    cdef int watch(self) except -1
    cdef int write_some(self) except -1
    cdef int read(self) except -1
    cdef int learn(self, Py_ssize_t count) except -1

cdef void expect_large_reads() noexcept
cdef object read_direct(int fd, Py_ssize_t n_bytes, Py_ssize_t *count, int *n_left=?)

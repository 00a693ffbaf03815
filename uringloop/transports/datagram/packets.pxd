# Datagrams on their way between the kernel and a transport.
from cpython.ref cimport PyObject

from ..addresses cimport ul_name

cdef extern from *:
    """
    #define UL_BATCH 64
    #define UL_MOST_BYTES (256 * 1024)
    """
    enum:
        BATCH "UL_BATCH"            # datagrams per system call at most
        MOST_BYTES "UL_MOST_BYTES"  # longer datagrams are cut off, as by asyncio

cdef struct Incoming:
    PyObject *data                 # bytes, owned
    PyObject *address              # owned

cdef struct Outgoing:
    PyObject *data                 # bytes, owned
    PyObject *address              # owned; NULL with a name
    unsigned name_bytes            # of name; 0 without one
    ul_name name

cdef class Batch:
    cdef Incoming *items
    cdef size_t next               # the oldest that was not delivered
    cdef size_t count
    cdef int receive(self, int fd, int family) except -1
    cdef int keep(self, object data, object address) except -1
    cdef int clear(self) noexcept

cdef class DatagramQueue:
    cdef object collected          # always None: an object field makes the class garbage-collected
    cdef Outgoing *items
    cdef size_t first
    cdef size_t end
    cdef size_t capacity
    cdef Py_ssize_t header_bytes
    cdef Py_ssize_t n_bytes        # of the queued datagrams, headers included
    cdef size_t count(self) noexcept
    cdef int push(self, bytes data, object address, const ul_name *name, unsigned name_bytes) except -1
    cdef int drop(self, size_t count) noexcept
    cdef int send_named(self, int fd) noexcept

cdef int send_to_peer(int fd, object data) noexcept

# The cryptography of one TLS connection: ciphertext on one side, plaintext on the other.

cdef extern from *:
    """
    struct ul_pipe;
    """
    struct ul_pipe:  # openssl.h
        const char *data
        size_t n_bytes

cdef enum:
    RECORD_BYTES = 16384            # the most plaintext that one record carries

cdef class TlsEngine:
    cdef readonly object sslobj         # ssl.SSLObject: handshake, shutdown, and everything about the session
    cdef readonly object incoming       # ssl.MemoryBIO: ciphertext that came in and is not decrypted yet;
    cdef readonly object outgoing       # that is not given to the transport yet; both unused if direct
    cdef object ssl_read                # bound methods, those of the C class under SSLObject where that is known
    cdef object ssl_write
    cdef bint is_at_end                 # the peer sent close_notify: nothing more will come
    cdef int feed(self, bytes data) except -1
    cdef bytes read(self)
    cdef Py_ssize_t read_into(self, char *data, Py_ssize_t n_bytes) except -1
    cdef Py_ssize_t write(self, bytes data, Py_ssize_t offset, Py_ssize_t n_bytes) except -1
    cdef bytes take(self)
    cdef Py_ssize_t incoming_bytes(self) except -1
    cdef Py_ssize_t outgoing_bytes(self) except -1

cdef class DirectTlsEngine(TlsEngine):
    cdef object raw                     # the _ssl._SSLSocket that owns `ssl`
    cdef void *ssl                      # SSL *, borrowed from `raw`
    cdef ul_pipe *pipe_in               # of the session's BIOs: ciphertext to decrypt, and to send;
    cdef ul_pipe *pipe_out              # they belong to `ssl`
    cdef bytes fed                      # what pipe_in points into, or None
    cdef Py_ssize_t read_record(self, char *data, Py_ssize_t n_bytes) except -1

cdef TlsEngine make_engine(sslcontext, bint server_side, server_hostname)

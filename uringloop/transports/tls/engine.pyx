"""The cryptography of one TLS connection: ciphertext on one side, plaintext on the other.

Two engines. `TlsEngine` calls the ssl module's methods. `DirectTlsEngine` calls OpenSSL's own functions for the data,
on the session that the ssl module made; handshake, shutdown, certificates and every error stay with the ssl module.
What both avoid: the exception SSLWantReadError for each message (they know when nothing is left), and a 256 KiB `bytes`
that is cut down to a message. The direct engine also saves objects and releases of the GIL, and has its own BIOs,
which lend OpenSSL the received bytes instead of copying them first (openssl.h).

The direct engine needs the address of the session, a field of a private struct of CPython.  That is only read in
verified versions, if the struct's size is a verified one, and if the field behind it is the context that we passed; it
is only used if the session found there owns the very BIO that we passed.  Otherwise, and with URINGLOOP_TLS_DIRECT=0,
the plain engine is used.

Invariant: between two calls no plaintext waits inside OpenSSL, except behind a pause of the reader.

Errors: where OpenSSL reports one, the ssl module's method is called again. A failed session repeats its error (it is
still in OpenSSL's queue), so that the exception and its text are those of the ssl module.

Ownership: the session owns its BIOs and their pipes; `raw` keeps the session.  `fed` keeps the bytes that pipe_in
borrows, which forgets them when the engine is freed first.

Thread: the loop's.  The GIL is held all the time: a record is at most 16 KiB, a few microseconds.
"""

cimport cython
from cpython.buffer cimport PyBUF_WRITE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE, _PyBytes_Resize
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.ref cimport PyObject

from ...support.assertions cimport must, must_not
from ...support.capi cimport decref, incref

import os
import ssl
import sys
import sysconfig

cdef extern from "../tls/openssl.h" nogil:
    int UL_SSL_ERROR_WANT_READ, UL_SSL_ERROR_ZERO_RETURN
    int ul_openssl_load(const char *path)
    void *ul_field(void *object, size_t n)
    unsigned long version_num "ul_openssl.version_num"()
    int SSL_read_ex "ul_openssl.read_ex"(void *session, void *data, size_t n_bytes, size_t *count)
    int SSL_write_ex "ul_openssl.write_ex"(void *session, const void *data, size_t n_bytes, size_t *count)
    int SSL_get_error "ul_openssl.get_error"(void *session, int result)
    void *SSL_get_rbio "ul_openssl.get_rbio"(void *session)
    void *SSL_get_wbio "ul_openssl.get_wbio"(void *session)
    int ul_pipe_add(ul_pipe *pipe, const char *data, size_t n_bytes)
    void ul_pipe_reset(ul_pipe *pipe, size_t most_bytes)
    int ul_take_over(void *session, ul_pipe **incoming, ul_pipe **outgoing)
    unsigned long ERR_peek_error "ul_openssl.peek_error"()
    void ERR_clear_error "ul_openssl.clear_error"()

cdef enum:
    KEEP_BYTES = 256 * 1024         # a larger buffer for ciphertext is freed at once
    WANTS_MORE = -2                 # results of read_record besides a count: nothing more to decrypt,
    AT_END = -3                     # and: the peer sent close_notify

AGAIN = (ssl.SSLWantReadError, ssl.SSLSyscallError)


@cython.auto_pickle(False)
cdef class TlsEngine:
    """Drives an SSLObject on two MemoryBIOs through its methods."""

    def __init__(self, sslobj, incoming, outgoing):
        self.sslobj = sslobj
        self.incoming = incoming
        self.outgoing = outgoing
        # A subclass, or an object that only looks like an SSLObject, may have its own methods.
        raw = sslobj._sslobj if type(sslobj) is ssl.SSLObject else sslobj
        self.ssl_read = raw.read
        self.ssl_write = raw.write

    cdef int feed(self, bytes data) except -1:
        """Ciphertext came in."""
        self.incoming.write(data)
        return 0

    cdef bytes read(self):
        """All available plaintext, None if there is none; sets is_at_end."""
        cdef list chunks = []
        while not self.is_at_end:
            try:
                chunk = self.ssl_read(RECORD_BYTES)
            except AGAIN:
                break
            if not chunk:
                self.is_at_end = True
                break
            chunks.append(chunk)
            if len(chunk) < RECORD_BYTES and not self.incoming.pending:
                break  # another read could only raise SSLWantReadError, which is costly
        if not chunks:
            return None
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    cdef Py_ssize_t read_into(self, char *data, Py_ssize_t n_bytes) except -1:
        """Decrypt into a buffer until it is full or nothing is left; the number of bytes; sets is_at_end."""
        cdef Py_ssize_t count = 0
        cdef Py_ssize_t more
        while count < n_bytes and not self.is_at_end:
            view = PyMemoryView_FromMemory(data + count, n_bytes - count, PyBUF_WRITE)
            try:
                more = self.ssl_read(n_bytes - count, view)
            except AGAIN:
                break
            if more == 0:
                self.is_at_end = True
            count += more
        return count

    cdef Py_ssize_t write(self, bytes data, Py_ssize_t offset, Py_ssize_t n_bytes) except -1:
        """Encrypt a piece of `data`; the number of bytes taken, 0 if the session must read first (renegotiation)."""
        try:
            if n_bytes == PyBytes_GET_SIZE(data):
                return self.ssl_write(data)
            return self.ssl_write(memoryview(data)[offset:offset + n_bytes])
        except AGAIN:
            return 0

    cdef bytes take(self):
        """Ciphertext to send, usually all of it; empty when there is none."""
        return self.outgoing.read()

    cdef Py_ssize_t incoming_bytes(self) except -1:
        return self.incoming.pending

    cdef Py_ssize_t outgoing_bytes(self) except -1:
        return self.outgoing.pending


@cython.no_gc_clear  # `raw` owns the pipes that __dealloc__ reads
@cython.auto_pickle(False)
cdef class DirectTlsEngine(TlsEngine):
    """The same with OpenSSL's functions and our BIOs; made by make_engine, which checks that `ssl` is a session."""

    def __dealloc__(self):
        # The session may live longer in the program's ssl_object, the bytes that it borrows do not.
        if self.pipe_in != NULL:
            ul_pipe_reset(self.pipe_in, 0)

    cdef int feed(self, bytes data) except -1:
        if self.pipe_in.n_bytes == 0:
            self.fed = data  # borrowed until it is decrypted
            self.pipe_in.data = PyBytes_AS_STRING(data)
            self.pipe_in.n_bytes = PyBytes_GET_SIZE(data)
        elif ul_pipe_add(self.pipe_in, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data)) < 0:
            raise MemoryError()
        else:
            self.fed = None
        return 0

    cdef Py_ssize_t read_record(self, char *data, Py_ssize_t n_bytes) except -1:
        """Decrypt one record; the number of bytes, WANTS_MORE or AT_END."""
        cdef size_t count = 0
        cdef int error
        must_not(self.ssl == NULL, "a direct engine has a session")
        if ERR_peek_error():
            ERR_clear_error()  # of other code: SSL_get_error would take it for ours
        if SSL_read_ex(self.ssl, data, n_bytes, &count) == 1:
            return <Py_ssize_t>count
        error = SSL_get_error(self.ssl, 0)
        if error == UL_SSL_ERROR_WANT_READ:
            return WANTS_MORE
        if error == UL_SSL_ERROR_ZERO_RETURN:
            return AT_END
        try:
            # the ssl module knows what to raise
            count = self.ssl_read(n_bytes, PyMemoryView_FromMemory(data, n_bytes, PyBUF_WRITE))
        except AGAIN:
            return WANTS_MORE
        return <Py_ssize_t>count if count else AT_END

    cdef Py_ssize_t read_into(self, char *data, Py_ssize_t n_bytes) except -1:
        cdef Py_ssize_t count = 0
        cdef Py_ssize_t more
        while count < n_bytes and not self.is_at_end:
            more = self.read_record(data + count, n_bytes - count)
            if more < 0:
                self.is_at_end = more == AT_END
                break
            count += more
            if count < n_bytes and self.pipe_in.n_bytes == 0:
                break  # nothing is left; the next call would also find that out, but costs more
        if self.pipe_in.n_bytes == 0:
            self.fed = None
        must(count <= n_bytes, "no more is decrypted than there is room for")
        return count

    cdef bytes read(self):
        cdef Py_ssize_t count
        cdef Py_ssize_t room = <Py_ssize_t>self.pipe_in.n_bytes
        cdef bytes made
        cdef PyObject *data
        cdef char staging[2 * RECORD_BYTES]
        # Plaintext is shorter than ciphertext; a record that began earlier may have a part inside OpenSSL already.
        room += RECORD_BYTES
        if room <= 2 * RECORD_BYTES:
            count = self.read_into(staging, room)
            return PyBytes_FromStringAndSize(staging, count) if count else None
        made = PyBytes_FromStringAndSize(NULL, room)
        count = self.read_into(PyBytes_AS_STRING(made), room)
        if count == 0:
            return None
        # _PyBytes_Resize needs the only reference
        data = <PyObject *>made
        incref(data)
        made = None
        _PyBytes_Resize(&data, count)
        made = <bytes>data
        decref(data)
        return made

    cdef Py_ssize_t write(self, bytes data, Py_ssize_t offset, Py_ssize_t n_bytes) except -1:
        cdef size_t count = 0
        must(offset >= 0, "what is encrypted is within its chunk")
        must(n_bytes <= PyBytes_GET_SIZE(data) - offset, "what is encrypted is within its chunk")
        if ERR_peek_error():
            ERR_clear_error()
        if SSL_write_ex(self.ssl, PyBytes_AS_STRING(data) + offset, n_bytes, &count) == 1:
            return <Py_ssize_t>count
        if SSL_get_error(self.ssl, 0) == UL_SSL_ERROR_WANT_READ:
            return 0
        return TlsEngine.write(self, data, offset, n_bytes)  # the ssl module knows what to raise

    cdef bytes take(self):
        cdef bytes data
        if self.pipe_out.n_bytes == 0:
            return b""
        data = PyBytes_FromStringAndSize(self.pipe_out.data, <Py_ssize_t>self.pipe_out.n_bytes)
        ul_pipe_reset(self.pipe_out, KEEP_BYTES)
        return data

    cdef Py_ssize_t incoming_bytes(self) except -1:
        return <Py_ssize_t>self.pipe_in.n_bytes

    cdef Py_ssize_t outgoing_bytes(self) except -1:
        return <Py_ssize_t>self.pipe_out.n_bytes


cdef bint direct_is_possible():
    """Whether we may read the session objects of this Python."""
    if os.environ.get("URINGLOOP_TLS_DIRECT", "1") == "0":
        return False
    if not (3, 11) <= sys.version_info[:2] <= (3, 15) or sys.implementation.name != "cpython":
        return False
    if sysconfig.get_config_var("Py_GIL_DISABLED") or hasattr(sys, "getobjects"):
        return False  # different object headers, and the first needs a lock per session
    import _ssl
    path = getattr(_ssl, "__file__", None)
    if path is None or _ssl._SSLSocket.__basicsize__ not in (72, 80, 88, 96) or ssl.MemoryBIO.__basicsize__ != 32:
        return False
    if ul_openssl_load(os.fsencode(path)) < 0:
        return False
    return version_num() == ssl.OPENSSL_VERSION_NUMBER


cdef bint can_be_direct = direct_is_possible()


cdef TlsEngine make_engine(sslcontext, bint server_side, server_hostname):
    """The fastest engine that is possible for this context.

    A context with a message callback gets the plain engine: an exception out of that callback is kept in the session
    object until one of its own methods can raise it.
    """
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    sslobj = sslcontext.wrap_bio(incoming, outgoing, server_side=server_side, server_hostname=server_hostname)
    cdef DirectTlsEngine direct
    if (not can_be_direct or type(sslobj) is not ssl.SSLObject
            or getattr(sslcontext, "_msg_callback", None) is not None):
        return TlsEngine(sslobj, incoming, outgoing)
    direct = DirectTlsEngine(sslobj, incoming, outgoing)
    direct.raw = sslobj._sslobj
    # PySSLSocket is {header, Socket, ssl, ctx, ...}; a neighbour that is right shows that `ssl` may be followed
    direct.ssl = ul_field(<void *>direct.raw, 1)
    if direct.ssl == NULL or ul_field(<void *>direct.raw, 2) != <void *>sslcontext:
        return TlsEngine(sslobj, incoming, outgoing)
    if (SSL_get_rbio(direct.ssl) != ul_field(<void *>incoming, 0)
            or SSL_get_wbio(direct.ssl) != ul_field(<void *>outgoing, 0)):
        return TlsEngine(sslobj, incoming, outgoing)
    if ul_take_over(direct.ssl, &direct.pipe_in, &direct.pipe_out) < 0:
        raise MemoryError()
    return direct

"""Drivers for tests of what reads bytes from outside: names of sockets, and TLS records.

A name is copied into memory of its own, of exactly the size that the kernel is given, so that AddressSanitizer notices
a read beyond it.
"""

from libc.stdint cimport uint64_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from uringloop.transports.addresses cimport (address_of, address_of_packed, fresh_address_of, internet_name,
                                             packed_four, ul_name, ul_peer)
from uringloop.transports.tls.engine cimport DirectTlsEngine, TlsEngine, make_engine

ROOM = sizeof(ul_peer)  # for a name that the kernel writes


def addresses_of(bytes name not None, unsigned n_bytes, unsigned char rest=0):
    """[address by the table, the same again, one without the table] of a name as the kernel wrote it.

    Parameters:
        n_bytes: its length as the kernel reports it, which may be more than was written.
        rest: what is in the memory behind it.
    """
    cdef ul_peer *peer = <ul_peer *>malloc(sizeof(ul_peer))
    if peer == NULL:
        raise MemoryError()
    try:
        memset(peer, rest, sizeof(ul_peer))
        memcpy(peer, PyBytes_AS_STRING(name), min(PyBytes_GET_SIZE(name), <Py_ssize_t>sizeof(ul_peer)))
        return [address_of(peer, n_bytes), address_of(peer, n_bytes), fresh_address_of(peer, n_bytes)]
    finally:
        free(peer)


def packed_address_of(bytes name not None):
    """The address of a name by way of its packed form, or None if it has none."""
    cdef ul_peer peer
    cdef uint64_t four
    memset(&peer, 0, sizeof(ul_peer))
    memcpy(&peer, PyBytes_AS_STRING(name), min(PyBytes_GET_SIZE(name), <Py_ssize_t>sizeof(ul_peer)))
    four = packed_four(&peer, <unsigned>PyBytes_GET_SIZE(name))
    return address_of_packed(four) if four else None


def name_of(address, int family):
    """The name of an address (bytes), or None for one that is left to the socket's own methods."""
    cdef ul_name *name = <ul_name *>malloc(sizeof(ul_name))
    cdef unsigned n_bytes
    if name == NULL:
        raise MemoryError()
    try:
        n_bytes = internet_name(address, family, name)
        return PyBytes_FromStringAndSize(<char *>name, n_bytes) if n_bytes else None
    finally:
        free(name)


cdef class TlsEngineDriver:
    """A TLS engine, by itself.

    Parameters:
        is_plain: the one that calls the ssl module's methods, where the direct one would be possible.
    """

    cdef TlsEngine engine

    def __init__(self, sslcontext, bint server_side, server_hostname=None, *, bint is_plain=False):
        import ssl
        if is_plain:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            sslobj = sslcontext.wrap_bio(
                incoming, outgoing, server_side=server_side, server_hostname=server_hostname)
            self.engine = TlsEngine(sslobj, incoming, outgoing)
        else:
            self.engine = make_engine(sslcontext, server_side, server_hostname)

    @property
    def is_direct(self):
        return isinstance(self.engine, DirectTlsEngine)

    @property
    def sslobj(self):
        return self.engine.sslobj

    @property
    def session(self):
        """The address of OpenSSL's session; 0 if it is not known."""
        return <uintptr_t>(<DirectTlsEngine>self.engine).ssl if self.is_direct else 0

    @property
    def is_at_end(self):
        return self.engine.is_at_end

    def feed(self, bytes data not None):
        self.engine.feed(data)

    def read(self):
        return self.engine.read()

    def read_into(self, Py_ssize_t n_bytes):
        """What a buffer of n_bytes gets."""
        cdef char *memory = <char *>malloc(n_bytes or 1)
        cdef Py_ssize_t count
        if memory == NULL:
            raise MemoryError()
        try:
            count = self.engine.read_into(memory, n_bytes)
            return PyBytes_FromStringAndSize(memory, count)
        finally:
            free(memory)

    def write(self, bytes data not None, Py_ssize_t offset, Py_ssize_t n_bytes):
        return self.engine.write(data, offset, n_bytes)

    def take(self):
        return self.engine.take()

    @property
    def incoming_bytes(self):
        return self.engine.incoming_bytes()

    @property
    def outgoing_bytes(self):
        return self.engine.outgoing_bytes()

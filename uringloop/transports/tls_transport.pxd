# The transport that the application of a TLS connection sees.
from .tls cimport TlsProtocol

cdef class TlsTransport:
    cdef TlsProtocol tls
    cdef object __weakref__

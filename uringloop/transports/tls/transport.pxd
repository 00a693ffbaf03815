# The transport that the application of a TLS connection sees.
from .protocol cimport TlsProtocol

cdef class TlsTransport:
    cdef TlsProtocol tls
    cdef object __weakref__

"""The transport that the application of a TLS connection sees: asyncio's methods, forwarded to the TlsProtocol.

Thread: the loop's.
"""

from cpython.bytes cimport PyBytes_CheckExact, PyBytes_GET_SIZE

from ...support.assertions cimport must
from .protocol cimport TlsProtocol
from .engine cimport DirectTlsEngine

import warnings

from asyncio import constants

from .. import stock as _stock
from . import protocol as _tls
from .protocol import tls_limits

cdef object warn = warnings.warn  # C variables: module globals may be gone when the interpreter ends
cdef object unclosed = ResourceWarning
# what a test may have patched
cdef object stock_class = _stock.Tls
cdef object stock_extra_info = stock_class.get_extra_info


cdef class TlsTransport:
    """What the application writes to.  Subclassed in classes.py for asyncio's class."""

    def __cinit__(self, TlsProtocol tls not None):
        self.tls = tls

    def __del__(self):
        if self.tls is not None and not self.tls.is_app_closed:  # None: __cinit__ refused its argument
            self.tls.is_app_closed = True
            warn("unclosed transport <asyncio._SSLProtocolTransport object>", unclosed)

    def __repr__(self):
        tls = self.tls
        info = [type(self).__name__]
        if tls.is_app_closed:
            info.append("closing")
        info.append(_tls.STATE_NAMES[tls.state])
        info.append("engine=direct" if isinstance(tls.engine, DirectTlsEngine) else "engine=ssl")
        return f"<{' '.join(info)} over {tls.transport!r}>"

    def get_extra_info(self, name, default=None):
        """See asyncio.BaseTransport; sslcontext, ssl_object, peercert, cipher, compression are answered here."""
        if stock_class.get_extra_info is not stock_extra_info:
            return _stock.bound(stock_class, "get_extra_info", self)(name, default)
        return self.tls._get_extra_info(name, default)

    def set_protocol(self, protocol):
        self.tls.set_app_protocol(protocol)

    def get_protocol(self):
        return self.tls.app_protocol

    def is_closing(self):
        # Also if the transport below failed in a write: StreamWriter.drain() gives connection_lost a turn only then.
        transport = self.tls.transport
        if self.tls.is_drained:
            self._send_drained()
        return self.tls.is_app_closed or (transport is not None and transport.is_closing())

    def _send_drained(self):
        send_drained = getattr(self.tls.transport, "_send_drained", None)
        if send_drained is not None:
            send_drained()

    def _send_queued(self):
        """As in a stream transport, which may be below."""
        send_queued = getattr(self.tls.transport, "_send_queued", None)
        if send_queued is not None:
            send_queued()

    def close(self):
        if not self.tls.is_app_closed:
            self.tls.close()
        else:
            self.tls.is_closed_again = True

    def abort(self):
        self._force_close(None)

    def _force_close(self, error):
        self.tls.is_app_closed = True
        self.tls.abort(error)

    # -- reading ---------------------------------------------------------------------------------------

    def is_reading(self):
        return not self.tls.is_app_reading_paused

    def pause_reading(self):
        self.tls.is_app_reading_paused = True

    def resume_reading(self):
        self.tls.resume_app_reading()

    def set_read_buffer_limits(self, high=None, low=None):
        """When to pause and resume the transport below, in bytes of ciphertext that wait for the application."""
        self.tls.read_high_bytes, self.tls.read_low_bytes = tls_limits(
            high, low, constants.FLOW_CONTROL_HIGH_WATER_SSL_READ)
        must(self.tls.read_low_bytes <= self.tls.read_high_bytes, "reading resumes below where it pauses")
        self.tls.control_reading()

    def get_read_buffer_limits(self):
        return (self.tls.read_low_bytes, self.tls.read_high_bytes)

    def get_read_buffer_size(self):
        """Bytes of ciphertext that wait for the application."""
        return self.tls.engine.incoming_bytes()

    # -- writing ---------------------------------------------------------------------------------------

    def write(self, data):
        """See asyncio.WriteTransport.write."""
        if not PyBytes_CheckExact(data):
            if not isinstance(data, (bytes, bytearray, memoryview)):
                raise TypeError(f"data: expecting a bytes-like instance, got {type(data).__name__}")
            data = bytes(data)  # its owner may change it, and it may wait in the backlog
        if PyBytes_GET_SIZE(data):
            self.tls.write_app_data(data, PyBytes_GET_SIZE(data))

    def writelines(self, list_of_data):
        chunks = [chunk if type(chunk) is bytes else bytes(memoryview(chunk)) for chunk in list_of_data]
        cdef Py_ssize_t n_bytes = 0
        for chunk in chunks:
            n_bytes += PyBytes_GET_SIZE(chunk)
        self.tls.write_app_data(chunks, n_bytes)

    def can_write_eof(self):
        return False

    def write_eof(self):
        raise NotImplementedError

    def set_write_buffer_limits(self, high=None, low=None):
        self.tls.write_high_bytes, self.tls.write_low_bytes = tls_limits(
            high, low, constants.FLOW_CONTROL_HIGH_WATER_SSL_WRITE)
        must(self.tls.write_low_bytes <= self.tls.write_high_bytes, "writing resumes below where it pauses")
        self.tls.control_app_writing()

    def get_write_buffer_limits(self):
        return (self.tls.write_low_bytes, self.tls.write_high_bytes)

    def get_write_buffer_size(self):
        """Bytes that the transport below has not got yet, encrypted or not."""
        return self.tls.write_buffer_bytes()

    # -- what asyncio's own modules and tests access -----------------------------------------------------

    @property
    def _protocol_paused(self):
        return self.tls.is_app_writing_paused

    @property
    def _ssl_protocol(self):
        return self.tls

    @property
    def _loop(self):
        return self.tls.loop

    @property
    def _closed(self):
        return self.tls.is_app_closed

    def _test__append_write_backlog(self, data):
        self.tls.backlog.append(bytes(data))
        self.tls.backlog_bytes += len(data)

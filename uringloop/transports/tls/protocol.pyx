"""TLS between an application's protocol and any stream transport, with the behaviour of asyncio.sslproto.

The TlsProtocol is the protocol of the transport below (ours, another TlsTransport, or the program's own) and drives a
TlsEngine; the application sees the TlsTransport (transport.pyx):

    application <-> TlsTransport <-> TlsProtocol (state, flow control) <-> transport below
                                         TlsEngine (records)

States: UNWRAPPED -> DO_HANDSHAKE -> WRAPPED -> FLUSHING (the application's writes are sent) -> SHUTDOWN (close_notify
both ways), and from each of them back to UNWRAPPED.

Reading: ciphertext is fed to the engine as it comes, and all available plaintext is delivered in one call.  While the
application pauses, ciphertext collects in the engine up to a limit, then the transport below is paused.

Writing: encrypted and handed down at once, unless the transport below is paused: then plaintext waits in the backlog,
by reference.  Only when the session is shut down is everything encrypted regardless of that, because close_notify must
come last.

Invariant: the application gets connection_made and connection_lost at most once each, data only in between.

Thread: the loop's.
"""

cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_CheckExact, PyBytes_GET_SIZE

from ...aio.context_core cimport ContextCore, Resumable
from ...aio.handles cimport Guarded
from ...support.assertions cimport is_none, must, must_if, must_not
from ..base cimport call_flow_control
from .engine cimport RECORD_BYTES, TlsEngine, make_engine

import asyncio
import ssl

from asyncio import constants, streams
from asyncio.log import logger
from collections import deque

from ..flow import buffer_limits
from .engine import AGAIN

cdef enum TlsState:
    UNWRAPPED
    DO_HANDSHAKE
    WRAPPED
    FLUSHING
    SHUTDOWN

cdef enum AppState:
    APP_INIT
    APP_CONNECTED
    APP_AT_END       # eof_received was called
    APP_LOST

cdef enum:
    PIECE_BYTES = 128 * 1024     # encrypted before it is handed down: large writes reuse memory that is hot

STATE_NAMES = ("UNWRAPPED", "DO_HANDSHAKE", "WRAPPED", "FLUSHING", "SHUTDOWN")
_buffered_protocol = asyncio.BufferedProtocol
_streams_protocol = streams.FlowControlMixin


class _NoSession:
    """The session of an engine whose connection was lost."""

    def read(self, *args):
        raise ssl.SSLZeroReturnError(ssl.SSL_ERROR_ZERO_RETURN, "the connection was lost")

    write = read


cdef TlsEngine _no_engine = TlsEngine(_NoSession(), ssl.MemoryBIO(), ssl.MemoryBIO())


@cython.auto_pickle(False)
cdef class TlsProtocol(Resumable):
    """The state of one TLS connection; see asyncio.sslproto.SSLProtocol for the parameters.

    Raises: ValueError for a timeout that is not positive, or a server without a context; any exception of wrap_bio.
    """

    def __cinit__(self, *args, **kwargs):
        self.engine = _no_engine
        self.extra = {}
        self.backlog = deque()

    def __init__(self, loop, app_protocol, sslcontext, waiter, server_side=False, server_hostname=None,
                 call_connection_made=True, ssl_handshake_timeout=None, ssl_shutdown_timeout=None):
        self.handshake_timeout = positive(
            "ssl_handshake_timeout", ssl_handshake_timeout, constants.SSL_HANDSHAKE_TIMEOUT)
        self.shutdown_timeout = positive(
            "ssl_shutdown_timeout", ssl_shutdown_timeout, constants.SSL_SHUTDOWN_TIMEOUT)
        if not sslcontext:
            sslcontext = default_context(server_side, server_hostname)
        self.sslcontext = sslcontext
        self.extra = {"sslcontext": sslcontext}
        self.waiter = waiter
        self.loop = loop
        self.guard = (<Guarded>loop).guard if isinstance(loop, Guarded) else None
        self.set_app_protocol(app_protocol)
        self.state = UNWRAPPED
        self.app_state = APP_INIT if call_connection_made else APP_CONNECTED
        self.engine = make_engine(sslcontext, server_side, None if server_side else server_hostname or None)
        self.read_high_bytes, self.read_low_bytes = tls_limits(
            None, None, constants.FLOW_CONTROL_HIGH_WATER_SSL_READ)
        self.write_high_bytes, self.write_low_bytes = tls_limits(
            None, None, constants.FLOW_CONTROL_HIGH_WATER_SSL_WRITE)

    def _attach(self, app_transport):
        """Make it the transport that the application sees; before connection_made."""
        self.app_transport = app_transport

    cdef int set_app_protocol(self, object protocol) except -1:
        # As asyncio: data_received may be replaced at any time, a BufferedProtocol's methods only before this.
        self.app_protocol = protocol
        self.is_drained = isinstance(protocol, _streams_protocol)
        self.app_get_buffer = self.app_buffer_updated = None
        if isinstance(protocol, _buffered_protocol):
            self.app_get_buffer = protocol.get_buffer
            self.app_buffer_updated = protocol.buffer_updated
        return 0

    cdef int wake_waiter(self, object error) except -1:
        waiter, self.waiter = self.waiter, None
        if waiter is None or waiter.cancelled():
            return 0
        if error is not None:
            waiter.set_exception(error)
        else:
            waiter.set_result(None)
        return 0

    cdef int set_state(self, int state) except -1:
        if state != UNWRAPPED and state != self.state + 1:
            raise RuntimeError(f"cannot switch state from {STATE_NAMES[self.state]} to {STATE_NAMES[state]}")
        must(state >= UNWRAPPED, "a TLS connection is in a state that has a name")
        must(state <= SHUTDOWN, "a TLS connection is in a state that has a name")
        self.state = state
        return 0

    # -- what the transport below reports ----------------------------------------------------------------

    def connection_made(self, transport):
        """Start the handshake."""
        self.transport = transport
        self.start_handshake()

    def connection_lost(self, error):
        self.backlog.clear()
        self.backlog_bytes = self.backlog_offset = 0
        self.engine.take()
        self.conn_lost += 1
        self.is_app_closed = True
        if self.state != DO_HANDSHAKE and (self.app_state == APP_CONNECTED or self.app_state == APP_AT_END):
            self.app_state = APP_LOST
            self.loop.call_soon(self.app_protocol.connection_lost, error)
        self.set_state(UNWRAPPED)
        self.transport = self.app_transport = None
        self.app_protocol = self.app_get_buffer = self.app_buffer_updated = None
        if self.is_closed_again:
            # As asyncio: a second close() means that the session is no longer needed.  The pending call of
            # connection_lost keeps protocol and transport alive, and they must not keep the context alive with them.
            self.engine, self.sslcontext, self.extra = _no_engine, None, {}
        self.wake_waiter(error)
        self.handshake_timer = cancelled(self.handshake_timer)
        self.shutdown_timer = cancelled(self.shutdown_timer)

    def data_received(self, data):
        """Ciphertext."""
        self.engine.feed(data if PyBytes_CheckExact(data) else bytes(data))
        if self.state == WRAPPED:
            self.do_read()
        elif self.state == DO_HANDSHAKE:
            self.do_handshake()
        elif self.state == FLUSHING:
            self.do_flush()
        elif self.state == SHUTDOWN:
            self.do_shutdown()

    def _receive_early(self, data):
        """Take ciphertext that arrived before connection_made, for the handshake."""
        self.engine.feed(bytes(data))

    def eof_received(self):
        """The peer closed its side; a true value keeps ours open until the application has read everything."""
        self.has_eof_received = True
        try:
            if self.loop.get_debug():
                logger.debug("%r received EOF", self)
            if self.state == DO_HANDSHAKE:
                self.handshake_ended(ConnectionResetError())
            elif self.state == WRAPPED:
                self.set_state(FLUSHING)
                self.do_flush()
                return self.state == FLUSHING
            elif self.state == FLUSHING:
                # Only if the flush was interrupted, and is due again: data that it had not read yet comes first.
                self.do_flush()
                return self.state == FLUSHING
            elif self.state == SHUTDOWN:
                self.do_shutdown()
        except Exception:
            if self.transport is not None:  # not lost in a turn of the application's
                self.transport.close()
            raise

    def pause_writing(self):
        """The transport below has enough."""
        self.is_writing_paused = True

    def resume_writing(self):
        self.is_writing_paused = False
        if self.backlog_bytes and (self.state == WRAPPED or self.state == FLUSHING):
            self.write_backlog()
        else:
            self.send_outgoing()

    # -- handshake -------------------------------------------------------------------------------------

    cdef int start_handshake(self) except -1:
        if self.loop.get_debug():
            logger.debug("%r starts SSL handshake", self)
            self.handshake_started = self.loop.time()
        self.set_state(DO_HANDSHAKE)
        self.handshake_timer = self.loop.call_later(self.handshake_timeout, self._check_handshake_timeout)
        return self.do_handshake()

    def _check_handshake_timeout(self):
        if self.state == DO_HANDSHAKE:
            self.fatal_error(
                ConnectionAbortedError(
                    f"SSL handshake is taking longer than {self.handshake_timeout} seconds: aborting the connection"
                ),
                "Fatal error on transport",
            )

    cdef int do_handshake(self) except -1:
        try:
            self.engine.sslobj.do_handshake()
        except AGAIN:
            self.send_outgoing()
        except ssl.SSLError as error:
            self.handshake_ended(error)
        else:
            self.handshake_ended(None)
        return 0

    cdef int handshake_ended(self, object error) except -1:
        self.handshake_timer = cancelled(self.handshake_timer)
        sslobj = self.engine.sslobj
        peercert = None
        if error is None:
            self.set_state(WRAPPED)
            try:
                peercert = sslobj.getpeercert()
            except Exception as failure:
                error = failure
        if error is not None:
            self.set_state(UNWRAPPED)
            message = "SSL handshake failed"
            if isinstance(error, ssl.CertificateError):
                message = "SSL handshake failed on verifying the certificate"
            self.fatal_error(error, message)
            return self.wake_waiter(error)
        if self.loop.get_debug():
            took = self.loop.time() - self.handshake_started
            logger.debug("%r: SSL handshake took %.1f ms", self, took * 1e3)
        self.extra.update(
            peercert=peercert, cipher=sslobj.cipher(), compression=sslobj.compression(), ssl_object=sslobj)
        if self.app_state == APP_INIT:
            self.app_state = APP_CONNECTED
            try:
                self.app_protocol.connection_made(self.app_transport)
            except (KeyboardInterrupt, SystemExit):
                # The connection exists, as on a transport without TLS.
                self.wake_waiter(None)
                self.loop.call_soon(self._go_on)
                raise
        self.wake_waiter(None)
        return self.do_read()

    # -- shutdown --------------------------------------------------------------------------------------

    cdef int start_shutdown(self) except -1:
        if self.state == FLUSHING or self.state == SHUTDOWN or self.state == UNWRAPPED:
            return 0
        self.is_app_closed = True
        if self.state == DO_HANDSHAKE:
            return self.abort(None)
        self.set_state(FLUSHING)
        self.shutdown_timer = self.loop.call_later(self.shutdown_timeout, self._check_shutdown_timeout)
        return self.do_flush()

    def _check_shutdown_timeout(self):
        if self.state == FLUSHING or self.state == SHUTDOWN:
            self.transport._force_close(TimeoutError("SSL shutdown timed out"))

    cdef int close(self) except -1:
        """The application closes."""
        self.is_app_closed = True
        if self.state == FLUSHING and self.is_app_reading_paused:
            self.loop.call_soon(self._go_on)  # the peer's end waits until it resumes, which may never happen now
            return 0
        return self.start_shutdown()

    cdef int do_flush(self) except -1:
        """Deliver the data that came before the end, send what was written, and then shut down.

        The state stays FLUSHING while the application pauses, also in the middle: called again when that resumes.
        """
        self.do_read()
        if self.is_app_reading_paused and not self.is_app_closed:
            return 0
        if self.backlog_bytes and self.state == FLUSHING:
            try:
                self.do_write(True)
            except (KeyboardInterrupt, SystemExit):
                self.loop.call_soon(self._go_on)
                raise
            except Exception as error:
                self.fatal_error(error, "Fatal error on SSL protocol")
        if self.state != FLUSHING:
            return 0  # the application aborted when it got the last data
        self.set_state(SHUTDOWN)
        return self.do_shutdown()

    cdef int do_shutdown(self) except -1:
        try:
            if not self.has_eof_received:
                self.engine.sslobj.unwrap()
        except AGAIN:
            self.send_outgoing()
        except ssl.SSLError as error:
            self.shutdown_ended(error)
        else:
            try:
                self.send_outgoing()
                self.call_eof_received()
            finally:  # also after KeyboardInterrupt or SystemExit: no other call would close the transport below
                self.shutdown_ended(None)
        return 0

    cdef int shutdown_ended(self, object error) except -1:
        if error is not None:
            self.shutdown_timer = cancelled(self.shutdown_timer)
            self.fatal_error(error, "Fatal error on transport")
        elif self.transport is not None:
            # The queue below is still to be sent, and the peer may never read it: so the timer runs on until
            # connection_lost, and starts now if the peer was first to close.
            if self.shutdown_timer is None:
                self.shutdown_timer = self.loop.call_later(self.shutdown_timeout, self._check_shutdown_timeout)
            self.loop.call_soon(self.transport.close)
        return 0

    cdef int abort(self, object error) except -1:
        self.set_state(UNWRAPPED)
        if self.transport is not None:
            self.transport._force_close(error)
        return 0

    # -- writing ---------------------------------------------------------------------------------------

    cdef int write_app_data(self, object chunks, Py_ssize_t n_bytes) except -1:
        """Take a chunk (bytes) or a list of them."""
        if self.state != WRAPPED and self.state != DO_HANDSHAKE:
            if self.conn_lost >= constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES:
                logger.warning("SSL connection is closed")
            self.conn_lost += 1
            return 0
        if type(chunks) is bytes:
            self.backlog.append(chunks)
        elif n_bytes <= RECORD_BYTES:
            if n_bytes:
                self.backlog.append(b"".join(chunks))  # one record instead of many
        else:
            self.backlog.extend([chunk for chunk in chunks if chunk])
        self.backlog_bytes += n_bytes
        if self.state == WRAPPED:
            self.write_backlog()
        return 0

    cdef int do_write(self, bint is_last) except -1:
        """Encrypt the backlog and hand it down; all of it if `is_last`, else while the transport below has room."""
        try:
            self.encrypt_backlog(is_last)
            return self.send_outgoing()
        except (KeyboardInterrupt, SystemExit):
            # raised by pause_writing or resume_writing; the transport below may have room now and not report it again
            if self.backlog_bytes:
                self.loop.call_soon(self._write_again)
            raise

    cdef int encrypt_backlog(self, bint is_last) except -1:
        cdef bytes chunk
        cdef Py_ssize_t n_bytes
        cdef Py_ssize_t count
        cdef TlsEngine engine = self.engine  # callbacks of the session run user code
        while self.backlog_bytes and (is_last or not self.is_writing_paused):
            chunk = <bytes>self.backlog[0]
            n_bytes = PyBytes_GET_SIZE(chunk)
            count = engine.write(
                chunk, self.backlog_offset, min(n_bytes - self.backlog_offset, <Py_ssize_t>PIECE_BYTES))
            if count == 0:
                break
            must(count > 0, "no less than nothing is encrypted")
            must(count <= n_bytes - self.backlog_offset, "no more is encrypted than the chunk has")
            self.backlog_bytes -= count
            self.backlog_offset += count
            must(self.backlog_bytes >= 0, "no less than nothing waits to be encrypted")
            if self.backlog_offset == n_bytes:
                self.backlog.popleft()
                self.backlog_offset = 0
            if self.backlog_bytes and self.engine.outgoing_bytes() >= PIECE_BYTES:
                self.send_outgoing()
        return 0

    def _write_again(self):
        if self.state == WRAPPED or self.state == FLUSHING:
            self.write_backlog()

    cdef int write_backlog(self) except -1:
        try:
            return self.do_write(False)
        except Exception as error:
            return self.fatal_error(error, "Fatal error on SSL protocol")

    cdef int send_outgoing(self) except -1:
        """Hand down what is encrypted, if the transport below has room."""
        cdef bytes data
        while not self.is_writing_paused:
            data = self.engine.take()
            if PyBytes_GET_SIZE(data) == 0:
                break
            if self.transport is not None:
                self.transport.write(data)
        return self.control_app_writing()

    # -- reading ---------------------------------------------------------------------------------------

    cdef int do_read(self) except -1:
        if self.state != WRAPPED and self.state != FLUSHING:
            return 0
        try:
            if not self.is_app_reading_paused:
                if self.app_get_buffer is not None:
                    self.read_buffered()
                else:
                    self.read_copied()
                if self.backlog_bytes:
                    self.do_write(False)
                else:
                    self.send_outgoing()
            self.control_reading()
        except (KeyboardInterrupt, SystemExit):
            # The engine may hold more, even the end; do not wait for more ciphertext to read it: perhaps none comes.
            self.loop.call_soon(self._go_on)
            raise
        except Exception as error:
            self.fatal_error(error, "Fatal error on SSL protocol")
        return 0

    cdef int read_copied(self) except -1:
        cdef TlsEngine engine = self.engine  # callbacks of the session run user code
        cdef bytes data = engine.read()
        must_if(not is_none(<void *>data), self.app_state != APP_INIT, "data comes after connection_made")
        must_if(not is_none(<void *>data), self.app_state != APP_LOST, "data comes before connection_lost")
        if data is not None:
            self.app_protocol.data_received(data)
        if self.engine.is_at_end:
            self.call_eof_received()
            self.start_shutdown()
        return 0

    cdef int read_buffered(self) except -1:
        """Fill the protocol's own buffers, as many as it takes."""
        cdef Py_buffer view
        cdef Py_ssize_t count
        cdef bint is_full = True
        cdef TlsEngine engine = self.engine
        while (is_full and self.app_get_buffer is not None and not self.is_app_reading_paused
               and (self.state == WRAPPED or self.state == FLUSHING)):
            get_buffer = self.app_get_buffer
            buffer = get_buffer(self.engine.incoming_bytes())
            if self.app_get_buffer is not get_buffer:
                continue  # replaced meanwhile, and the new protocol's buffer_updated would read its own buffer
            PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
            try:
                if view.len == 0:
                    raise RuntimeError("get_buffer() returned an empty buffer")
                count = engine.read_into(<char *>view.buf, view.len)
                is_full = count == view.len
            finally:
                PyBuffer_Release(&view)
            if count:
                self.app_buffer_updated(count)
        if self.engine.is_at_end:
            self.call_eof_received()
            self.start_shutdown()
        elif (is_full and self.app_get_buffer is None and self.app_protocol is not None
              and not self.is_app_reading_paused):
            self.read_copied()  # the protocol was replaced in the middle
        return 0

    cdef int call_eof_received(self) except -1:
        if self.app_state != APP_CONNECTED:
            return 0
        must_not(is_none(<void *>self.app_protocol), "eof_received comes before connection_lost")
        self.app_state = APP_AT_END
        try:
            if self.app_protocol.eof_received():
                logger.warning("returning true from eof_received() has no effect when using ssl")
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            self.fatal_error(error, "Error calling eof_received()")
        return 0

    # -- flow control ----------------------------------------------------------------------------------

    cdef Py_ssize_t write_buffer_bytes(self) except -1:
        return self.engine.outgoing_bytes() + self.backlog_bytes

    cdef int control_app_writing(self) except -1:
        cdef Py_ssize_t n_bytes = self.write_buffer_bytes()
        if n_bytes >= self.write_high_bytes and not self.is_app_writing_paused:
            self.is_app_writing_paused = True
            self.call_app_flow_control("pause_writing")
        elif n_bytes <= self.write_low_bytes and self.is_app_writing_paused:
            self.is_app_writing_paused = False
            self.call_app_flow_control("resume_writing")
        return 0

    cdef int call_app_flow_control(self, str name) except -1:
        """Without an application protocol, connection_lost was called, or will be: a frame below continues after it."""
        app_transport, app_protocol = self.app_transport, self.app_protocol
        loop = self.loop
        return call_flow_control(loop, app_transport, app_protocol, name, self)  # self, as asyncio reports it

    cdef int control_reading(self) except -1:
        cdef Py_ssize_t n_bytes = self.engine.incoming_bytes()
        if self.transport is None:
            return 0
        if n_bytes >= self.read_high_bytes and not self.is_reading_paused:
            self.is_reading_paused = True
            self.transport.pause_reading()
        elif n_bytes <= self.read_low_bytes and self.is_reading_paused:
            self.is_reading_paused = False
            self.transport.resume_reading()
        return 0

    cdef int resume_app_reading(self) except -1:
        if self.is_app_reading_paused:
            self.is_app_reading_paused = False
            self.loop.call_soon(self._go_on)
        return 0

    cdef object recorded_as(self):
        protocol = self.app_protocol
        return type(self) if protocol is None else type(protocol)

    cdef int go_on(self) except -1:
        if (self.state == WRAPPED or self.state == FLUSHING) and not self.is_app_reading_paused:
            self.loop.call_soon(self._go_on)
        return 0

    def _go_on(self):
        """The application resumed reading, or one of its methods was interrupted, or makes a turn."""
        cdef ContextCore aio_context = self.loop.aio_context
        cdef Resumable below = aio_context.in_delivery
        aio_context.in_delivery = self
        try:
            if self.state == WRAPPED:
                self.do_read()
            elif self.state == FLUSHING:
                self.do_flush()
            elif self.state == SHUTDOWN:
                self.do_shutdown()
        finally:
            aio_context.in_delivery = below

    # -- errors, and what asyncio's own modules and tests access -------------------------------------------

    cdef int fatal_error(self, object error, str message) except -1:
        """As asyncio: network and TLS errors are only passed to connection_lost, all others are also reported."""
        transport = self.transport
        if transport is not None:
            transport._force_close(error)
        if isinstance(error, OSError):
            if self.loop.get_debug():
                logger.debug("%r: %s", self, message, exc_info=error)
        elif not isinstance(error, asyncio.CancelledError):
            self.loop.call_exception_handler({
                "message": message,
                "exception": error,
                "transport": transport,
                "protocol": self,
            })
        return 0

    def _get_extra_info(self, name, default=None):
        if name in self.extra:
            return self.extra[name]
        if self.transport is not None:
            return self.transport.get_extra_info(name, default)
        return default

    @property
    def _app_transport(self):
        return self.app_transport

    @property
    def _app_protocol(self):
        return self.app_protocol

    @property
    def _transport(self):
        return self.transport

    @property
    def _sslcontext(self):
        return self.sslcontext

    @property
    def _sslobj(self):
        return self.engine.sslobj

    @property
    def _loop(self):
        return self.loop


cdef object cancelled(timer):
    """Cancel a TimerHandle, or None; returns None."""
    if timer is not None:
        timer.cancel()
    return None


def tls_limits(high, low, kilobytes):
    """The high-water and low-water marks in bytes; `kilobytes` is the high-water mark when none is given."""
    if high is None and low is None:
        high = kilobytes * 1024
    return buffer_limits(high, low)


def positive(name, seconds, default):
    """A timeout in seconds, checked as asyncio does."""
    if seconds is None:
        return default
    if seconds <= 0:
        raise ValueError(f"{name} should be a positive number, got {seconds}")
    return seconds


def default_context(server_side, server_hostname):
    """The context of a client that passed ssl=True."""
    if server_side:
        raise ValueError("Server side SSL needs a valid SSLContext")
    context = ssl.create_default_context()
    if not server_hostname:
        context.check_hostname = False
    return context

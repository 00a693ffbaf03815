"""The stream transport: asyncio's interface to a connected TCP or UNIX socket.

What asyncio's users see (order of calls, exceptions and their texts, flow control) is decided here, once for all
monitors; the wire moves the bytes.

Invariant: connection_made and connection_lost are called at most once each, in that order; data_received only in
between and never while paused.

Ownership: of the socket, see transports/stream/endpoint; connection_lost closes it.
Thread: the loop's.
"""

from libc.errno cimport ENOBUFS
from libc.string cimport memcpy
from cpython.buffer cimport (PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.contextvars cimport PyContext_CopyCurrent
from cpython.object cimport Py_TYPE, PyObject
from cpython.type cimport PyType_IsSubtype

from ...aio.context_core cimport ContextCore, Resumable
from ...aio.handles cimport enter_context, leave_context
from ...fdmon.base cimport check_held
from ...support.assertions cimport is_none, must, must_not
from ...support.capi cimport PyObject_CallMethodOneArg, decref, error_is_set
from ...support.errors cimport os_error
from ...support.probes cimport ul_probe_read, ul_probe_write
from .endpoint cimport Endpoint
from ..base cimport warn_unclosed
from .wire cimport Wire, clear_queue, push_chunk

import asyncio

from asyncio import constants, streams
from asyncio.log import logger

from .. import stock
from ..flow import buffer_limits

cdef extern from *:
    """
    #include <Python.h>
    /* Whether `instance.__class__` is its type: neither a property of its class nor a __getattribute__ answers. */
    static int ul_has_plain_class(PyObject *type, PyObject *class_name)
    {
        PyTypeObject *kind = (PyTypeObject *)type;

        return kind->tp_getattro == PyObject_GenericGetAttr
               && _PyType_Lookup(kind, class_name) == _PyType_Lookup(&PyBaseObject_Type, class_name);
    }
    """
    bint ul_has_plain_class(PyObject *type, str class_name) noexcept

cdef extern from "../../support/type_tag.h":
    unsigned ul_tag_of(PyObject *type) noexcept

cdef extern from "<sys/socket.h>" nogil:
    int SHUT_WR
    int c_shutdown "shutdown"(int fd, int how)

cdef enum:
    # A write of this size or more is sent at once, so that its memory is reused while it is hot; below, sends of many
    # connections share the system call of the next wait.
    WRITE_AT_ONCE = 32 * 1024
    # With so many callbacks waiting, drain() leaves sending to the end of the turn.  With 4 the echo of 10 connections
    # by streams costs 11 % more than without sending in drain(), with 16 it costs 30 %: answers that leave one by one
    # come back one by one.
    CROWD = 2

cdef object stock_write = stock.Stream.write
cdef object _buffered_protocol = asyncio.BufferedProtocol
cdef object _streams_protocol = streams.FlowControlMixin
cdef Py_ssize_t HIGH_BYTES, LOW_BYTES
HIGH_BYTES, LOW_BYTES = buffer_limits(None, None)
cdef object received_name = "data_received"


cdef class StreamTransport(Endpoint):
    """See asyncio.Transport; made by the loop.  Subclassed in classes.py for asyncio's class."""

    cdef int setup(self, object loop, ContextCore aio_context, object protocol, object server,
                   object context) except -1:
        """After _take_socket() or take_connection().

        Parameters:
            loop, aio_context: those that run it.
            protocol, server (asyncio.Server or None): as in asyncio.
            context: the contextvars.Context in which the protocol is called, as by asyncio since Python 3.15; None:
                copies are made where asyncio made them before.

        The caller sets `wire` right afterwards.
        """
        self.loop = loop
        self.aio_context = aio_context
        self.conn_lost = 0
        self.high_bytes, self.low_bytes = HIGH_BYTES, LOW_BYTES
        self.set_protocol_(protocol)
        self.server = server
        self.given_context = context
        self.aio_ctx = PyContext_CopyCurrent() if context is None else context
        return 0

    cdef int start(self, object connection_made, object waiter) except -1:
        """Call connection_made, begin reading, and wake the task that waits for the connection; by call_soon."""
        self.loop.call_soon(self._connection_made, connection_made, waiter, context=self.given_context)
        return 0

    def _start(self, connection_made, waiter=None):
        """The same for callers in Python."""
        self.start(connection_made, waiter)

    def _connection_made(self, connection_made, waiter):
        must_not(self.is_started, "connection_made is called once")
        self.is_started = True
        self.aio_context.n_connections += 1
        try:
            if self.given_context is None:
                self.aio_ctx = PyContext_CopyCurrent()  # not the one of this callback: as for asyncio's readers
        except BaseException as error:  # MemoryError
            self.fail(error)
        if self.conn_lost:
            # aborted before it began: asyncio still calls connection_made
            self.is_paused = True
        self.is_connected = True
        self.made_waiter = waiter
        self.is_being_made = True
        cdef ContextCore aio_context = self.aio_context
        cdef Resumable below = aio_context.in_delivery
        aio_context.in_delivery = self
        try:
            connection_made(self)
        finally:
            aio_context.in_delivery = below
            self._begin_reading()

    def _begin_reading(self):
        """After connection_made, or in a turn that it makes."""
        waiter, self.made_waiter = self.made_waiter, None
        self.is_being_made = False
        try:
            self.may_read()
        except BaseException as error:  # MemoryError
            self.fail(error)
        if waiter is not None and not waiter.cancelled():
            waiter.set_result(None)

    def _close_socket(self):
        """Give up before the start: the number is free for others, and for add_reader()."""
        self.is_closing_ = True
        self.conn_lost += 1
        self.close_fd()

    def __del__(self):
        self.leave_table()
        if self.fd >= 0 and self.loop is not None and not self.is_closing_:
            warn_unclosed(self)
            self.close_fd()
            server, self.server = self.server, None  # another finalizer may still close()
            if server is not None:
                detach_from(server, self)
        else:
            self.python_socket()  # if there is an fd, this closes it, and warns

    def __repr__(self):
        info = [type(self).__name__]
        if self.fd < 0 or self.loop is None:
            info.append("closed")
        elif self.is_closing_:
            info.append("closing")
        info.append(f"fd={self.number}")
        if self.loop is not None and not self.loop.is_closed():
            info.append("read=polling" if self.is_receiving else "read=idle")
            state = "polling" if self.wire is not None and self.wire.is_sending() else "idle"
            info.append(f"write=<{state}, bufsize={self.get_write_buffer_size()}>")
        return "<{}>".format(" ".join(info))

    # -- the protocol ----------------------------------------------------------------------------------

    cdef int set_protocol_(self, object protocol) except -1:
        # Only the kind is remembered: a protocol may replace its methods at any time.
        self.protocol = protocol
        self.is_buffered = is_a(protocol, _buffered_protocol)
        self.is_drained = is_a(protocol, _streams_protocol)
        return 0

    def set_protocol(self, protocol):
        self.set_protocol_(protocol)

    # -- reading ---------------------------------------------------------------------------------------

    cdef int may_read(self) except -1:
        """Make the wire read, or not, as the transport's state allows."""
        cdef bint wanted = (self.is_started and not self.is_closing_ and not self.is_paused
                            and not self.has_eof_received and self.conn_lost == 0)
        if self.wire is None or wanted == self.is_receiving:
            return 0
        self.is_receiving = wanted
        if not wanted:
            return self.wire.stop_reading()
        self.wire.start_reading()
        if self.wire.has_held():
            self.aio_context.schedule(self._deliver_held, self.loop)
        return 0

    def _deliver_held(self):
        cdef Wire wire = self.wire
        if wire is None or not self.is_receiving:
            return
        try:
            wire.deliver_held()
        finally:
            if self.is_receiving and self.wire is not None and self.wire.has_held():  # KeyboardInterrupt, SystemExit
                self.aio_context.schedule(self._deliver_held, self.loop)

    def pause_reading(self):
        if self.is_closing_ or self.is_paused:
            return
        self.is_paused = True
        self.may_read()
        if self.loop.get_debug():
            logger.debug("%r pauses reading", self)

    def resume_reading(self):
        if self.is_closing_ or not self.is_paused:
            return
        self.is_paused = False
        self.may_read()
        if self.loop.get_debug():
            logger.debug("%r resumes reading", self)

    cdef int data_arrived(self, const char *data, Py_ssize_t n_bytes) except -1:
        ul_probe_read(self.number, n_bytes)
        if self.n_rest:
            return self.arrive_behind_rest(data, n_bytes)
        if self.is_buffered:
            return self.buffered_arrived(data, n_bytes)
        return self.call_data_received(PyBytes_FromStringAndSize(data, n_bytes))

    cdef int bytes_arrived(self, bytes data) except -1:
        ul_probe_read(self.number, PyBytes_GET_SIZE(data))
        if self.n_rest:
            return self.arrive_behind_rest(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        if self.is_buffered:
            return self.buffered_arrived(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        return self.call_data_received(data)

    cdef int arrive_behind_rest(self, const char *data, Py_ssize_t n_bytes) except -1:
        """More data arrives in a nested turn while a frame below has the rest of a chunk, which comes first.

        `data` is held meanwhile, and not kept by this frame: turns further up may receive even more.
        """
        self.wire.hold_back(PyBytes_FromStringAndSize(data, n_bytes))
        return self.deliver_rest_and_held()

    cdef int deliver_rest_and_held(self) except -1:
        cdef bint is_delivered = False
        try:
            self.deliver_rest()
            is_delivered = True
        finally:
            check_held(self)
            if not is_delivered and self.loop is not None:  # KeyboardInterrupt, SystemExit
                self.aio_context.schedule(self._deliver_held, self.loop)
        self._deliver_held()
        return 0

    cdef int call_data_received(self, bytes data) except -1:
        # own references: the protocol may be replaced, or the transport closed, meanwhile
        cdef object protocol = self.protocol
        cdef object aio_ctx = self.aio_ctx
        must(self.is_connected, "data_received comes between connection_made and connection_lost")
        cdef PyObject *result
        cdef ContextCore aio_context = self.aio_context
        cdef Resumable below = aio_context.in_delivery
        left = enter_context(aio_ctx)
        aio_context.in_delivery = self
        result = PyObject_CallMethodOneArg(protocol, received_name, data)
        aio_context.in_delivery = below
        if result != NULL:
            decref(result)
            return leave_context(aio_ctx, left)
        try:
            error_is_set()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.fatal_error(error, "Fatal error: protocol.data_received() call failed.")
        finally:
            check_held(self)
            leave_context(aio_ctx, left)
        return 0

    cdef int buffered_arrived(self, const char *data, Py_ssize_t n_bytes) except -1:
        """Copy into the protocol's own buffers, as many as it takes."""
        cdef Py_buffer view
        cdef Py_ssize_t count
        cdef object aio_ctx = self.aio_ctx
        cdef bytes rest = None
        cdef ContextCore aio_context = self.aio_context
        cdef Resumable below = aio_context.in_delivery
        left = enter_context(aio_ctx)
        aio_context.in_delivery = self
        try:
            while n_bytes > 0 and self.is_buffered and not self.conn_lost:
                is_filled = False
                try:
                    protocol = self.protocol
                    self.rest, self.n_rest = data, n_bytes
                    try:
                        buffer = protocol.get_buffer(n_bytes)
                    finally:
                        check_held(self)
                        n_bytes, self.n_rest = self.n_rest, 0
                    if n_bytes == 0:
                        continue  # a nested turn gave it to the protocol
                    if self.protocol is not protocol:  # the buffer is not the new protocol's, which may have paused
                        if self.is_receiving:
                            continue
                        if self.wire is not None:
                            self.wire.hold_first(PyBytes_FromStringAndSize(data, n_bytes))
                        return 0
                    if not len(buffer):
                        raise RuntimeError("get_buffer() returned an empty buffer")
                    PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
                    count = min(n_bytes, view.len)
                    memcpy(view.buf, data, count)
                    PyBuffer_Release(&view)
                    is_filled = True
                    data, n_bytes = data + count, n_bytes - count
                    self.rest, self.n_rest = data, n_bytes
                    try:
                        self.protocol.buffer_updated(count)
                    finally:
                        check_held(self)
                        n_bytes, self.n_rest = self.n_rest, 0
                    if n_bytes > 0 and not self.is_receiving:
                        if self.wire is not None:  # before data that the wire may hold already: it came earlier
                            self.wire.hold_first(PyBytes_FromStringAndSize(data, n_bytes))
                        return 0
                except (SystemExit, KeyboardInterrupt):
                    if n_bytes > 0 and self.wire is not None:
                        self.wire.hold_first(PyBytes_FromStringAndSize(data, n_bytes))
                        self.loop.call_soon(self._deliver_held)
                    raise
                except BaseException as error:
                    method = "buffer_updated" if is_filled else "get_buffer"
                    self.fatal_error(error, f"Fatal error: protocol.{method}() call failed.")
                    return 0
            if n_bytes > 0 and self.protocol is not None and not self.conn_lost:
                rest = PyBytes_FromStringAndSize(data, n_bytes)  # the protocol was replaced in the middle
        finally:
            aio_context.in_delivery = below
            leave_context(aio_ctx, left)
        return self.call_data_received(rest) if rest is not None else 0

    cdef int go_on(self) except -1:
        if self.wire is None:
            return 0
        if self.is_being_made:
            self.aio_context.schedule(self._begin_reading, self.loop)
        elif self.is_receiving:
            if self.n_rest or self.wire.has_held():
                self.aio_context.schedule(self._deliver_left, self.loop)
            self.wire.go_on()
        if isinstance(self.protocol, Resumable):  # TLS
            (<Resumable>self.protocol).go_on()
        return 0

    def _deliver_left(self):
        if self.wire is not None:
            self.deliver_rest_and_held()

    cdef int eof_arrived(self) except -1:
        cdef object aio_ctx = self.aio_ctx
        if self.n_rest:
            self.wire.hold_end()
            return self.deliver_rest_and_held()
        self.has_eof_received = True
        self.may_read()
        if self.loop.get_debug():
            logger.debug("%r received EOF", self)
        left = enter_context(aio_ctx)
        try:
            if not self.protocol.eof_received():
                self.close()
        except (SystemExit, KeyboardInterrupt):
            if self.wire is not None:
                # as asyncio: eof_received is called again
                self.wire.held_error = 1
                self.has_eof_received = False
                self.may_read()
            raise
        except BaseException as error:
            self.fatal_error(error, "Fatal error: protocol.eof_received() call failed.")
        finally:
            check_held(self)
            leave_context(aio_ctx, left)
        return 0

    cdef int fail(self, object error) except -1:
        return self.fatal_error(error, "Fatal error on socket transport")

    cdef int fail_reading(self, int error) except -1:
        return self.fatal_error(os_error(error), "Fatal read error on socket transport")

    # -- writing ---------------------------------------------------------------------------------------

    def write(self, data):
        """See asyncio.WriteTransport.write; `bytes` are held by reference, everything else is copied."""
        if not PyBytes_CheckExact(data):
            data = as_bytes(data)
        if self.conn_lost or self.is_eof_written or self.empty_waiter is not None:
            self.refuse_write(data)
            return
        if PyBytes_GET_SIZE(data) != 0:
            self.write_chunk(<bytes>data)

    cdef int write_chunk(self, bytes chunk) except -1:
        cdef Py_ssize_t n_bytes = PyBytes_GET_SIZE(chunk)
        cdef int error
        must_not(is_none(<void *>self.wire), "a closed transport queues nothing")
        must(self.conn_lost == 0, "a lost connection queues nothing")
        push_chunk(&self.queue, chunk)
        self.aio_context.n_written += n_bytes
        ul_probe_write(self.number, n_bytes)
        if n_bytes < WRITE_AT_ONCE and self.queue.n_bytes <= self.high_bytes and not self.is_shared:
            if not self.wire.is_sending():
                self.aio_context.mark_dirty(self, n_bytes)
            return 0
        error = self.wire.send_now()
        if error:
            return self.fail_writing(error)
        return self.pause_if_full()

    def writelines(self, list_of_data):
        if self.is_eof_written:
            raise RuntimeError("Cannot call writelines() after write_eof()")
        if self.empty_waiter is not None:
            raise RuntimeError("unable to writelines; sendfile is in progress")
        if not list_of_data:
            return
        chunks = [chunk if type(chunk) is bytes else bytes(memoryview(chunk)) for chunk in list_of_data]
        if self.conn_lost:
            self.refuse_write(chunks)
            return
        n_bytes = 0
        if self.keeps_records:
            chunks = [b"".join(chunks)]  # one call, one record
        for chunk in chunks:
            if chunk:
                push_chunk(&self.queue, <bytes>chunk)
                n_bytes += len(chunk)
        if n_bytes == 0:
            return
        self.aio_context.n_written += n_bytes
        ul_probe_write(self.number, n_bytes)
        if n_bytes < WRITE_AT_ONCE and self.queue.n_bytes <= self.high_bytes and not self.is_shared:
            if not self.wire.is_sending():
                self.aio_context.mark_dirty(self, n_bytes)
            return
        error = self.wire.send_now()
        if error:
            self.fail_writing(error)
        else:
            self.pause_if_full()

    cdef int refuse_write(self, object data) except -1:
        """Raise, or count a write to a lost connection, as asyncio does."""
        if self.is_eof_written:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self.empty_waiter is not None:
            raise RuntimeError("unable to write; sendfile is in progress")
        if data:
            if self.conn_lost >= constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES:
                logger.warning("socket.send() raised exception.")
            self.conn_lost += 1
        return 0

    cdef int share(self) except -1:
        Endpoint.share(self)
        if self.wire is not None:
            self.wire.shared()
            self.send_queued()
            if not self.aio_context.is_elsewhere():
                self.wire.leave_ring()
            elif not self.loop.is_closed():
                self.loop.call_soon_threadsafe(self._leave_ring)
            # a request that is not yet submitted names the socket by its number
            self.aio_context.monitor.submit()
        return 0

    def _leave_ring(self):
        if self.wire is not None:
            self.wire.leave_ring()

    cdef int send_queued(self) except -1:
        """Send as much of the queue as the kernel takes; from now on the program may use the socket itself."""
        cdef int error
        if self.wire is None or not self.queue.n_bytes:
            return 0
        if self.aio_context.is_elsewhere():
            return self.wire.send_last()
        error = self.wire.send_now()
        if error:
            return self.fail_writing(error)
        if self.queue.n_bytes == 0 and self.wants_report():
            self.schedule_report()
        return 0

    def _send_queued(self):
        self.send_queued()

    cdef int flush(self) except -1:
        if self.wire is None:
            return 0
        if not self.queue.n_bytes:  # sent meanwhile: see ContextCore.send_all
            return self.schedule_report() if self.wants_report() else 0
        try:
            return self.wire.send_queued()
        except (MemoryError, OSError):
            # Out of memory, here or in the kernel.  Nothing would send the queue later.
            self.wire.send_error = ENOBUFS
            return self.schedule_report()

    cdef int flush_last(self) except -1:
        if self.wire is not None:
            self.wire.send_last()
        return 0

    cdef bint wants_report(self) noexcept:
        return (self.is_protocol_paused or self.is_closing_ or self.is_eof_written
                or self.empty_waiter is not None)

    cdef int schedule_report(self) except -1:
        if not self.has_scheduled_report and self.loop is not None:
            self.aio_context.schedule(self._report_sent, self.loop)
            self.has_scheduled_report = True
        return 0

    def _report_sent(self):
        cdef Wire wire = self.wire
        self.has_scheduled_report = False
        if wire is not None:
            wire.report_sent()

    cdef int after_sent(self) except -1:
        """The queue became shorter: resume the protocol, and complete waits for the end of the queue."""
        try:
            self.resume_if_drained()
        finally:  # also after KeyboardInterrupt or SystemExit: nothing else would complete them
            self.finish_sent()
        return 0

    cdef int finish_sent(self) except -1:
        if self.queue.n_bytes or self.conn_lost:
            return 0
        if self.empty_waiter is not None and not self.empty_waiter.done():
            self.empty_waiter.set_result(None)
        if self.is_closing_:
            self.conn_lost += 1
            self.loop.call_soon(self._call_connection_lost, None, context=self.given_context)
        elif self.is_eof_written:
            c_shutdown(self.fd_at[0], SHUT_WR)
        return 0

    cdef int fail_writing(self, int error) except -1:
        clear_queue(&self.queue)
        exception = os_error(error)
        if self.empty_waiter is not None and not self.empty_waiter.done():
            self.empty_waiter.set_exception(exception)
        return self.fatal_error(exception, "Fatal write error on socket transport")

    def can_write_eof(self):
        return True

    def write_eof(self):
        cdef int error
        if self.is_closing_ or self.is_eof_written:
            return
        self.is_eof_written = True
        if self.queue.n_bytes:
            error = self.wire.send_now()
            if error:
                self.fail_writing(error)
                return
        if not self.queue.n_bytes:
            c_shutdown(self.fd_at[0], SHUT_WR)

    # -- flow control ----------------------------------------------------------------------------------

    def get_write_buffer_size(self):
        """Bytes that the kernel has not taken yet, those of the current turn included."""
        return self.queue.n_bytes

    def set_write_buffer_limits(self, high=None, low=None):
        self.high_bytes, self.low_bytes = buffer_limits(high, low)
        if self.queue.n_bytes > self.high_bytes:
            self.send_queued()  # what only waits for the end of the turn must not pause the protocol
        self.pause_if_full()

    cdef int pause_if_full(self) except -1:
        return self.pause_protocol() if self.queue.n_bytes > self.high_bytes else 0

    cdef int resume_if_drained(self) except -1:
        return self.resume_protocol() if self.queue.n_bytes <= self.low_bytes else 0

    # -- the end ---------------------------------------------------------------------------------------

    def is_closing(self):
        """See asyncio.BaseTransport.

        StreamWriter.drain() calls this first, and nothing else of the transport.  After drain() the kernel has what it
        takes, as with stock asyncio; so with a protocol of asyncio.streams this call sends, unless many callbacks wait.
        """
        if self.is_drained:
            self.send_drained()
        return self.is_closing_

    def _send_drained(self):
        """For a transport on top of this one."""
        self.send_drained()

    cdef int send_drained(self) except -1:
        """Send it with the data of others, in one system call: a send(2) for this alone costs as much as a callback."""
        cdef ContextCore aio_context = self.aio_context
        if not self.queue.n_bytes or self.wire is None or aio_context.ready.count() >= CROWD:
            return 0
        if aio_context.is_elsewhere():
            return self.wire.send_last()
        return aio_context.send_dirty()

    def close(self):
        cdef int error
        if self.is_closing_:
            return
        self.is_closing_ = True
        self.may_read()
        if self.queue.n_bytes:
            error = self.wire.send_now()
            if error:
                self.fail_writing(error)
                return
        if not self.queue.n_bytes:
            self.conn_lost += 1
            self.loop.call_soon(self._call_connection_lost, None, context=self.given_context)

    cdef int force_close(self, object error) except -1:
        """Discard the queue; connection_lost(error) is called in the next turn."""
        if self.conn_lost:
            return 0
        if self.queue.n_bytes and self.wire is not None:
            self.wire.send_now()  # as much as stock asyncio's write() would have sent already
        clear_queue(&self.queue)
        self.is_closing_ = True
        self.conn_lost += 1
        self.may_read()
        if self.wire is not None:
            self.wire.stop_writing()
        if self.loop is not None:
            self.loop.call_soon(self._call_connection_lost, error, context=self.given_context)
        return 0

    def _call_connection_lost(self, error):
        loop, server = self.loop, self.server
        must_not(self.conn_lost == 0, "connection_lost comes when the connection is lost")
        must(self.queue.n_bytes == 0, "nothing is queued when the connection is lost")
        try:
            if self.is_connected or self.is_started:
                self.protocol.connection_lost(error)
        finally:
            self.is_connected = False
            if self.empty_waiter is not None:
                loop._sendfile_lost(self, self.empty_waiter, error)
            if self.wire is not None:
                self.wire.detach()
                self.wire = None
            self.close_fd()
            self.protocol = None
            self.is_buffered = self.is_drained = False
            self.loop = None
            self.server = None
            if server is not None:
                detach_from(server, self)

    # -- what asyncio's own modules access ---------------------------------------------------------------

    @property
    def _eof(self):
        return self.is_eof_written

    @property
    def _server(self):
        return self.server

    def _make_empty_waiter(self):
        """A future that is done when everything written so far was taken by the kernel (sendfile)."""
        cdef int error
        if self.empty_waiter is not None:
            raise RuntimeError("Empty waiter is already set")
        if self.queue.n_bytes:
            error = self.wire.send_now()
            if error:
                self.fail_writing(error)
        self.empty_waiter = self.loop.create_future()
        if not self.queue.n_bytes:
            self.empty_waiter.set_result(None)
        return self.empty_waiter

    def _reset_empty_waiter(self):
        self.empty_waiter = None


# -- what a server knows of its connections ------------------------------------------------------------------

# Since Python 3.13 a server knows its connections, before it only counts them.
cdef bint KNOWS_CLIENTS = hasattr(asyncio.Server, "close_clients")
cdef object server_class = asyncio.Server
cdef tuple server_methods = (server_class._attach, server_class._detach, server_class._wakeup)
cdef unsigned server_tag = 0               # while this is the class's, it has these methods


cdef bint only_counts(object server) except -1:
    """Whether this is asyncio's own server, with a plain number of connections."""
    global server_tag
    cdef unsigned tag = ul_tag_of(<PyObject *>server_class)
    if KNOWS_CLIENTS or type(server) is not server_class:
        return False
    if tag and tag == server_tag:
        return True
    if (server_class._attach, server_class._detach, server_class._wakeup) != server_methods:
        return False
    server_tag = ul_tag_of(<PyObject *>server_class)
    return True


cdef int attach_to(object server, object client) except -1:
    """Server._attach(), without a Python frame for each connection.  Raises AssertionError if the server is closed."""
    if only_counts(server) and server._sockets is not None:
        server._active_count += 1
    elif KNOWS_CLIENTS:
        server._attach(client)
    else:
        server._attach()
    return 0


cdef int detach_from(object server, object client) except -1:
    """Server._detach(), likewise.  Raises AssertionError if the server counts no connection."""
    count = server._active_count if only_counts(server) else 0
    if count > 0:
        server._active_count = count - 1
        if count == 1 and server._sockets is None:
            server._wakeup()
    elif KNOWS_CLIENTS:
        server._detach(client)
    else:
        server._detach()
    return 0


cdef int replace_client(object server, object old, object new) except -1:
    """The server has `new` in the place of `old`; not by its methods, which refuse a server that was closed since."""
    if KNOWS_CLIENTS:
        server._clients.add(new)
        server._clients.discard(old)
    return 0


cdef bint is_a(object protocol, object kind) except -1:
    """isinstance(), without a search for a `__class__` of its own where the object's class has none."""
    cdef PyObject *of_protocol = <PyObject *>Py_TYPE(protocol)
    if PyType_IsSubtype(<type>of_protocol, kind):
        return True
    return False if ul_has_plain_class(of_protocol, "__class__") else isinstance(protocol, kind)


cdef bytes as_bytes(data):
    """A copy of anything that write() accepts, taken now, since its owner may change it after write()."""
    if not isinstance(data, (bytes, bytearray, memoryview)):
        stock_write(None, data)  # raises TypeError, with the text of this version of asyncio
    return bytes(data)

"""The datagram transport: asyncio's interface to a UDP socket or any other socket that keeps boundaries.

Receiving: when the fd is readable, one recvmmsg(2) takes up to 64 datagrams, which are delivered one after the other.
Families whose addresses only the socket module knows (netlink, packet ...) use socket.recvfrom.

Sending: datagrams to a literal IP address are collected during a turn and sent with one sendmmsg(2) at its end.
Those to the peer of a connected socket are sent within sendto(): sendmmsg returns how many datagrams were sent, not why
the next was not, and an error that was pending on the socket (ICMP: refused) is gone by then.  All others are left to
socket.sendto.

Where the kernel has no room the queue waits for the socket to become writable.

Invariant: datagrams are delivered in the order in which they were received, each once, and none while paused or
closing; they leave in the order of the sendto() calls.

The socket is watched with loop._add_reader and _add_writer, as by asyncio's own transport: contexts, debug mode and
the handling of exceptions are the same by construction.

Ownership: the transport owns `sock`; connection_lost closes it.  Thread: the loop's.
"""

from libc.errno cimport EAGAIN, EBADF, EINTR
from cpython.bytes cimport PyBytes_Check, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.contextvars cimport PyContext_CopyCurrent, PyContext_Enter, PyContext_Exit
from cpython.ref cimport Py_DECREF, Py_XDECREF, PyObject

from ...aio.context_core cimport ContextCore, Resumable
from ...support.assertions cimport is_none, must, must_not
from ...support.capi cimport PyObject_VectorcallMethod, error_is_set
from ...support.errors cimport os_error
from ..addresses cimport AF_INET, AF_INET6, AF_UNIX, internet_name, real_family, ul_name
from ..base cimport Transport, number_in, warn_unclosed
from .packets cimport BATCH, MOST_BYTES, Batch, DatagramQueue, Incoming, Outgoing, send_to_peer

import sys

from asyncio import constants
from asyncio.futures import _set_result_unless_cancelled
from asyncio.log import logger

from .. import stock as _stock
from ..flow import buffer_limits
from ..trsock import TransportSocket

# Since Python 3.13 empty datagrams are sent, and each datagram counts 8 bytes more in the write buffer.
cdef bint sends_empty = sys.version_info >= (3, 13)
cdef Py_ssize_t HEADER_BYTES = 8 if sends_empty else 0
cdef object transport_socket = TransportSocket
cdef int closed_number = -1
cdef object received_name = "datagram_received"
# what a test may have patched
cdef object stock_class = _stock.Datagram
cdef object stock_extra_info = stock_class.get_extra_info


cdef enum:
    COUNTED_BYTES = 512  # for each datagram, to adaptive polling, which compares: its length does not matter


cdef class DatagramTransport(Transport):
    """See asyncio.DatagramTransport; made by the loop.  Subclassed in classes.py for asyncio's class."""

    def __cinit__(self, *args, **kwargs):
        self.errors = []
        self.batch = Batch()
        self.queue = DatagramQueue(HEADER_BYTES)

    def _setup(self, loop, ContextCore aio_context not None, sock, protocol, address, extra, bint is_shared=False):
        """Take over a non-blocking socket.

        Parameters:
            loop, aio_context: those that run it.
            sock: the Python socket; closed by connection_lost.
            protocol: asyncio.DatagramProtocol.
            address: the only one that sendto() accepts, or None.
            extra: dict of get_extra_info; "peername" says whether the socket is connected.
            is_shared: the program made the socket, and may still use it.
        """
        self.loop = loop
        self.aio_context = aio_context
        self.sock = sock
        self.fd = sock.fileno()
        self.fd_at = number_in(sock, self.fd)
        if self.fd_at == NULL:
            self.fd_at = &self.fd
        self.is_shared = is_shared
        self.family = sock.family
        self.is_internet = self.family == AF_INET or self.family == AF_INET6
        self.kernel_family = real_family(self.fd, self.family)
        self.is_connected = bool(extra["peername"])
        self.protocol = protocol
        self.address = address if address else None
        self.extra = extra
        if "socket" not in extra:
            extra["socket"] = transport_socket(sock, self)
        self.conn_lost = 0
        self.high_bytes, self.low_bytes = buffer_limits(None, None)

    def _start(self, waiter=None):
        """Call connection_made, begin to read, and wake the task that waits for the endpoint; each by call_soon."""
        made = reading = None
        try:
            made = self.loop.call_soon(self.protocol.connection_made, self)
            reading = self.loop.call_soon(self._start_reading)
            if waiter is not None:
                self.loop.call_soon(_set_result_unless_cancelled, waiter, None)
        except BaseException:
            # out of memory: the caller gets no endpoint, and none of its callbacks may run
            for handle in (made, reading):
                if handle is not None:
                    handle.cancel()
            self.is_closing_ = True
            self.conn_lost = 1
            self.fd_at = &closed_number
            sock, self.sock = self.sock, None
            sock.close()
            raise

    def _start_reading(self):
        if self.is_reading():
            self.start_reading()

    cdef int start_reading(self) except -1:
        if self.fd < 0:
            return 0  # after __del__
        if self.fd_at[0] != self.fd:
            # closed by the program: the number may be another file's by now
            raise os_error(EBADF)
        self.reader = self.loop._watch_own_readable(self.fd, self.sock, self._read_ready)
        return 0

    cdef int stop_reading(self) except -1:
        # cancelled: removed, or replaced by the reader of another owner of the number
        if self.reader is not None and not self.reader.cancelled() and self.fd >= 0:
            self.loop._remove_reader(self.fd)
        self.reader = None
        return 0

    def __del__(self):
        # Not the end: another finalizer of the same garbage may still send and close, and the transport lives again.
        self.leave_table()
        if self.sock is not None:
            warn_unclosed(self)
            self.fd = -1  # else later datagrams would be sent through the next socket with that number
            self.sock.close()

    def __repr__(self):
        info = [type(self).__name__]
        if self.sock is None:
            info.append("closed")
        elif self.is_closing_:
            info.append("closing")
        info.append(f"fd={self.fd}")
        if self.loop is not None and not self.loop.is_closed():
            is_watched = self.loop._watched_events(self.fd) & 1
            info.append("read=polling" if is_watched else "read=idle")
            info.append(f"write=<{'polling' if self.is_blocked else 'idle'}, bufsize={self.queue.n_bytes}>")
        return "<{}>".format(" ".join(info))

    # -- receiving -------------------------------------------------------------------------------------

    def pause_reading(self):
        if not self.is_reading():
            return
        self.is_paused = True
        self.stop_reading()
        if self.loop.get_debug():
            logger.debug("%r pauses reading", self)

    def resume_reading(self):
        if self.is_closing_ or not self.is_paused:
            return
        self.is_paused = False
        self.start_reading()
        if self.batch.next < self.batch.count:
            self.loop.call_soon(self._read_more)
        if self.loop.get_debug():
            logger.debug("%r resumes reading", self)

    def _read_ready(self):
        """The reader's callback."""
        if self.conn_lost:
            return
        if self.batch.next == self.batch.count and not self.receive():
            return
        try:
            self.deliver()
        except BaseException:
            # datagrams left over by an exception that ends the loop wait for the loop to run again
            if self.batch.next < self.batch.count and self.loop is not None:
                self.loop.call_soon(self._read_more)
            raise

    def _read_more(self):
        if self.batch.next < self.batch.count and self.is_reading():
            self._read_ready()

    cdef int receive(self) except -1:
        """Take a batch from the kernel; returns whether there is one."""
        cdef int error = 0
        # Everything was delivered; an interrupt out of the last one left the numbers as they were.
        self.batch.next = self.batch.count = 0
        try:
            if self.kernel_family in (AF_INET, AF_INET6, AF_UNIX):
                error = self.batch.receive(self.fd_at[0], self.kernel_family)
            else:
                self.receive_by_python()
        except OSError as failure:
            self.protocol.error_received(failure)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as failure:
            self.fatal_error(failure, "Fatal read error on datagram transport")
        if error == EBADF:
            self.stop_reading()  # closed by the program: the fd is another file's, and may stay readable for ever
        # EAGAIN: another reader took it, or its checksum was wrong.  EINTR: it is still there.
        if error and error != EAGAIN and error != EINTR:
            self.protocol.error_received(os_error(error))
        self.aio_context.monitor.n_other_bytes += COUNTED_BYTES * <long long>self.batch.count
        return self.batch.next < self.batch.count

    cdef int receive_by_python(self) except -1:
        """One datagram through socket.recvfrom, for the addresses that only it knows."""
        try:
            data, address = self.sock.recvfrom(MOST_BYTES)
        except (BlockingIOError, InterruptedError):
            return 0
        return self.batch.keep(data, address)

    cdef int deliver(self) except -1:
        """Call datagram_received for each of the batch, as long as the protocol wants more.

        Each leaves the batch before the call: a nested turn continues after it.
        """
        cdef PyObject *arguments[3]
        cdef PyObject *result
        cdef Incoming one
        cdef object protocol
        cdef Batch batch = self.batch
        cdef ContextCore aio_context = self.aio_context
        cdef Resumable below = aio_context.in_delivery
        while batch.next < batch.count:
            must_not(batch.items[batch.next].data == NULL, "a datagram that is delivered is there")
            if self.is_closing_:
                return batch.clear()
            if self.is_paused:
                return 0
            one = batch.items[batch.next]
            batch.next += 1
            protocol = self.protocol
            arguments[0] = <PyObject *>protocol
            arguments[1] = one.data
            arguments[2] = one.address
            aio_context.in_delivery = self
            result = PyObject_VectorcallMethod(<PyObject *>received_name, arguments, 3, NULL)
            aio_context.in_delivery = below
            Py_DECREF(<object>one.data)  # taken by Batch.keep, and the other
            Py_DECREF(<object>one.address)
            if result == NULL:
                self.report_failure()
            Py_XDECREF(result)
        batch.next = batch.count = 0
        return 0

    cdef int go_on(self) except -1:
        if self.batch.next < self.batch.count:
            self.aio_context.schedule(self._read_more, self.loop)
        return 0

    cdef int report_failure(self) except -1:
        """datagram_received raised: call the loop's exception handler; the endpoint stays open."""
        loop = self.loop
        try:
            error_is_set()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            if loop is None:
                raise
            loop.call_exception_handler({
                "message": "Exception in callback _SelectorDatagramTransport._read_ready()",
                "exception": error,
                "transport": self,
                "protocol": self.protocol,
            })
        return 0

    # -- sending ---------------------------------------------------------------------------------------

    def sendto(self, data, addr=None):
        """See asyncio.DatagramTransport.sendto; `bytes` are held by reference, everything else is copied."""
        cdef ul_name name
        cdef unsigned name_bytes
        if not PyBytes_Check(data) and not isinstance(data, (bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if not sends_empty and not data:
            return
        if self.address is not None:
            if addr is not None and addr != self.address:
                raise ValueError(f"Invalid address: must be None or {self.address}")
            addr = self.address
        if self.conn_lost and (self.address is not None or self.sock is None):
            if self.conn_lost >= constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES:
                logger.warning("socket.send() raised exception.")
            self.conn_lost += 1
            return
        if not PyBytes_CheckExact(data):
            # also of subclasses: their __del__ must not run in the middle of the queue
            data = bytes(memoryview(data))
        if self.is_connected:
            if not self.is_blocked:
                self.send_now(data)
                return
            self.queue.push(<bytes>data, None, NULL, 0)
        else:
            name_bytes = internet_name(addr, self.family, &name) if self.is_internet else 0
            self.queue.push(<bytes>data, addr, &name, name_bytes)
            if not self.is_blocked:
                if (name_bytes and self.queue.count() < BATCH and self.queue.n_bytes <= self.high_bytes
                        and not self.is_closing_ and not self.is_shared):
                    if self.sending_context is None:
                        self.sending_context = PyContext_CopyCurrent()
                    self.aio_context.mark_dirty(self, PyBytes_GET_SIZE(<bytes>data))
                    return
                self.send_some()
                try:
                    self.report_errors()
                finally:
                    if self.protocol is not None:
                        self.pause_if_full()
                return
        self.pause_if_full()

    cdef int send_now(self, object data) except -1:
        """send(2) on a connected socket with an empty queue."""
        cdef int sent = send_to_peer(self.fd_at[0], data)
        if sent > 0:
            return 0
        if sent == -EAGAIN or sent == -EINTR:
            self.queue.push(<bytes>data, None, NULL, 0)
            self.wait_for_room()
            return self.pause_if_full()
        self.protocol.error_received(os_error(-sent))
        return 0

    cdef int send_some(self) except -1:
        """Send what the kernel takes; watch for room for the rest.  Errors are kept for report_errors.

        No user code, except for entries without a name, which are never left to a flush.
        """
        cdef DatagramQueue queue = self.queue
        cdef Outgoing *item
        cdef int sent
        while queue.first < queue.end:
            must(queue.n_bytes >= 0, "no less than nothing is queued")
            item = &queue.items[queue.first]
            if item.name_bytes:
                sent = queue.send_named(self.fd_at[0])
            elif self.is_connected:
                sent = send_to_peer(self.fd_at[0], <object>item.data)
            else:
                sent = self.send_by_python(<object>item.data, <object>item.address)
            if sent > 0:
                queue.drop(sent)
            elif sent == -EAGAIN:
                return self.wait_for_room()
            elif sent != -EINTR:
                self.errors.append(os_error(-sent))
                queue.drop(1)
        return self.stop_waiting()

    cdef int send_by_python(self, object data, object address) except? -1:
        """socket.sendto knows more addresses than we do; returns 1, or -EAGAIN."""
        try:
            self.sock.sendto(data, address)
        except (BlockingIOError, InterruptedError):
            return -EAGAIN
        except (SystemExit, KeyboardInterrupt):
            self.queue.drop(1)  # an entry that no flush can send must not stay
            raise
        except BaseException as error:
            self.errors.append(error)
        return 1

    cdef int flush(self) except -1:
        if self.is_blocked or self.queue.first == self.queue.end or self.sock is None:
            return 0
        # Errors are reported in the context of the first sendto(), in which asyncio runs its callbacks.
        cdef object context = self.sending_context
        if context is not None:
            self.sending_context = None
            PyContext_Enter(context)
        try:
            self.send_some()
            if self.errors or (self.queue.n_bytes > self.high_bytes and not self.is_protocol_paused):
                self.schedule_report()
        finally:
            if context is not None:
                PyContext_Exit(context)
        return 0

    cdef int flush_last(self) except -1:
        cdef int sent
        while self.queue.first < self.queue.end and self.queue.items[self.queue.first].name_bytes:
            sent = self.queue.send_named(self.fd_at[0])
            if sent <= 0:
                break
            self.queue.drop(sent)
        return 0

    cdef int wait_for_room(self) except -1:
        if self.conn_lost:
            self.queue.drop(self.queue.count())  # the socket is going to be closed
        elif not self.is_blocked:
            self.is_blocked = True
            self.writer = self.loop._watch_own_writable(self.fd, self.sock, self._sendto_ready)
        return 0

    cdef int stop_waiting(self) except -1:
        if self.is_blocked:
            self.is_blocked = False
            must_not(is_none(<void *>self.writer), "a transport that waits for room watches for it")
            if not self.writer.cancelled():  # as in stop_reading
                self.loop._remove_writer(self.fd)
            self.writer = None
        return 0

    def _sendto_ready(self):
        """The writer's callback: there may be room."""
        self.send_some()
        # Each step also after KeyboardInterrupt or SystemExit out of the one before: nothing calls this again once
        # everything is sent.
        try:
            self.report_errors()
        finally:
            try:
                self.resume_if_drained()
            finally:
                self.end_if_sent()

    cdef int resume_if_drained(self) except -1:
        return self.resume_protocol() if self.queue.n_bytes <= self.low_bytes else 0

    cdef int end_if_sent(self) except -1:
        if self.is_closing_ and not self.conn_lost and self.queue.first == self.queue.end:
            self.conn_lost += 1
            self._call_connection_lost(None)
        return 0

    cdef int schedule_report(self) except -1:
        if not self.has_scheduled_report and self.loop is not None:
            self.aio_context.schedule(self._report_sent, self.loop)
            self.has_scheduled_report = True
        return 0

    def _report_sent(self):
        """Report the result of a flush."""
        self.has_scheduled_report = False
        try:
            self.report_errors()
        finally:
            if self.protocol is not None:
                self.pause_if_full()

    cdef int report_errors(self) except -1:
        """Report to the protocol which sends failed.  Runs user code."""
        try:
            while self.errors and self.protocol is not None:
                error = self.errors.pop(0)
                if isinstance(error, OSError):
                    self.protocol.error_received(error)
                else:
                    self.fatal_error(error, "Fatal write error on datagram transport")
        finally:
            if self.errors:
                self.schedule_report()
        return 0

    # -- flow control ----------------------------------------------------------------------------------

    def get_write_buffer_size(self):
        """Bytes that the kernel has refused, with a header for each datagram."""
        self.flush()
        return self.queue.n_bytes

    def set_write_buffer_limits(self, high=None, low=None):
        self.high_bytes, self.low_bytes = buffer_limits(high, low)
        self.flush()
        self.pause_if_full()

    cdef int pause_if_full(self) except -1:
        return self.pause_protocol() if self.queue.n_bytes > self.high_bytes else 0

    # -- the end ---------------------------------------------------------------------------------------

    def close(self):
        if self.is_closing_:
            return
        self.flush()
        self.is_closing_ = True
        self.stop_reading()
        if self.queue.first == self.queue.end:
            self.lose(None)

    cdef int lose(self, object error) except -1:
        """connection_lost is called in the next turn."""
        self.conn_lost += 1
        self.stop_waiting()
        self.loop.call_soon(self._call_connection_lost, error)
        return 0

    cdef int force_close(self, object error) except -1:
        """Discard what the kernel has refused so far; first send the rest, which asyncio would have sent already."""
        if self.conn_lost:
            return 0
        self.flush()
        self.queue.drop(self.queue.count())
        if not self.is_closing_:
            self.is_closing_ = True
            self.stop_reading()
        return self.lose(error)

    def _call_connection_lost(self, error):
        must_not(self.conn_lost == 0, "connection_lost comes when the connection is lost")
        must_not(is_none(<void *>self.sock), "connection_lost comes once")
        try:
            self.protocol.connection_lost(error)
        finally:
            self.batch.clear()
            self.queue.drop(self.queue.count())
            self.fd_at = &closed_number
            sock, self.sock = self.sock, None
            self.leave_table()
            sock.close()
            self.protocol = None
            self.loop = None

    # -- what asyncio's own modules and others access ----------------------------------------------------

    def get_extra_info(self, name, default=None):
        """See asyncio.BaseTransport."""
        if stock_class.get_extra_info is not stock_extra_info:
            return _stock.bound(stock_class, "get_extra_info", self)(name, default)
        return self.extra.get(name, default)

    cdef int send_queued(self) except -1:
        """Send as much of the queue as the kernel takes; from now on the program may use the socket itself."""
        if self.sock is None or self.is_blocked:
            return 0
        if self.aio_context.is_elsewhere():
            return self.flush_last()
        return self.flush()

    def _send_queued(self):
        self.send_queued()

    def _share(self):
        self.is_shared = True
        self.send_queued()

    @property
    def _sock(self):
        self._share()
        return self.sock

    @property
    def _sock_fd(self):
        self._share()
        return self.fd

    @property
    def _extra(self):
        return self.extra

    @property
    def _address(self):
        return self.address

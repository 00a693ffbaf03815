"""The wire on io_uring: completions instead of readiness.

Receiving:
 1. One multishot RECV per connection takes buffers from the loop's provided-buffer ring; no system call and no arming
    per message.  Without IORING_CQE_F_MORE it is over and armed again, unless it was the end.
 2. A connection that keeps filling large chunks, or found no buffer, switches to bulk mode: the multishot is cancelled,
    and a multishot POLL_ADD with recv(2) straight into the final bytes object saves the copy.  It switches back when
    reads are short.
    The poll is edge-like (measured), so the socket is read until a read falls short.
 3. stop_reading cancels; data that is already posted is held for start_reading.

Sending (see uring/engine for the rule): the flush at the end of the turn queues one SEND or SENDMSG per
connection, submitted in the same enter as the wait; it posts a CQE only if it fell short.  At most one send is in
flight per socket: two would be interleaved (measured).

Waiting for room: after a short send a multishot POLL_ADD reports each time that there is room, and sendmsg(2) fills it.
No send ever waits in the kernel, which would make a thread of it (io-wq) where the socket is ready without having room:
the kernel polls for POLLRDHUP and POLLERR as well, so that to a client that has shut down its side a waiting SEND is
tried 128 times in a row and then handed to a worker thread, which blocks until the client reads, and cannot be
cancelled while it sends.  A multishot poll is edge-like: it reports POLLRDHUP once and then waits for more room.

Quiet sockets: a request in flight holds its file, so that a socket which the program closes would stay open.  Where
the program also has the socket (`sock=`, get_extra_info()), an epoll set, which holds no file, watches for the first
data and after each pause, and for room (`watch_idle`); while data keeps coming, the receive is in the ring.

What SQEs point to: a SEND to chunk bytes, kept alive by SendRequest.keepalive; a SENDMSG to message and vector inside
the held SendRequest as well.  Both end in RingWire.give_back, after release: not before that is the request used for
another send, of any connection.  One that is orphaned is not used again.  A POLL_ADD points to nothing.

Thread: the loop's.
"""

cimport cython
from libc.errno cimport EAGAIN, EBADF, EINTR, EINVAL, EPIPE
from libc.stdint cimport int32_t, uint32_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset
from cpython.bytes cimport PyBytes_FromStringAndSize

from ...fdmon.base cimport FdHandler, check_held, identity
from ...fdmon.io_uring cimport IoUringMonitor, MovableRequest
from ...liburing.liburing cimport *
from ...support.assertions cimport is_none, must, must_if, must_not
from ...support.references cimport References
from ...support.system cimport IOV_MAX, POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDHUP
from ...uring.buffers cimport BufferRing
from ...uring.request cimport ALL_SENT, KIND_COMPLETION, KIND_SKIP_SEND, Request
from .wire cimport (READS_PER_EVENT, SendQueue, Wire, WireEnd, chunks_in, consume_bytes, expect_large_reads,
                    fill_vector, first_chunks, iovec, read_direct)

cdef extern from "../collector.h":
    bint ul_collector_pause()
    void ul_collector_resume(bint was_enabled)

cdef extern from "<sys/socket.h>" nogil:
    int MSG_WAITALL, MSG_DONTWAIT, MSG_NOSIGNAL

cdef extern from *:
    """
    #include <netinet/in.h>
    #include <sys/ioctl.h>
    #include <sys/socket.h>
    static int ul_protocol_of(int fd)
    {
        int protocol = 0;
        socklen_t n_bytes = sizeof protocol;
        getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &n_bytes);
        return protocol;
    }
    /* TCP: each recvmsg(2) reports what is left; since Linux 4.18. */
    static int ul_count_left(int fd, int on)
    {
        return setsockopt(fd, IPPROTO_TCP, 36 /* TCP_INQ */, &on, sizeof on) == 0;
    }
    /* -1 where the kernel does not report it. */
    static int ul_unread_bytes(int fd)
    {
        int n_bytes = -1;
        return ioctl(fd, FIONREAD, &n_bytes) < 0 ? -1 : n_bytes;
    }
    """
    int IPPROTO_TCP
    int ul_protocol_of(int fd) noexcept
    bint ul_count_left(int fd, bint on) noexcept
    int ul_unread_bytes(int fd) noexcept

cdef enum:
    LARGE_CHUNK = 12 * 1024        # a chunk of this size or more counts as large
    SHORT_READ = 6 * 1024          # a bulk read below this counts as short
    LARGE_IN_A_ROW = 4             # so many, and the connection switches to bulk mode
    SHORT_IN_A_ROW = 4             # so many short bulk reads, and it switches back
    BULK_FIRST = 32 * 1024
    BULK_MOST = 256 * 1024
    COMES_BACK = 1 << 30           # in flags: an entry of the FIFO without a CQE
    SEND_MOST = 1 << 30            # bytes per send
    FEW_CHUNKS = 16                # a spare request keeps no longer vector


@cython.no_gc_clear
cdef class ReceiveRequest(MovableRequest):
    """Multishot RECV, or POLL_ADD in bulk mode, of one RingWire."""

    cdef int leave_ring(self) except -1:
        """Data that is posted already is delivered first; then the epoll set watches the socket: see prep_receive.

        A request that does not need to leave is here because it is in doubt (may_have_more).
        """
        cdef RingWire wire = self.wire
        if wire is None or wire.receive is not self:
            return 0
        if wire.file is None:
            wire.come_back(self, POLLIN)
            self.is_in_doubt = False
            wire.is_after_sweep = True
            return 0
        wire.monitor.engine.cancel(self)
        wire.is_quiet = True
        return 0

    cdef int complete(self, int32_t res, uint32_t flags, char *data) except -1:
        cdef RingWire wire = self.wire
        cdef WireEnd end
        if not flags & IORING_CQE_F_MORE:
            self.wire = None
        if wire is None:
            if data != NULL:
                self.buffers.give_back(flags)
            return 0
        self.used_at = wire.monitor.n_sweeps
        try:
            return wire.received(self, res, flags, data)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            end = wire.end
            if end is None:
                raise
            return end.wire_failed(error)

    cdef object subject(self):
        return self.wire.end if self.wire is not None else None


@cython.no_gc_clear
cdef class SendRequest(Request):
    """One SEND or SENDMSG of one RingWire; between two of them a spare of the engine."""

    cdef iovec *room_for(self, size_t n_chunks) except NULL:
        """The vector, long enough."""
        cdef iovec *grown
        if n_chunks > self.vector_capacity:
            grown = <iovec *>realloc(self.vector, n_chunks * sizeof(iovec))
            if grown == NULL:
                raise MemoryError()
            self.vector = grown
            self.vector_capacity = n_chunks
        return self.vector

    def __dealloc__(self):
        free(self.vector)

    cdef int complete(self, int32_t res, uint32_t flags, char *data) except -1:
        self.keepalive = None  # released: the kernel no longer reads it
        cdef RingWire wire = self.wire
        cdef Py_ssize_t asked = self.asked
        cdef WireEnd end
        if wire is None:
            return 0
        wire.give_back(self)
        try:
            return wire.send_completed(res, asked)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            end = wire.end
            if end is None:
                raise
            return end.wire_failed(error)

    cdef object subject(self):
        return self.wire.end if self.wire is not None else None

    cdef void settle(self, int32_t res) noexcept:
        cdef RingWire wire = self.wire
        self.keepalive = None  # exact bytes objects: no user code can run here
        if wire is not None:
            wire.give_back(self)
            wire.skip_send_settled(res, self.asked)

    cdef void drop(self, int32_t res, uint32_t flags) noexcept:
        self.keepalive = None


@cython.no_gc_clear
cdef class RoomRequest(Request):
    """Multishot POLL_ADD for room to send, of one RingWire."""

    cdef int complete(self, int32_t res, uint32_t flags, char *data) except -1:
        cdef RingWire wire = self.wire
        cdef WireEnd end
        if not flags & IORING_CQE_F_MORE:
            self.wire = None
        if wire is None:
            return 0
        try:
            return wire.room_found(self, res, not flags & IORING_CQE_F_MORE)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            end = wire.end
            if end is None:
                raise
            return end.wire_failed(error)

    cdef object subject(self):
        return self.wire.end if self.wire is not None else None


cdef class IdleHandler(FdHandler):
    """The epoll set's view of a RingWire whose requests have left the ring."""

    cdef int on_ready(self, short revents) except -1:
        cdef RingWire wire = self.wire
        cdef WireEnd end = wire.end
        if end is None:
            return 0
        try:
            return wire.woken(revents)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            return end.wire_failed(error)

    cdef object subject(self):
        return self.wire.end


cdef class RingWire(Wire):
    """Receives and sends of one stream socket by io_uring requests."""

    cdef int begin(self, WireEnd end, int fd) except -1:
        self.end = end
        self.monitor = <IoUringMonitor>end.aio_context.monitor
        self.fd = fd
        self.protocol = -1
        if end.is_shared:
            self.file = identity(fd)
            self.is_quiet = True
        return 0

    # -- receiving -------------------------------------------------------------------------------------

    cdef int start_reading(self) except -1:
        self.wants_read = True
        if self.receive is None and self.held_error == 0:
            self.arm()
        return 0

    cdef int stop_reading(self) except -1:
        """The program may read from its duplicate from now on: the request must not take a byte of that data."""
        self.wants_read = False
        if self.idle_read:
            self.idle_read = False
            return self.watch_idle()
        if self.receive is None:
            return 0
        self.monitor.engine.cancel(self.receive)
        return self.submit_shared()

    cdef int arm(self) except -1:
        """Put a RECV or, in bulk mode, a POLL_ADD into the ring."""
        cdef bint is_collecting = ul_collector_pause()
        try:
            return self.prep_receive()
        finally:
            ul_collector_resume(is_collecting)

    cdef int prep_receive(self) except -1:
        cdef io_uring_sqe *sqe
        cdef ReceiveRequest request
        if self.idle_read or self.is_quiet and self.watch_for_data():
            return 0
        if self.file is not None and self.end.fd_at[0] == self.fd and identity(self.fd) != self.file:
            self.wants_read = False  # as in watch_for_data; what the socket object knows of gives EBADF
            return 0
        must(is_none(<void *>self.receive), "one receive at a time is armed for a socket")
        must_not(is_none(<void *>self.end), "a wire that is detached receives nothing")
        request = ReceiveRequest()
        request.wire = self
        if not self.is_bulk:
            request.buffers = self.monitor.engine.buffer_ring()
            if request.buffers is None:
                self.enter_bulk()
        request.is_poll = self.is_bulk
        sqe = self.monitor.engine.get_sqe()
        if self.is_bulk:
            io_uring_prep_poll_multishot(sqe, self.end.fd_at[0], POLLIN | POLLRDHUP)
        else:
            io_uring_prep_recv_multishot(sqe, self.end.fd_at[0], NULL, 0, 0)
            sqe.flags |= IOSQE_BUFFER_SELECT
            sqe.buf_group = request.buffers.group
        self.monitor.engine.add(request, sqe)
        self.receive = request
        if self.file is not None:
            self.monitor.may_last(request)
        return self.submit_shared()

    # -- sockets that the program may close ------------------------------------------------------------

    cdef bint is_closed_by_program(self) except -1:
        """Whether the number may be another file's by now."""
        return self.end.fd_at[0] != self.fd or identity(self.fd) != self.file

    cdef bint watch_for_data(self) except -1:
        """Wait without a request, since no data came for long, or ever.  False: that is not possible."""
        self.is_quiet = False
        if self.is_closed_by_program():
            self.wants_read = False  # nothing is reported any more, as by epoll
            return True
        self.idle_read = True
        self.idle_read = self.watch_idle()
        return self.idle_read

    cdef bint watch_for_room(self) except -1:
        """The same for room.  Blocked data is not urgent, so this never begins on the ring."""
        self.idle_room = True
        self.idle_room = self.watch_idle()
        return self.idle_room

    cdef bint watch_idle(self) except -1:
        """Have the epoll set watch as idle_read and idle_room require.  False: it cannot."""
        cdef IdleHandler old = self.idle
        cdef IdleHandler new = None
        cdef short events = <short>((POLLIN if self.idle_read else 0) | (POLLOUT if self.idle_room else 0))
        if (old.events if old is not None else 0) == events:
            return True
        try:
            # a number that may be another file's is not watched any more, as by epoll
            if events and not self.is_closed_by_program():
                new = IdleHandler(self.fd, events)
                new.wire = self
            self.monitor.rest(old, new)
        except (OSError, MemoryError):
            return False  # no epoll, or no room in the set: the ring holds the file then
        self.idle = new
        return True

    cdef int woken(self, short revents) except -1:
        """As selectors.EpollSelector: an error or a hang-up wakes both directions, first the one that reads.

        A send that is tried before the receive's completion is dispatched would report EPIPE for a connection that was
        reset: the receive has taken the socket's error.  The room is still there in the next wait.
        """
        cdef WireEnd end = self.end
        cdef bint is_readable = self.idle_read and revents & ~POLLOUT
        if self.is_closed_by_program():  # and a duplicate is open, else epoll would not report it
            self.idle_read = self.idle_room = self.wants_read = False
            self.watch_idle()
            return end.read_failed(EBADF) if is_readable else end.write_failed(EBADF)
        if is_readable:
            self.idle_read = False
            self.watch_idle()
            return self.arm()
        return self.room_found(None, 0, False) if self.idle_room and revents & ~POLLIN else 0

    cdef int submit_shared(self) except -1:
        """The program may close the socket before this turn ends: no SQE may name its number then."""
        return self.monitor.engine.submit() if self.end.is_shared else 0

    cdef int received(self, ReceiveRequest request, int32_t res, uint32_t flags, char *data) except -1:
        """A completion of the receive request, in harvest order."""
        cdef bint is_over = not flags & IORING_CQE_F_MORE
        cdef bint is_current = self.receive is request
        must_if(is_over, is_none(<void *>request.owner), "a receive that is over is on no list")
        if is_over and is_current:
            self.receive = None
        if res != -ECANCELED:
            self.is_quiet = False
        try:
            if self.end is not None and self.end.fd_at[0] != self.fd:
                return self.closed_by_program(request, flags, data)
            if request.is_poll:
                if res >= 0:
                    self.read_ready(request, res, flags)
            elif res == -EINVAL and not self.monitor.engine.has_no_buffers:
                # before Linux 6.0: no multishot RECV
                self.monitor.engine.has_no_buffers = True
                self.enter_bulk()
            elif data != NULL or res > 0:
                self.judge_size(res)
                self.deliver(res, flags, data, request.buffers)
            elif res == -ENOBUFS:
                # Armed again as it was, it would compete for the buffers that come back, and those that got some before
                # are quicker: of 1,000 connections with 128 KiB each most waited for half a second.
                self.enter_bulk()
            elif res == 0 or res not in (-ECANCELED, -EAGAIN, -EINTR):
                # end of file or a fatal error; -ECANCELED: ours, or the program's
                return self.stopped(res)
        finally:
            check_held(self)
            # also when a callback raised KeyboardInterrupt: nothing else would arm it again
            if (is_over and self.receive is None and self.wants_read and self.end is not None
                    and not self.held_error):
                self.arm()
        return 0

    cdef int go_on(self) except -1:
        """The request may have ended with what is being delivered; the edge of a poll is used up by it."""
        if not self.wants_read or self.end is None:
            return 0
        if self.receive is None:
            return 0 if self.held_error else self.arm()  # arm() does nothing where the epoll set watches
        return self.come_back(self.receive, POLLIN) if self.receive.is_poll else 0

    cdef int closed_by_program(self, ReceiveRequest request, uint32_t flags, char *data) except -1:
        """Only our request still has the socket: asyncio's recv(2) finds it closed."""
        cdef WireEnd end = self.end
        cdef bint wants_read = self.wants_read
        if data != NULL:
            request.buffers.give_back(flags)
        self.wants_read = False
        if self.receive is not None:
            self.monitor.engine.cancel(self.receive)
        # there was nothing to read when it was closed: epoll would report nothing, either
        return end.read_failed(EBADF) if wants_read and not self.is_quiet else 0

    cdef int deliver(self, int32_t res, uint32_t flags, char *data, BufferRing buffers) except -1:
        """Hand bytes in a provided buffer to the end, or hold a copy while reading is stopped.

        User code may make turns, in which others receive, level upon level: if each of these frames kept its buffer the
        kernel would soon have none.  So the buffer is returned first, except by one frame at a time, which lends it to
        a BufferedProtocol and saves the copy.
        """
        cdef WireEnd end = self.end
        cdef bytes copied = None
        cdef bint is_wanted = end is not None and self.wants_read and self.held is None
        if res > 0 and is_wanted and end.is_buffered and not buffers.is_lent:
            buffers.is_lent = True
            try:
                return end.data_arrived(data, res)
            finally:
                must(buffers.is_lent, "a buffer is lent to one frame at a time")
                buffers.is_lent = False
                buffers.give_back(flags)
        try:
            if res > 0 and end is not None:
                copied = PyBytes_FromStringAndSize(data, res)
        finally:
            buffers.give_back(flags)
        if copied is None:
            return 0
        return end.bytes_arrived(copied) if is_wanted else self.hold_back(copied)

    cdef int judge_size(self, int32_t res) except -1:
        """Large chunks in a row: replace the multishot by reads without a copy."""
        if res < LARGE_CHUNK:
            self.n_large = 0
            return 0
        self.n_large = min(self.n_large + 1, LARGE_IN_A_ROW)
        if self.n_large >= LARGE_IN_A_ROW and not self.is_bulk:
            self.enter_bulk()
            if self.receive is not None:
                self.monitor.engine.cancel(self.receive)
        return 0

    cdef void enter_bulk(self) noexcept:
        self.is_bulk = True
        self.protocol = ul_protocol_of(self.end.fd_at[0]) if self.end is not None else 0
        self.n_short = 0
        expect_large_reads()
        self.hint = BULK_FIRST

    cdef int shared(self) except -1:
        if self.is_counting:
            self.is_counting = False
            ul_count_left(self.end.fd_at[0], False)
        return 0

    cdef int leave_ring(self) except -1:
        """The program may close the socket from now on, and data may never come: better let the epoll set watch."""
        if self.file is not None:
            return 0
        self.file = identity(self.fd)
        self.is_quiet = True
        if self.receive is not None:
            self.receive.leave_ring()
        if self.needs_room:
            self.stop_waiting()
            self.wait_for_room()
        return 0

    cdef int leave_bulk(self) except -1:
        """Reads are short: back to the multishot RECV, which needs no system call for each."""
        if self.monitor.engine.has_no_buffers:
            return 0
        self.is_bulk = False
        self.n_large = 0
        if self.receive is not None:
            self.monitor.engine.cancel(self.receive)
        return 0

    cdef int read_ready(self, ReceiveRequest request, int32_t revents, uint32_t flags) except -1:
        """There may be data to read; READS_PER_EVENT reads in one dispatch, so that others get a turn.

        A peer that is faster than the program causes an edge in each turn, besides the entry that comes back because
        the turn before left data.  If each of them allowed so many reads, and came back, they would pile up.
        """
        if flags & COMES_BACK:
            # Not by the number of the dispatch: an outer one takes what a nested one has left behind.
            revents |= request.revents
            request.is_coming_back, request.revents = False, 0
        if not self.wants_read:
            return 0
        if request.read_at != self.monitor.engine.n_dispatches:
            request.read_at = self.monitor.engine.n_dispatches
            request.reads_left = READS_PER_EVENT
        return self.read_bulk(request, revents)

    cdef int come_back(self, ReceiveRequest request, int32_t revents) except -1:
        """The next dispatch reads, although no edge may come."""
        request.revents |= revents
        if not request.is_coming_back:
            self.monitor.engine.deliver(request, revents, IORING_CQE_F_MORE | COMES_BACK)
            request.is_coming_back = True
        return 0

    cdef int read_bulk(self, ReceiveRequest request, int32_t revents) except -1:
        """recv(2) until nothing is left, straight into bytes objects."""
        cdef Py_ssize_t count
        cdef Py_ssize_t asked
        cdef int n_left = -1
        cdef bint is_after_sweep = self.is_after_sweep
        cdef object data
        cdef WireEnd end
        self.is_after_sweep = False
        while self.wants_read and self.end is not None:
            if self.has_held():
                # Held data comes first.  The edge is used up; the poll that is armed again reports it anew.
                return self.monitor.engine.cancel(request)
            if request.reads_left <= 0:
                # Others get a turn; the edge will not come again, so schedule the rest ourselves.
                return self.come_back(request, revents)
            request.reads_left -= 1
            asked = self.hint
            data = read_direct(self.end.fd_at[0], asked, &count, &n_left if self.is_counting else NULL)
            if count <= 0:
                if count == 0 or (count != -EAGAIN and count != -EINTR):
                    self.stopped(<int32_t>count)
                    if not self.held_error:
                        self.wants_read = False
                return 0
            self.monitor.n_bytes += count
            if is_after_sweep:
                is_after_sweep = False
                # Not if the program has the socket as well: its own recvmsg(2) would bring what it has not requested.
                self.is_counting = (self.protocol == IPPROTO_TCP and not self.end.is_shared
                                    and ul_count_left(self.end.fd_at[0], True))
            if count == asked:
                self.n_short = 0
                self.hint = min(2 * asked, BULK_MOST)
            elif count >= SHORT_READ:
                self.n_short = 0
            else:
                self.n_short = min(self.n_short + 1, SHORT_IN_A_ROW)
                if self.n_short == SHORT_IN_A_ROW:
                    self.leave_bulk()
            end = self.end
            try:
                end.bytes_arrived(<bytes>data)
            except BaseException:
                # KeyboardInterrupt or SystemExit: the edge will not come again for what is still there
                self.come_back(request, revents)
                raise
            check_held(self)
            if count < asked and (self.end is None or not self.may_have_more(request, revents, n_left)):
                return 0
        return 0

    cdef bint may_have_more(self, ReceiveRequest request, int32_t revents, int n_left) except -1:
        """After a read that fell short: the kernel may have stopped it for another reason than that nothing is left.

        The edge is used up and does not come again for the rest.  TCP stops before the end, which the same edge also
        reported, and at urgent data, which no event reports (a multishot poll reports POLLPRI with all data).  UNIX
        sockets stop where passed fds or credentials begin, or urgent data.  Other kinds of sockets may stop anywhere.

        A check after each read costs the echo of 16 KiB 5 % of its CPU, and peers that send urgent data are rare.  So a
        sweep checks a TCP socket, 50 to 100 ms later, if no data has come meanwhile; once that has found something,
        each read checks.
        """
        if revents & (POLLRDHUP | POLLHUP | POLLERR):
            return True
        if self.is_counting:
            return n_left != 0  # -1: this was the first read, which did not report it
        if self.protocol != IPPROTO_TCP:
            return ul_unread_bytes(self.end.fd_at[0]) != 0
        if not request.is_in_doubt:
            request.is_in_doubt = self.monitor.may_last(request)
        return False

    # -- sending ---------------------------------------------------------------------------------------

    cdef bint is_sending(self) noexcept:
        return self.send is not None or self.needs_room

    cdef int send_queued(self) except -1:
        """Called by flush, right before the enter that submits it."""
        cdef SendQueue *queue = &self.end.queue
        cdef bint is_whole = chunks_in(queue) <= <size_t>IOV_MAX
        if self.send_error:
            return self.end.schedule_report()
        if self.send is not None or not queue.n_bytes:
            return 0
        if self.needs_room:
            return self.wait_for_room()
        if not is_whole or (self.is_bulk and queue.n_bytes >= LARGE_CHUNK) or self.is_only_local_send():
            # send(2) beats SEND SQEs here (16 KiB, 100 connections: 0.95 instead of 1.09 of epoll's CPU per message;
            # 1 KiB by a UNIX socket to one peer: 1.11 to 1.15 times the rate)
            self.send_error = self.send_now()
            if self.send_error or (queue.n_bytes == 0 and self.end.wants_report()):
                self.end.schedule_report()
        else:
            self.submit_send(not self.monitor.engine.skip_sends)
        return 0

    cdef bint is_only_local_send(self) noexcept:
        """Nothing else is sent in this turn, and this by a UNIX socket."""
        cdef References dirty = self.end.aio_context.dirty
        if dirty.head != dirty.tail or self.monitor.engine.ring.has_unsubmitted():
            return False
        if self.protocol < 0:
            self.protocol = ul_protocol_of(self.end.fd_at[0])
        return self.protocol == 0

    cdef int submit_send(self, bint with_cqe) except -1:
        cdef bint is_collecting = ul_collector_pause()
        try:
            return self.prep_send(with_cqe)
        finally:
            ul_collector_resume(is_collecting)

    cdef int prep_send(self, bint with_cqe) except -1:
        cdef SendQueue *queue = &self.end.queue
        cdef SendRequest request
        cdef io_uring_sqe *sqe
        cdef Py_ssize_t i
        cdef size_t capacity = min(chunks_in(queue), <size_t>IOV_MAX)
        cdef size_t count
        cdef iovec one
        cdef iovec *vector = &one
        # MSG_DONTWAIT always: a send that waits may occupy a thread of the kernel
        cdef int send_flags = MSG_NOSIGNAL | MSG_DONTWAIT | (0 if with_cqe else MSG_WAITALL)
        must(is_none(<void *>self.send), "one send at a time is in flight for a socket")
        must(queue.n_bytes > 0, "what is sent is queued")
        request = <SendRequest>self.monitor.engine.take_spare()
        if request is None:
            request = SendRequest()
        if capacity > 1:
            vector = request.room_for(capacity)
        count = fill_vector(queue, vector, capacity, SEND_MOST)
        request.asked = 0
        for i in range(<Py_ssize_t>count):
            request.asked += vector[i].iov_len
        request.keepalive = first_chunks(queue, count)
        sqe = self.monitor.engine.get_sqe()
        if count == 1:
            io_uring_prep_send(sqe, self.end.fd_at[0], vector[0].iov_base, vector[0].iov_len, send_flags)
        else:
            memset(&request.message, 0, sizeof(request.message))
            request.message.msg_iov = vector
            request.message.msg_iovlen = count
            io_uring_prep_sendmsg(sqe, self.end.fd_at[0], &request.message, send_flags)
        if with_cqe:
            request.kind = KIND_COMPLETION
            self.monitor.engine.add(request, sqe)
        else:
            request.kind = KIND_SKIP_SEND
            sqe.flags |= IOSQE_CQE_SKIP_SUCCESS
            self.monitor.engine.add_skip_send(request, sqe)
        request.wire = self
        self.send = request
        return self.submit_shared()

    cdef void give_back(self, SendRequest request) noexcept:
        """The kernel is done with the send: the next one of any connection uses its request.  No user code.

        An idle connection has none.  A caller's frame, or the list of sends that are not settled, may still have a
        reference; neither looks at it again unless it is in flight.
        """
        must(<void *>self.send == <void *>request, "a send that is over was in flight")
        must(is_none(<void *>request.owner), "a send that is over is on no list")
        must(is_none(<void *>request.keepalive), "a spare request keeps nothing alive")
        self.send = None
        request.wire = None
        if request.vector_capacity > FEW_CHUNKS:
            free(request.vector)
            request.vector = NULL
            request.vector_capacity = 0
        self.monitor.engine.keep_spare(request)

    cdef void skip_send_settled(self, int32_t res, Py_ssize_t asked) noexcept:
        """Runs inside wait: bookkeeping only; reports to the end wait for its flush."""
        cdef WireEnd end = self.end
        cdef bint is_collecting
        if end is None:
            return
        is_collecting = ul_collector_pause()
        try:
            self.judge_sent(end, res, asked)
        except MemoryError:
            self.send_error = ENOBUFS
            end.aio_context.mark_dirty(end, 0)  # to be reported: see send_queued
        ul_collector_resume(is_collecting)

    cdef int judge_sent(self, WireEnd end, int32_t res, Py_ssize_t asked) except -1:
        if res == ALL_SENT:
            must(asked <= end.queue.n_bytes, "what was sent is on the queue until it is settled")
            consume_bytes(&end.queue, asked)
            if end.queue.n_bytes:
                end.aio_context.mark_dirty(end, 0)  # more than one send describes
            elif end.wants_report():
                end.schedule_report()
        elif res >= 0 or res == -EAGAIN:
            consume_bytes(&end.queue, max(res, 0))
            self.needs_room = True
            end.aio_context.mark_dirty(end, 0)
            end.schedule_report()
        elif res == -ECANCELED or res == -EINTR:
            end.aio_context.mark_dirty(end, 0)
        else:
            self.send_error = -res
            end.schedule_report()
        return 0

    cdef int send_completed(self, int32_t res, Py_ssize_t asked) except -1:
        """A SEND that posts a CQE in any case is over."""
        cdef WireEnd end = self.end
        if end is None:
            return 0
        if res < 0 and res not in (-EAGAIN, -EINTR, -ECANCELED, -ENOBUFS):
            return end.write_failed(-res)
        consume_bytes(&end.queue, max(res, 0))
        # The next send is queued before this one is reported to the end, which may write: that must go behind it.
        if res < asked:
            self.wait_for_room()
        elif end.queue.n_bytes:
            self.submit_send(True)
        return end.sent() if res > 0 else 0

    cdef int send_now(self) except -1:
        cdef int error
        if self.send_error:
            return self.send_error
        if self.send is not None and self.send.kind == KIND_SKIP_SEND:
            # queued in this turn and not submitted yet: it must go first
            self.monitor.engine.submit()
        if self.send is not None or self.needs_room:
            return 0
        error = self.write_all()
        if error == 0 and self.end.queue.n_bytes:
            self.wait_for_room()
        return error

    cdef int wait_for_room(self) except -1:
        """The kernel takes nothing more for now: room_found continues.  Idempotent."""
        cdef bint is_collecting
        self.needs_room = True
        if self.room is not None or self.idle_room:
            return 0
        is_collecting = ul_collector_pause()
        try:
            return self.arm_room()
        finally:
            ul_collector_resume(is_collecting)

    cdef int arm_room(self) except -1:
        cdef RoomRequest request
        cdef io_uring_sqe *sqe
        if self.file is not None and self.watch_for_room():
            return 0
        request = RoomRequest()
        sqe = self.monitor.engine.get_sqe()
        request.wire = self
        io_uring_prep_poll_multishot(sqe, self.end.fd_at[0], POLLOUT)
        self.monitor.engine.add(request, sqe)
        self.room = request
        return self.submit_shared()

    cdef int room_found(self, RoomRequest request, int32_t res, bint is_over) except -1:
        """The socket may have room, or an error: a send shows which."""
        cdef WireEnd end = self.end
        cdef Py_ssize_t n_before
        cdef int error = 0
        if is_over and self.room is request:
            self.room = None
        if end is None or not self.needs_room:
            return 0
        n_before = end.queue.n_bytes
        if res >= 0:
            # as much as it takes: the poll reports room that appears, not room that remains
            error = self.write_all()
        elif res not in (-ECANCELED, -EAGAIN, -EINTR):  # -ECANCELED: a broad cancel of others, or the loop moved
            error = -res
        if error:
            self.stop_waiting()
            if error == EPIPE and self.receive is not None:
                # A reset: the receive has taken the socket's error, and reports it in this dispatch.
                self.send_error = error
                return end.schedule_report()
            return end.write_failed(error)
        if end.queue.n_bytes:
            self.wait_for_room()
        else:
            self.stop_waiting()
        return end.sent() if end.queue.n_bytes < n_before else 0

    cdef int stop_waiting(self) except -1:
        cdef RoomRequest request = self.room
        self.needs_room = False
        self.room = None
        if self.idle_room:
            self.idle_room = False
            self.watch_idle()
        if request is not None:
            request.wire = None
            self.monitor.engine.cancel(request)
        return 0

    cdef int stop_writing(self) except -1:
        if self.send is not None:
            # Orphaned: it keeps its bytes until the kernel releases them, and a completion that was harvested but not
            # dispatched yet must not count against a queue that was cleared.
            self.monitor.engine.cancel(self.send)
            self.send.wire = None
            self.send = None
        return self.stop_waiting()

    cdef int detach(self) except -1:
        self.stop_reading()
        if self.receive is not None:
            self.receive.wire = None
            self.receive = None
        self.stop_writing()
        self.held = None
        must(is_none(<void *>self.receive), "no receive has a wire that is detached")
        must(is_none(<void *>self.room), "nothing waits for room for a wire that is detached")
        must(is_none(<void *>self.send), "no send is of a wire that is detached")
        self.end = None
        return 0

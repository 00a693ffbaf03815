"""How bytes travel between a stream transport and its socket.

A transport (asyncio's interface) owns a WireEnd, the end that is notified; a Wire makes the system calls.  Two wires
exist: `ReadinessWire` here, for epoll and poll, and `RingWire` in its own file, for completions on io_uring.  No other
code depends on the difference.

Writing: chunks collect in a SendQueue during a turn; `flush` at its end hands them over as one vectored send.  `bytes`
are held by reference (the transport copied everything that can change).

Invariant: queue.n_bytes is what the kernel has not taken, as far as we know; a chunk leaves the queue only when its
last byte was taken.

Thread: the loop's.
"""

from libc.errno cimport EAGAIN, EBADF, EINTR, errno
from libc.stdlib cimport free, malloc
from cpython.bytes cimport (PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE,
                            _PyBytes_Resize)
from cpython.ref cimport PyObject

from ...aio.handles cimport enter_context, leave_context
from ...fdmon.base cimport FdHandler, check_held, identity
from ...support.assertions cimport is_none, length_of_list, must, must_if, must_not
from ...support.capi cimport decref, incref
from ...support.guard cimport FREE_THREADED, own_memory
from ...support.errors cimport os_error
from ...support.system cimport IOV_MAX, POLLIN, POLLOUT
from ..base cimport Transport

cdef extern from "<sys/socket.h>" nogil:
    """
    #include <errno.h>
    #include <netinet/in.h>
    #include <string.h>
    #include <stdlib.h>
    #include <sys/uio.h>
    /*
     * A read of up to 256 KiB gets a block of its own.  With glibc's first thresholds (mallopt(3)) it is often mapped
     * for each read and unmapped after it, and the kernel clears its pages: 94 us instead of 28 for an echo of 128 KiB.
     * glibc raises the thresholds to what it sees freed, but these blocks are shortened before that.  So show it one
     * once, as a program would that uses such blocks; up to 2 MiB of freed memory then stay with the process.
     */
    static void ul_show_block(void)
    {
        static int is_shown;
        void *volatile block;                        /* else the compiler removes both calls */

        if (__atomic_exchange_n(&is_shown, 1, __ATOMIC_RELAXED))
            return;
        block = malloc(1024 * 1024);
        free(block);
    }
    static ssize_t ul_send_vector(int fd, struct iovec *vector, size_t count)
    {
        struct msghdr message;
        if (count == 1)
            return send(fd, vector->iov_base, vector->iov_len, MSG_DONTWAIT | MSG_NOSIGNAL);
        memset(&message, 0, sizeof message);
        message.msg_iov = vector;
        message.msg_iovlen = count;
        return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    /* TCP only: another family's control messages could bring descriptors. */
    static ssize_t ul_recv_counted(int fd, void *buffer, size_t n_bytes, int *n_left)
    {
        struct iovec vector = {buffer, n_bytes};
        char control[CMSG_SPACE(sizeof(int))];
        struct msghdr message;
        struct cmsghdr *header;
        ssize_t count;
        memset(&message, 0, sizeof message);
        message.msg_iov = &vector;
        message.msg_iovlen = 1;
        message.msg_control = control;
        message.msg_controllen = sizeof control;
        *n_left = -1;
        count = recvmsg(fd, &message, MSG_DONTWAIT);
        if (count < 0 && errno != EAGAIN && errno != EINTR && errno != ECONNRESET) {
            /* Refused by a sandbox?  Then fd -1 does not give EBADF. */
            int error = errno;
            if (recvmsg(-1, &message, MSG_DONTWAIT) >= 0 || errno != EBADF)
                return recv(fd, buffer, n_bytes, MSG_DONTWAIT);
            errno = error;
        }
        header = count > 0 ? CMSG_FIRSTHDR(&message) : NULL;
        if (header != NULL && header->cmsg_level == IPPROTO_TCP && header->cmsg_type == 36 /* TCP_CM_INQ */)
            memcpy(n_left, CMSG_DATA(header), sizeof *n_left);
        return count;
    }
    """
    void ul_show_block()
    ssize_t recv(int fd, void *buffer, size_t n_bytes, int flags)
    ssize_t ul_recv_counted(int fd, void *buffer, size_t n_bytes, int *n_left)
    ssize_t ul_send_vector(int fd, iovec *vector, size_t count)
    int MSG_DONTWAIT

cdef enum:
    STAGING_BYTES = 256 * 1024     # the one buffer that all small reads share
    DIRECT_FROM = 8192             # reads that are expected to be larger go straight into their bytes object
    DIRECT_MOST = 256 * 1024
    DIRECT_FIRST = 64 * 1024

# Shared by all loops, or without a GIL by those of a thread: a read ends in a copy before any Python code can run.
cdef char *shared_staging = NULL


cdef void *new_staging() noexcept nogil:
    return malloc(STAGING_BYTES)


cdef char *small_reads() except NULL:
    """Where small reads arrive."""
    global shared_staging
    cdef char *staging
    if FREE_THREADED:
        staging = <char *>own_memory(new_staging)
    else:
        if shared_staging == NULL:
            shared_staging = <char *>new_staging()
        staging = shared_staging
    if staging == NULL:
        raise MemoryError()
    return staging


# -- the send queue: chunks to send, first in first out ---------------------------------------------------------
#
# Part of the transport, and without a list for the one chunk that there mostly is: both would be objects for each
# connection.  The garbage collector need not know of exact bytes objects.

cdef int push_chunk(SendQueue *queue, bytes chunk) except -1:
    """Append it; exact bytes."""
    cdef PyObject *old
    cdef list both = None
    if queue.chunks != NULL and PyBytes_CheckExact(<object>queue.chunks):
        both = []  # before the queue is looked at: a collection may run user code, which may write, or send
    old = queue.chunks
    if old == NULL:
        incref(<PyObject *>chunk)  # undone by clear_queue, or when a second chunk comes
        queue.chunks = <PyObject *>chunk
    elif PyBytes_CheckExact(<object>old):
        both.append(<object>old)
        both.append(chunk)
        incref(<PyObject *>both)  # undone by clear_queue
        queue.chunks = <PyObject *>both
        decref(old)
    else:
        (<list>old).append(chunk)
    queue.n_bytes += PyBytes_GET_SIZE(chunk)
    must(queue.n_bytes >= 0, "no less than nothing is queued")
    return 0


cdef void clear_queue(SendQueue *queue) noexcept:
    """Release all chunks; no user code can run here."""
    cdef PyObject *old = queue.chunks
    queue.chunks = NULL
    queue.n_bytes = queue.first = queue.first_offset = 0
    if old != NULL:
        decref(old)  # taken by push_chunk


cdef int consume_bytes(SendQueue *queue, Py_ssize_t n_bytes) except -1:
    """The kernel took this many bytes from the front."""
    cdef Py_ssize_t left
    cdef list chunks
    must(n_bytes >= 0, "the kernel takes no less than nothing")
    must(n_bytes <= queue.n_bytes, "the kernel takes no more than is queued")
    if n_bytes == queue.n_bytes:
        clear_queue(queue)
        return 0
    queue.n_bytes -= n_bytes
    if PyBytes_CheckExact(<object>queue.chunks):
        queue.first_offset += n_bytes
        return 0
    chunks = <list>queue.chunks
    while n_bytes:
        left = PyBytes_GET_SIZE(<bytes>chunks[queue.first]) - queue.first_offset
        if n_bytes < left:
            queue.first_offset += n_bytes
            break
        n_bytes -= left
        queue.first_offset = 0
        chunks[queue.first] = b""
        queue.first += 1
    must(queue.first < length_of_list(<void *>chunks), "what is not sent yet is on the queue")
    if queue.first > 256:
        del chunks[:queue.first]
        queue.first = 0
    return 0


cdef size_t chunks_in(const SendQueue *queue) noexcept:
    """How many chunks are not fully sent."""
    if queue.chunks == NULL:
        return 0
    if PyBytes_CheckExact(<object>queue.chunks):
        return 1
    return <size_t>(len(<list>queue.chunks) - queue.first)


cdef object first_chunks(SendQueue *queue, size_t count):
    """An object that keeps the first `count` chunks alive."""
    must_not(queue.chunks == NULL, "what is sent is queued")
    if PyBytes_CheckExact(<object>queue.chunks):
        return <object>queue.chunks
    if count == 1:
        return (<list>queue.chunks)[queue.first]
    return (<list>queue.chunks)[queue.first:queue.first + <Py_ssize_t>count]


cdef size_t fill_vector(const SendQueue *queue, iovec *vector, size_t capacity, Py_ssize_t most_bytes) noexcept:
    """Describe most_bytes of the queue's front; returns the number of entries.  Valid while the chunks live.

    A length in an SQE has 32 bits: a longer one would lose its upper bits.
    """
    cdef Py_ssize_t i = queue.first
    cdef Py_ssize_t offset = queue.first_offset
    cdef Py_ssize_t total = i + <Py_ssize_t>chunks_in(queue)
    cdef size_t count = 0
    cdef PyObject *chunk
    while i < total and count < capacity and most_bytes > 0:
        chunk = queue.chunks
        if not PyBytes_CheckExact(<object>chunk):
            chunk = <PyObject *>(<list>queue.chunks)[i]
        vector[count].iov_base = PyBytes_AS_STRING(<bytes>chunk) + offset
        vector[count].iov_len = min(PyBytes_GET_SIZE(<bytes>chunk) - offset, most_bytes)
        most_bytes -= vector[count].iov_len
        count += 1
        offset = 0
        i += 1
    return count


cdef class WireEnd(Transport):
    """What a wire reports to its transport; all of these may run user code, unless stated otherwise."""

    def __dealloc__(self):
        clear_queue(&self.queue)

    cdef int data_arrived(self, const char *data, Py_ssize_t n_bytes) except -1:
        """Bytes came in; `data` is valid until the return.  Only while is_receiving."""
        raise NotImplementedError

    cdef int bytes_arrived(self, bytes data) except -1:
        """The same, in a bytes object."""
        raise NotImplementedError

    cdef int deliver_rest(self) except -1:
        """In a nested turn made by the protocol in the middle of a chunk: deliver the rest of that before other data.

        The frame below on the stack keeps its memory, and finds the rest taken.
        """
        cdef Py_ssize_t n_bytes = self.n_rest
        if n_bytes and self.is_receiving:
            self.n_rest = 0
            self.data_arrived(self.rest, n_bytes)
        return 0

    cdef int eof_arrived(self) except -1:
        raise NotImplementedError

    # A wire runs in the loop's context, which is no connection's: these methods switch to the connection's. They are
    # for wires only; a transport must not call them on behalf of its user.

    cdef int read_failed(self, int error) except -1:
        cdef object aio_ctx = self.aio_ctx
        left = enter_context(aio_ctx)
        try:
            return self.fail_reading(error)
        finally:
            leave_context(aio_ctx, left)

    cdef int write_failed(self, int error) except -1:
        cdef object aio_ctx = self.aio_ctx
        left = enter_context(aio_ctx)
        try:
            return self.fail_writing(error)
        finally:
            leave_context(aio_ctx, left)

    cdef int wire_failed(self, object error) except -1:
        """The wire itself failed, for lack of memory: bytes may be lost, so that the connection has to end."""
        cdef object aio_ctx = self.aio_ctx
        left = enter_context(aio_ctx)
        try:
            return self.fail(error)
        finally:
            leave_context(aio_ctx, left)

    cdef int sent(self) except -1:
        """The queue became shorter."""
        cdef object aio_ctx = self.aio_ctx
        if not self.wants_report():
            return 0
        left = enter_context(aio_ctx)
        try:
            return self.after_sent()
        finally:
            leave_context(aio_ctx, left)

    cdef int fail_reading(self, int error) except -1:
        raise NotImplementedError

    cdef int fail_writing(self, int error) except -1:
        raise NotImplementedError

    cdef int fail(self, object error) except -1:
        raise NotImplementedError

    cdef int after_sent(self) except -1:
        raise NotImplementedError

    cdef bint wants_report(self) noexcept:
        """Whether it must learn that the queue is empty: it is paused, closing, or a future waits.  No user code."""
        raise NotImplementedError

    cdef int schedule_report(self) except -1:
        """Have wire.report_sent() called soon, outside of wait and flush.  No user code."""
        raise NotImplementedError


cdef class Wire:
    """The system calls of one connected stream socket."""

    cdef int begin(self, WireEnd end, int fd) except -1:
        """Carry the bytes of `end`, whose socket is `fd`; called once, before any other method."""
        raise NotImplementedError

    cdef int start_reading(self) except -1:
        """From now on data, end of file and errors are reported to the end.  Idempotent."""
        raise NotImplementedError

    cdef int stop_reading(self) except -1:
        """Nothing is reported until start_reading; nothing that arrives is lost.  Idempotent."""
        raise NotImplementedError

    cdef int send_queued(self) except -1:
        """Send what the queue has, by the end of this turn; no effect while a send is under way."""
        raise NotImplementedError

    cdef int send_now(self) except -1:
        """Send what the kernel takes at once, with a system call; the rest as send_queued.

        Returns 0 or an errno that is fatal for the connection; it is not reported to the end.  No user code.
        """
        raise NotImplementedError

    cdef int send_last(self) except -1:
        """The loop closes: send what the kernel takes at once, and nothing after it.  No user code."""
        cdef Py_ssize_t taken
        cdef bint is_short
        while self.end.queue.n_bytes and not self.is_sending():
            must(<void *>self.end.wire == <void *>self, "only the wire of a transport takes from its queue")
            taken = self.write_vector(&is_short)
            if taken <= 0:
                break
            consume_bytes(&self.end.queue, taken)
        return 0

    cdef bint is_sending(self) noexcept:
        """Whether a send is under way: `sent` or `write_failed` will follow."""
        raise NotImplementedError

    cdef int report_sent(self) except -1:
        """Report the result of a flush or a settled send.  Runs user code."""
        cdef WireEnd end = self.end
        cdef int error = self.send_error
        if end is None:
            return 0
        if error:
            self.send_error = 0
            return end.write_failed(error)
        return end.sent()

    cdef int stop_writing(self) except -1:
        """The connection is given up: forget the send that is under way."""
        raise NotImplementedError

    cdef int detach(self) except -1:
        """The socket is going to be closed; nothing is reported any more."""
        raise NotImplementedError

    cdef int go_on(self) except -1:
        """A frame below delivers for this wire, and a nested turn begins: see Resumable.go_on."""
        return 0  # a socket that is readable is reported again

    cdef int shared(self) except -1:
        """The program also has the socket from now on: see WireEnd.is_shared."""
        return 0

    cdef int leave_ring(self) except -1:
        """The same, in the loop's thread: nothing may hold the file for long, since the program may close it."""
        return 0

    cdef int hold_back(self, bytes data) except -1:
        """Keep bytes that arrived while reading is stopped; deliver_held hands them over, in order."""
        if self.held is None:
            self.held = []
        self.held.append(data)
        return 0

    cdef int hold_first(self, bytes data) except -1:
        """Keep bytes that the end was given and did not take, before those already held."""
        if self.held is None:
            self.held = []
        self.held.insert(0, data)
        return 0

    cdef int hold_end(self) except -1:
        """Keep the end of file behind the held data."""
        self.held_error = 1
        return 0

    cdef int stopped(self, int result) except -1:
        """End of file (0) or a negated errno; reported after the data that came before."""
        cdef WireEnd end = self.end
        if end is None:
            return 0
        if result == 0 and self.send_error:
            # A failed send took the socket's error, and receiving only sees the end: it was still a reset.
            return self.report_sent()
        if not self.wants_read or self.held is not None:
            self.held_error = result if result else 1
            return 0
        return end.eof_arrived() if result == 0 else end.read_failed(-result)

    cdef bint has_held(self) noexcept:
        """Whether data or an end arrived while reading was stopped, and waits for deliver_held."""
        return self.held is not None or self.held_error != 0

    cdef int deliver_held(self) except -1:
        """Reading resumes: first the end gets the data that arrived before that.  Runs user code."""
        cdef WireEnd end
        cdef int error
        cdef bytes data
        while self.held is not None and self.wants_read and self.end is not None:
            end = self.end
            if end.n_rest:
                end.deliver_rest()  # of a frame below: it came before
                if end.n_rest:
                    return 0
                continue
            must_not(length_of_list(<void *>self.held) == 0, "a wire without held bytes has no list of them")
            data = <bytes>self.held.pop(0)
            if not self.held:
                self.held = None
            end.bytes_arrived(data)
            check_held(self)
        if self.held is None and self.held_error and self.wants_read and self.end is not None:
            error = self.held_error
            self.held_error = 0
            self.stopped(0 if error == 1 else error)
        return 0

    cdef Py_ssize_t write_vector(self, bint *is_short) except? -1:
        """One sendmsg(2) of the queue's front: bytes taken, or a negated errno.  No user code.

        Parameters:
            is_short: set to whether the kernel took less than it was given.
        """
        cdef iovec few[8]
        cdef iovec *vector = few
        cdef size_t capacity = 8
        cdef size_t count = chunks_in(&self.end.queue)
        cdef ssize_t taken
        cdef size_t i
        cdef Py_ssize_t asked = 0
        if count > 8:
            capacity = min(count, <size_t>IOV_MAX)
            vector = <iovec *>malloc(capacity * sizeof(iovec))
            if vector == NULL:
                raise MemoryError()
        count = fill_vector(&self.end.queue, vector, 1 if self.end.keeps_records else capacity, 1 << 30)
        while True:
            taken = ul_send_vector(self.end.fd_at[0], vector, count)
            if taken >= 0 or errno != EINTR:
                break
        if taken < 0:
            taken = -errno
        for i in range(count):
            asked += vector[i].iov_len
        must(taken <= asked, "the kernel takes no more than it is given")
        is_short[0] = taken < asked
        if vector != few:
            free(vector)
        return taken

    cdef int write_all(self) except? -1:
        """sendmsg(2) until the queue is empty or the kernel takes no more: 0 or an errno.  No user code.

        A short count is the end: the kernel has noted that we wait for room, and reports it even where it reports only
        changes.  An error in between is reported in the same way.
        """
        cdef SendQueue *queue = &self.end.queue
        cdef Py_ssize_t taken
        cdef bint is_short = False
        while queue.n_bytes and not is_short:
            taken = self.write_vector(&is_short)
            if taken < 0:
                return 0 if taken == -EAGAIN else <int>-taken
            consume_bytes(queue, taken)
        return 0


cdef void expect_large_reads() noexcept:
    """Before the first read_direct() of a connection."""
    ul_show_block()


cdef object read_direct(int fd, Py_ssize_t n_bytes, Py_ssize_t *count, int *n_left=NULL):
    """recv(2) straight into a new bytes object, without a copy.

    Parameters:
        n_bytes: at most so many.
        count: set to the bytes read, 0 at end of file, or a negated errno.
        n_left: for a TCP socket that has TCP_INQ: set to the bytes that are still to be read, 1 for the end;
            -1 if not reported.

    Returns: the bytes object, None for a count of 0 and below.
    """
    cdef bytes made = PyBytes_FromStringAndSize(NULL, n_bytes)
    cdef PyObject *data
    cdef object result
    if n_left == NULL:
        count[0] = recv(fd, PyBytes_AS_STRING(made), n_bytes, MSG_DONTWAIT)
    else:
        count[0] = ul_recv_counted(fd, PyBytes_AS_STRING(made), n_bytes, n_left)
    if count[0] < 0:
        count[0] = -errno
    if count[0] <= 0:
        return None
    if count[0] == n_bytes:
        return made
    # _PyBytes_Resize needs the only reference
    data = <PyObject *>made
    incref(data)
    made = None
    _PyBytes_Resize(&data, count[0])
    result = <object>data
    decref(data)
    return result


cdef class WireHandler(FdHandler):
    """The fd monitor's view of a ReadinessWire."""

    cdef int on_ready(self, short revents) except -1:
        cdef ReadinessWire wire = self.wire
        cdef WireEnd end
        try:
            # as selectors.EpollSelector: an error or a hang-up wakes both directions
            if revents & ~POLLOUT and wire.wants_read and wire.end is not None:
                wire.read()
            if revents & ~POLLIN and wire.wants_write and wire.end is not None:
                wire.send_error = wire.write_some()
                wire.report_sent()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            end = wire.end
            if end is None:
                raise
            end.wire_failed(error)
        return 0

    cdef object subject(self):
        return self.wire.end

    cdef bint is_closed_by_program(self) except -1:
        return self.wire.end is not None and self.wire.end.fd_at[0] != self.fd


cdef class ReadinessWire(Wire):
    """recv(2) and sendmsg(2) when the monitor reports readiness; for epoll and poll."""

    cdef int begin(self, WireEnd end, int fd) except -1:
        small_reads()
        self.end = end
        self.fd = fd
        if end.is_shared:
            self.file = identity(fd)
        return 0

    cdef int shared(self) except -1:
        if self.file is None:
            self.file = identity(self.fd)
        return 0

    cdef bint is_closed_by_program(self) except -1:
        """Whether the number may be another file's by now."""
        return self.end.fd_at[0] != self.fd or self.file is not None and identity(self.fd) != self.file

    cdef int watch(self) except -1:
        """Have the monitor watch for what we want now."""
        cdef WireHandler old = self.handler
        cdef WireHandler new = None
        cdef short events = (POLLIN if self.wants_read else 0) | (POLLOUT if self.wants_write else 0)
        if (old.events if old is not None else 0) == events or self.fd < 0:
            return 0
        if events and self.is_closed_by_program():
            if events & ~(old.events if old is not None else 0):
                raise os_error(EBADF)
            events = 0
        if events:
            new = WireHandler(self.fd, events)
            new.wire = self
            new.may_be_closed = new.is_brief = self.end.is_shared
        self.handler = None  # what remains when the kernel refuses the change
        self.end.aio_context.set_handler(old, new)
        self.handler = new
        must_if(not is_none(<void *>new), not is_none(<void *>self.end), "a wire that is detached watches for nothing")
        return 0

    cdef int start_reading(self) except -1:
        self.wants_read = True
        return self.watch()

    cdef int stop_reading(self) except -1:
        self.wants_read = False
        return self.watch()

    cdef int read(self) except -1:
        cdef Py_ssize_t count
        cdef Py_ssize_t asked
        cdef int rounds = READS_PER_EVENT
        cdef object data = None
        cdef char *staging = NULL
        cdef WireEnd end
        # while something is held back, new bytes wait in the socket
        while rounds and self.wants_read and self.end is not None and not self.has_held():
            rounds -= 1
            end = self.end
            if self.hint > DIRECT_FROM:
                asked = self.hint
                data = read_direct(self.end.fd_at[0], asked, &count)
            else:
                asked = STAGING_BYTES
                staging = small_reads()
                count = recv(self.end.fd_at[0], staging, asked, MSG_DONTWAIT)
                if count < 0:
                    count = -errno
            if count <= 0:
                if count == 0:
                    end.eof_arrived()
                elif count != -EAGAIN and count != -EINTR:
                    end.read_failed(<int>-count)
                return 0
            end.aio_context.monitor.n_bytes += count
            if not end.keeps_records:  # a smaller read would cut off a record
                self.learn(count)
            if data is None:
                # A copy first: get_buffer() of a BufferedProtocol may let another thread's loop read into staging.
                end.bytes_arrived(PyBytes_FromStringAndSize(staging, count))
            else:
                end.bytes_arrived(<bytes>data)
                data = None
            check_held(self)
            if count < asked:
                return 0
        return 0

    cdef int learn(self, Py_ssize_t count) except -1:
        """Estimate the size of the next read from the last."""
        if count <= DIRECT_FROM:
            self.hint = 0
        elif self.hint == 0:
            expect_large_reads()
            self.hint = DIRECT_FIRST
        elif count == self.hint and self.hint < DIRECT_MOST:
            self.hint *= 2
        return 0

    cdef int send_queued(self) except -1:
        """Called by flush."""
        if self.wants_write or self.send_error or not self.end.queue.n_bytes:
            return 0
        self.send_error = self.send_now()
        if self.send_error or (self.end.queue.n_bytes == 0 and self.end.wants_report()):
            self.end.schedule_report()
        return 0

    cdef int send_now(self) except -1:
        # While something waits for room, on_ready sends and reports it: sending here could empty the queue
        # without a call of resume_writing.
        return 0 if self.wants_write else self.write_some()

    cdef int write_some(self) except -1:
        """Send what the kernel takes; watch for POLLOUT for the rest.  0 or an errno."""
        cdef int error
        must_not(is_none(<void *>self.end), "a wire that is detached sends nothing")
        error = self.write_all()
        if error == 0:
            self.wants_write = self.end.queue.n_bytes != 0
            self.watch()
        return error

    cdef bint is_sending(self) noexcept:
        return self.wants_write

    cdef int stop_writing(self) except -1:
        self.wants_write = False
        return self.watch()

    cdef int detach(self) except -1:
        self.wants_read = self.wants_write = False
        self.watch()
        self.end = None
        return 0

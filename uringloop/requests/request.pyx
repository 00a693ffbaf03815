"""One request of add_sqe() and the callback to which it reports its completions.

How it works:
 1. Completions come in harvest order through `complete`, each once (uring/engine unlinks it before the call, so that
    a nested turn may run in a callback).
 2. The callback runs as the context runs its other callbacks: in the contextvars context in which the request was made.
 3. `cancel` asks the kernel, and repeats it until the final completion is there.

Invariant: `keepalive` is dropped by the final completion only.  A request that is over holds nothing.

Thread: the context's.
Not here: awaiting (`awaiting`), SQEs (`submit`), hold and release (`uring/request`).
"""

cimport cython
from libc.stdint cimport int32_t, int64_t, uint32_t
from posix.unistd cimport close as close_fd
from cpython.contextvars cimport PyContext_CopyCurrent

from ..aio.context_core cimport ContextCore
from ..aio.handles cimport Handle, TimerHandle
from ..liburing.liburing cimport IORING_CQE_BUFFER_SHIFT, IORING_CQE_F_BUFFER, IORING_CQE_F_MORE, IORING_CQE_F_NOTIF
from ..liburing.numbers cimport OP_PROVIDE_BUFFERS, OP_REMOVE_BUFFERS, OP_TIMEOUT
from ..support.assertions cimport is_none, must, must_if, must_not
from ..uring.buffers cimport LentBuffers
from ..uring.engine cimport Engine
from ..uring.request cimport CANCELLING, DONE, KIND_RAW, Request, encode

from ..aio.reporter import LOG_REPORTER

cdef double FIRST_RETRY_S = 0.002
cdef double LAST_RETRY_S = 0.25
cdef double OVERFLOW_FROM_S = 0.01  # after this delay it was not found several times


@cython.freelist(256)
@cython.final
cdef class Cqe:
    """One completion: `res` is the result (a count, an fd, ..., or a negated errno), `flags` are IORING_CQE_F_*.

    Immutable; unpacks into (res, flags).
    """

    def __cinit__(self, int32_t res=0, uint32_t flags=0):
        self.res = res
        self.flags = flags

    @property
    def more(self):
        """Whether further completions of the same request follow (IORING_CQE_F_MORE); False for the last one."""
        return (self.flags & IORING_CQE_F_MORE) != 0

    @property
    def is_notification(self):
        """This one only reports that a zero-copy send has released its memory (IORING_CQE_F_NOTIF, since Linux 6.0)."""
        return (self.flags & IORING_CQE_F_NOTIF) != 0

    @property
    def buffer_id(self):
        """Which provided buffer was used; None for none (IORING_CQE_F_BUFFER)."""
        return self.flags >> IORING_CQE_BUFFER_SHIFT if self.flags & IORING_CQE_F_BUFFER else None

    def __iter__(self):
        return iter((self.res, self.flags))

    def __eq__(self, other):
        if not isinstance(other, Cqe):
            return NotImplemented
        return self.res == (<Cqe>other).res and self.flags == (<Cqe>other).flags

    def __hash__(self):
        return hash((self.res, self.flags))

    def __repr__(self):
        return f"Cqe(res={self.res}, flags={self.flags:#x})"

    def __reduce__(self):
        return Cqe, (self.res, self.flags)


@cython.no_gc_clear
cdef class SqeRequest(Request):
    """A request that add_sqe() made: the common base of its two kinds."""

    def __cinit__(self):
        self.kind = KIND_RAW

    def __init__(self):
        raise TypeError("requests are made by add_sqe()")

    # -- what the kinds define ----------------------------------------------------------------------------

    cdef ContextCore its_context(self):
        """The context whose ring it is on; None once it is over."""
        raise NotImplementedError

    cdef int check_open(self) except -1:
        """RuntimeError if no request can be made any more."""
        return self.its_context().check_open()

    cdef object tables(self):
        """Registered buffers that it may use, which live as long as it does; None.  After prep, which may make them."""
        return None

    cdef object reporter(self):
        """The receiver of errors, by its call_exception_handler()."""
        raise NotImplementedError

    cdef Request in_kernel(self):
        """The Request that is held for the kernel."""
        return self

    cdef int iterate(self) except -1:
        """Prepare it for iteration: it posts several completions, and has no callback."""
        raise NotImplementedError

    cdef int arrive(self, Cqe cqe) except -1:
        """Take a completion, where there is no callback."""
        return 0

    cdef int wake(self) except -1:
        """Wake its waiters."""
        return 0

    cdef int detach(self) except -1:
        """It is over: its_context() is None from now on."""
        return 0

    # -- what its maker sees ---------------------------------------------------------------------------

    @property
    def cqe(self):
        """The completion, a Cqe(res, flags); None before.  With a callback or multishot the newest one."""
        if self.last_cqe is not None:
            self.is_seen = True
        return self.last_cqe

    @property
    def user_data(self):
        """The SQE's user_data, for requests that name other requests (timeout_update, poll_update, cancel64)."""
        return encode(self.in_kernel())

    def done(self):
        """Whether the final completion was delivered: the kernel touches nothing of it any more."""
        return self.is_over

    def cancel(self):
        """Ask the kernel to cancel.

        Returns: False if the request is over.  Otherwise exactly one final completion still comes: -ECANCELED, or the
            true result if it was too late.  The kernel does not find links of a chain behind the one that runs:
            cancel that one.
        Raises: RuntimeError from another thread.
        """
        cdef Request held = self.in_kernel()
        cdef Engine engine
        if self.is_over or held.owner is None or self.its_context().monitor.is_closed:
            return False
        engine = self.its_context().engine
        if engine.is_elsewhere():
            raise RuntimeError("Non-thread-safe operation: this thread does not run the loop; "
                               "use loop.call_soon_threadsafe(request.cancel)")
        if held.state == CANCELLING:
            engine.cancel_behind(held)  # once more: the kernel may have missed it
        else:
            engine.cancel(held)
        if self.retry is None:
            self.ask_again_in(FIRST_RETRY_S)
        return True

    def _cancel_again(self, delay_s):
        """The kernel does not find a request that is just between two states (measured: IOSQE_ASYNC reads about to be
        polled for, multishot timeouts between two ticks): repeat the cancel until it is over.
        """
        cdef TimerHandle handle = self.retry
        cdef double next_s = min(2 * <double>delay_s, LAST_RETRY_S)
        self.retry = None
        if (handle is None or self.is_over or self.in_kernel().owner is None
                or self.its_context().monitor.is_closed):
            return
        # the same handle, in its old place in the heap: where memory is short the retries must not end here
        self.schedule_retry(handle, next_s)
        handle.first = next_s
        self.cancel()
        if self.opcode == OP_TIMEOUT and self.is_multishot and delay_s > OVERFLOW_FROM_S and not self.is_over:
            (<Engine>self.its_context().engine).ring.fill_cq()

    cdef int ask_again_in(self, double delay_s) except -1:
        cdef TimerHandle handle = TimerHandle.__new__(TimerHandle)
        handle.callback = self._cancel_again
        handle.first = delay_s
        handle.n_args = 1
        handle.loop = self.reporter()
        handle.context = PyContext_CopyCurrent()
        return self.schedule_retry(handle, delay_s)

    cdef int schedule_retry(self, TimerHandle handle, double delay_s) except -1:
        cdef ContextCore context = self.its_context()
        must_not(self.is_over, "a request that is over is not cancelled again")
        must(is_none(<void *>self.retry), "one cancel at a time is to be repeated")
        handle.when_ns = context.now_ns() + <int64_t>(delay_s * 1e9)
        handle.when_s = handle.when_ns / 1e9
        context.timers.push(handle)
        self.retry = handle
        return 0

    def __repr__(self):
        state = "done" if self.is_over else "in flight"
        result = f" {self.last_cqe!r}" if self.last_cqe is not None else ""
        return f"<{type(self).__name__} {opcode_name(self.opcode)} fd={self.fd} {state}{result}>"

    # -- completions -----------------------------------------------------------------------------------

    cdef int complete(self, int32_t res, uint32_t flags, char *data) except -1:
        cdef Cqe cqe
        cdef Handle handle = None
        must_not(self.is_over, "nothing completes after the final completion")
        try:
            cqe = Cqe.__new__(Cqe)
            cqe.res = res
            cqe.flags = flags
            if self.callback is not None:
                handle = self.its_context().ready.new_handle()
            else:
                self.arrive(cqe)
        except MemoryError:
            # nothing has changed yet: it is the first one of the next turn
            (<Engine>self.its_context().engine).fifo.put_back(self.in_kernel(), res, flags)
            raise
        if not flags & IORING_CQE_F_NOTIF or self.is_multishot or self.callback is not None:
            self.last_cqe = cqe
        try:
            try:
                if flags & IORING_CQE_F_BUFFER or self.opcode == OP_PROVIDE_BUFFERS or self.opcode == OP_REMOVE_BUFFERS:
                    self.count_buffers(res, flags)
            finally:
                if handle is not None:
                    self.run_callback(cqe, handle)
        finally:
            if not flags & IORING_CQE_F_MORE:
                self.finish()
            else:
                self.wake()
        return 0

    cdef void drop(self, int32_t res, uint32_t flags) noexcept:
        if self.makes_fds and res >= 0:
            close_fd(res)

    cdef object count_buffers(self, int32_t res, uint32_t flags):
        """Keep memory of provided buffers as long as the kernel may write to it.  Its release may run user code."""
        cdef Engine engine = self.its_context().engine
        cdef LentBuffers lent = engine.lent
        if flags & IORING_CQE_F_BUFFER:
            return None if lent is None else lent.use(self.group, flags >> IORING_CQE_BUFFER_SHIFT)
        if res < 0 or self.its_context().monitor.is_closed:
            return None
        if self.opcode == OP_PROVIDE_BUFFERS:
            engine.lend_to_kernel().lend(self.group, self.first_id, self.fd, self.in_kernel().keepalive)
        elif lent is not None and not self.is_forced_async:
            return lent.remove(self.group, res)
        return None

    cdef int run_callback(self, Cqe cqe, Handle handle) except -1:
        """Run the callback as the loop runs callbacks; an exception goes to the exception handler.

        Parameters:
            handle: an empty one, made before.
        """
        # own references: a nested turn in the callback may deliver the end, which releases them
        cdef ContextCore context = self.its_context()
        must(is_none(<void *>handle.callback), "a handle that is filled is an empty one")
        self.is_seen = True
        handle.callback = self.callback
        handle.first = cqe
        handle.n_args = 1
        handle.loop = self.reporter()
        handle.context = self.callback_context
        handle.run()
        return context.ready.recycle(handle)

    cdef int finish(self) except -1:
        """The kernel has released it: also release everything it keeps."""
        cdef object reporter
        cdef Request held = self.in_kernel()
        must_not(self.is_over, "a request is over once")
        must_if(is_none(<void *>held.owner), held.state == DONE, "a request that left its ring is done")
        self.is_over = True
        if self.retry is not None:
            self.retry.cancel()
            self.retry = None
        self.wake()
        reporter = self.reporter() if self.touched is not None else None
        self.detach()
        self.callback = self.callback_context = None
        if reporter is not None:
            self.report_touched(reporter)
        held.keepalive = None  # last: the release of these objects may run user code
        return 0

    cdef int report_touched(self, object reporter) except -1:
        cdef object touched = self.touched
        self.touched = None
        if touched():
            reporter.call_exception_handler({
                "message": f"the SQE of {self!r} was written to after its prep function had returned: the pointer is "
                           "valid during that call only",
            })
        return 0

    cdef object subject(self):
        return self.callback if self.callback is not None else self


@cython.no_gc_clear
cdef class ContextRequest(SqeRequest):
    """A request that AioContext.add_sqe() made; its callback gets each completion.

    Thread: the context's.  Source: io_uring_enter(2), io_uring_prep_*(3).
    """

    cdef ContextCore its_context(self):
        return self.aio_context

    cdef object reporter(self):
        return LOG_REPORTER

    cdef int detach(self) except -1:
        self.aio_context = None
        return 0


cdef object opcode_name(unsigned char opcode):
    from .. import liburing
    try:
        return liburing.Op(opcode).name
    except (AttributeError, ValueError):
        return f"opcode {opcode}"

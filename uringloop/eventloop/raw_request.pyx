"""One raw request from add_sqe() to its final completion: awaited, iterated, or told to a callback.

How it works:
 1. Completions come in harvest order through `complete`, each once (fdmon/io_uring unlinks it before the call, so that
    a nested turn may run in a callback).
 2. Who awaits gets a RequestWait, which hands the task a plain asyncio.Future that the next completion resolves.
 3. A task that is cancelled there asks the kernel to cancel, and waits on: only the final completion says that the
    kernel has let go of the memory.  Then it raises the CancelledError.

Invariant: `keepalive` is dropped by the final completion only.  A request that is over holds nothing.

Thread: the loop's.
Not here: SQEs and what may stand in them (`raw`), hold and release (`uring/request`).
"""

cimport cython
from libc.stdint cimport int32_t, uint32_t
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from posix.unistd cimport close as close_fd

from ..aio.handles cimport Handle
from ..fdmon.io_uring cimport IoUringMonitor
from ..liburing.liburing cimport (ECANCELED, IORING_CQE_BUFFER_SHIFT, IORING_CQE_F_BUFFER, IORING_CQE_F_MORE,
                                  IORING_CQE_F_NOTIF)
from ..uring.request cimport CANCELLING, IN_FLIGHT, KIND_RAW, Request, encode
from .core cimport LoopCore

# A StopIteration raised by compiled code gets a traceback, with a frame made for it: 200 ns per await.  So the slot
# that the interpreter calls (SEND with None) is a function of ours that raises none.
cdef extern from *:
    """
    typedef int (*ul_advance)(PyObject *wait, PyObject **found);
    static ul_advance ul_advance_wait;

    static PyObject *ul_wait_next(PyObject *wait)
    {
        PyObject *found = NULL;
        if (ul_advance_wait(wait, &found) != 1)
            return found; /* a future, or NULL with an exception */
        PyErr_SetObject(PyExc_StopIteration, found);
        Py_DECREF(found);
        return NULL;
    }

    static void ul_install_next(PyObject *type, void *advance)
    {
        ul_advance_wait = (ul_advance)advance;
        ((PyTypeObject *)type)->tp_iternext = ul_wait_next;
    }
    """
    void ul_install_next(object type, void *advance)

import os
import sys
from asyncio import exceptions, futures

cdef object CancelledError = exceptions.CancelledError
cdef object Future = futures.Future
# Unbound, which saves looking them up for each completion.
cdef object is_future_done = Future.done
cdef object resolve_future = Future.set_result
cdef double FIRST_RETRY_S = 0.002
cdef double LAST_RETRY_S = 0.25
cdef object is_finalizing = sys.is_finalizing  # C variables: module globals may be gone when the last request goes


cdef object os_error(int32_t res):
    """The OSError subclass of a negated errno."""
    return OSError(-res, os.strerror(-res))


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
        """This one only says that a zero-copy send has let go of its memory (IORING_CQE_F_NOTIF, since Linux 6.0)."""
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
cdef class RawRequest(Request):
    """A request that add_sqe() made.  It is awaitable; it is not a Future.

    Returns of `await request`: the result, 0 or more.  Raises: the OSError subclass of a negative one.  A task that is
    cancelled while it awaits cancels the request, and goes on when the kernel has let go of the memory.  After the
    completion every await gives the same.

    A multishot request is iterated instead: `async for cqe in request` gives each Cqe as it is, the last one
    with `cqe.more` false.

    Thread: the loop's.  Source: io_uring_enter(2), io_uring_prep_*(3).
    """

    def __cinit__(self):
        self.kind = KIND_RAW

    def __init__(self):
        if self.loop is None:
            raise TypeError("requests are made by loop.add_sqe()")

    # -- what its maker sees ---------------------------------------------------------------------------

    @property
    def cqe(self):
        """The completion, a Cqe(res, flags); None before.  With a callback or multishot the newest one."""
        if self.last_cqe is not None:
            self.is_seen = True
        return self.last_cqe

    @property
    def user_data(self):
        """What stands in the SQE's user_data, for requests that name others (timeout_update, poll_update, cancel64)."""
        return encode(self)

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
        cdef IoUringMonitor monitor
        if self.is_over or self.owner is None or self.loop.is_loop_closed:
            return False
        monitor = <IoUringMonitor>self.loop.aio_context.monitor
        if monitor.ring.is_enabled and not monitor.ring.is_mine():
            raise RuntimeError("Non-thread-safe operation: this thread does not run the loop; "
                               "use loop.call_soon_threadsafe(request.cancel)")
        if self.state == CANCELLING:
            self.state = IN_FLIGHT  # asked again: the kernel may have missed it
        monitor.cancel(self)
        if self.retry is None:
            self.retry = self.loop.call_later(FIRST_RETRY_S, self.cancel_again, FIRST_RETRY_S)
        return True

    def cancel_again(self, delay_s):
        """The kernel does not find a request that is just changing hands (measured: IOSQE_ASYNC reads on their way to
        being polled for, multishot timeouts between two ticks): ask again until it is over.
        """
        self.retry = None
        if not self.is_over and self.owner is not None and not self.loop.is_loop_closed:
            delay_s = min(2 * delay_s, LAST_RETRY_S)
            self.retry = self.loop.call_later(delay_s, self.cancel_again, delay_s)
            self.cancel()

    def __await__(self):
        if self.is_multishot:
            raise TypeError("a multishot request is not awaited: async for cqe in request")
        if self.callback is not None:
            raise TypeError("this request tells its callback; it is not awaited")
        return RequestWait.__new__(RequestWait, self, False)

    def __aiter__(self):
        if not self.is_multishot or self.arrived is None:
            raise TypeError("only a request made with multishot=True and without a callback is iterated")
        return self

    def __anext__(self):
        return RequestWait.__new__(RequestWait, self, True)

    async def aclose(self):
        """Cancel a multishot request that is iterated, and wait until it is over; fds that nobody took are closed."""
        cdef Cqe cqe
        self.cancel()
        try:
            while True:
                cqe = await self.__anext__()
                if self.makes_fds and cqe.res >= 0:
                    close_fd(cqe.res)
        except StopAsyncIteration:
            return

    def __repr__(self):
        state = "done" if self.is_over else "in flight"
        result = f" {self.last_cqe!r}" if self.last_cqe is not None else ""
        return f"<RawRequest {opcode_name(self.opcode)} fd={self.fd} {state}{result}>"

    # -- completions -----------------------------------------------------------------------------------

    cdef int complete(self, int32_t res, uint32_t flags, char *data) except -1:
        cdef Cqe cqe = Cqe.__new__(Cqe, res, flags)
        if not flags & IORING_CQE_F_NOTIF or self.is_multishot or self.callback is not None:
            self.last_cqe = cqe
        try:
            if self.callback is not None:
                self.tell(cqe)
            elif self.arrived is not None:
                self.arrived.append(cqe)
        finally:
            if not flags & IORING_CQE_F_MORE:
                self.finish()
            elif self.arrived is not None:
                self.wake()
        return 0

    cdef int tell(self, Cqe cqe) except -1:
        """Run the callback as the loop runs callbacks; an exception goes to the loop's exception handler."""
        cdef LoopCore loop = self.loop  # a nested turn in the callback may bring the end, which lets go of it
        cdef Handle handle = loop.aio_context.ready.new_handle()
        self.is_seen = True
        handle.callback = self.callback
        handle.first = cqe
        handle.n_args = 1
        handle.loop = loop
        handle.aio_context = self.callback_context
        handle.run()
        return loop.aio_context.ready.recycle(handle)

    cdef int finish(self) except -1:
        """The kernel has let go: let go of everything, too."""
        cdef LoopCore loop = self.loop
        cdef object touched = self.touched
        self.is_over = True
        if self.retry is not None:
            self.retry.cancel()
            self.retry = None
        self.wake()
        self.loop = None
        self.callback = self.callback_context = self.touched = None
        if touched is not None and touched():
            loop.call_exception_handler({
                "message": f"the SQE of {self!r} was written to after its prep function had returned: the pointer is "
                           "valid during that call only",
            })
        if (self.last_cqe.res < 0 and not self.is_seen and self.arrived is None and self.last_cqe.res != -ECANCELED
                and not loop.is_loop_closed):
            self.untold = loop
        self.keepalive = None  # last: user code may run as these things go
        return 0

    cdef int wake(self) except -1:
        cdef object waiter = self.waiter
        if waiter is not None:
            self.waiter = None
            if not self.loop.is_loop_closed and not is_future_done(waiter):
                resolve_future(waiter, None)
        return 0

    cdef object behind(self):
        return self.callback if self.callback is not None else self

    def __del__(self):
        # Nobody can see them any more: file descriptors that were made for this request.
        if self.makes_fds:
            for cqe in self.arrived if self.arrived is not None else (() if self.is_seen else (self.last_cqe,)):
                if cqe is not None and (<Cqe>cqe).res >= 0:
                    close_fd((<Cqe>cqe).res)
            self.makes_fds = False
        if self.untold is not None and not self.is_seen and not is_finalizing():
            loop, self.untold = self.untold, None
            loop.call_exception_handler({
                "message": f"{self!r} failed, and nobody awaited it",
                "exception": os_error(self.last_cqe.res),
            })


cdef object opcode_name(unsigned char opcode):
    from .. import liburing
    try:
        return liburing.Op(opcode).name
    except (AttributeError, ValueError):
        return f"opcode {opcode}"


@cython.freelist(64)
@cython.final
cdef class RequestWait:
    """Awaiting a request, or the next completion of a multishot one; what `yield from` needs of an iterator."""

    cdef RawRequest request
    cdef object future      # what the task waits for now; the request's waiter
    cdef object cancelled   # the exception that was thrown in, to be raised when the kernel has let go
    cdef bint is_next       # for the next completion, not for the final one

    def __cinit__(self, RawRequest request not None, bint is_next):
        self.request = request
        self.is_next = is_next

    def __iter__(self):
        return self

    def __await__(self):
        return self

    def __next__(self):
        return self.step()

    def send(self, value):
        return self.step()

    cdef object step(self):
        """A future to wait for; StopIteration with the result, or the exception, when there is nothing to wait for."""
        cdef PyObject *found = NULL
        if not advance(self, &found):
            return take_reference(found)
        raise StopIteration(take_reference(found))

    def throw(self, error, value=None, traceback=None):
        """A task that is cancelled comes here: cancel the request, and wait until it is over all the same."""
        if value is not None:
            error = value
        elif isinstance(error, type):
            error = error()
        if traceback is not None:
            error = error.with_traceback(traceback)
        if self.request.waiter is not None and self.request.waiter is not self.future:
            raise error  # another task waits for it: this one never did
        if self.request.is_over or not isinstance(error, CancelledError):
            # not a cancellation: the coroutine is closed, or its task may not await this (another loop's)
            if self.request.waiter is self.future:
                self.request.waiter = None
            if isinstance(error, GeneratorExit):
                self.close()
            raise error
        self.future = self.request.waiter = None
        if self.cancelled is None:
            self.cancelled = error
        self.request.cancel()
        return self.step()

    def close(self):
        """The coroutine is thrown away and cannot wait: the request is held until the kernel lets go of it."""
        if self.request.waiter is self.future:
            self.request.waiter = None
        if not self.request.is_over and self.future is not None:
            self.request.cancel()


cdef int advance(RequestWait wait, PyObject **found) except -1:
    """Give a future to wait for (0), or the result (1), as an owned reference."""
    cdef RawRequest request = wait.request
    cdef object result
    if wait.is_next:
        if wait.cancelled is None and request.arrived:
            result = request.arrived.popleft()
            return give_reference(result, found, 1)
        if request.is_over:
            raise StopAsyncIteration() if wait.cancelled is None else wait.cancelled
    elif request.is_over:
        if wait.cancelled is not None:
            raise wait.cancelled
        request.is_seen = True
        if request.last_cqe.res < 0:
            raise os_error(request.last_cqe.res)
        result = request.last_cqe.res
        return give_reference(result, found, 1)
    if request.waiter is not None and request.waiter is not wait.future:
        raise RuntimeError(f"{request!r} is awaited already; one task at a time")
    wait.future = request.waiter = Future(loop=request.loop)
    wait.future._asyncio_future_blocking = True
    return give_reference(wait.future, found, 0)


cdef inline int give_reference(object result, PyObject **found, int what) noexcept:
    Py_INCREF(result)  # undone by take_reference, or handed on by ul_wait_next
    found[0] = <PyObject *>result
    return what


cdef inline object take_reference(PyObject *found):
    cdef object result = <object>found
    Py_DECREF(result)  # taken by give_reference
    return result


ul_install_next(RequestWait, <void *>advance)

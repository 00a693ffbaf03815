"""A raw request of a loop: awaited, iterated, or reported to a callback.

How it works:
 1. Awaiting makes a RequestWait, which hands the task a plain asyncio.Future that the next completion resolves.
 2. A task that is cancelled there asks the kernel to cancel, and keeps waiting: only the final completion shows that
    the kernel has released the memory.  Then it raises the CancelledError.
 3. The kernel has not the iterated request itself, but a RequestProxy, which knows it weakly.  So dropping the last
    reference is noticed although the request is in flight; nothing could stop it any more, so it is cancelled.

Invariant: a RequestProxy keeps its RawRequest alive while a task waits for it, and from its closing until the final
completion.

Thread: the loop's.
Not here: completions and callbacks (`request`), SQEs (`submit`), hold and release (`uring/request`).
"""

cimport cython
from libc.stdint cimport int32_t, uint32_t
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from cpython.weakref cimport PyWeakref_NewRef
from posix.unistd cimport close as close_fd

from ..aio.context_core cimport ContextCore
from ..aio.owner cimport ContextOwner
from ..liburing.liburing cimport ECANCELED, IORING_CQE_F_MORE
from ..support.assertions cimport is_none, must, must_if, must_not
from ..support.errors cimport os_error
from ..uring.request cimport CANCELLING, KIND_RAW, Request
from .request cimport Cqe, SqeRequest

# A StopIteration raised by compiled code gets a traceback, with a frame made for it: 200 ns per await.  So the slot
# that the interpreter calls (SEND with None) is our own function, which raises none.
cdef extern from *:
    """
    typedef int (*ul_advance)(PyObject *wait, PyObject **found);
    typedef void (*ul_take_back)(PyObject *wait);
    static ul_advance ul_advance_wait;
    static ul_take_back ul_take_back_result;

    static PyObject *ul_wait_next(PyObject *wait)
    {
        PyObject *found = NULL;
        if (ul_advance_wait(wait, &found) != 1)
            return found; /* a future, or NULL with an exception */
        PyErr_SetObject(PyExc_StopIteration, found);
        Py_DECREF(found);
        if (!PyErr_ExceptionMatches(PyExc_StopIteration))
            ul_take_back_result(wait); /* MemoryError: it is not delivered */
        return NULL;
    }

    static void ul_install_next(PyObject *type, void *advance, void *take_back)
    {
        ul_advance_wait = (ul_advance)advance;
        ul_take_back_result = (ul_take_back)take_back;
        ((PyTypeObject *)type)->tp_iternext = ul_wait_next;
    }
    """
    void ul_install_next(object type, void *advance, void *take_back)

import sys
import warnings
from collections import deque
from asyncio import exceptions, futures

cdef object CancelledError = exceptions.CancelledError
cdef object Future = futures.Future
# Unbound, which saves a lookup for each completion.
cdef object is_future_done = Future.done
cdef object resolve_future = Future.set_result
cdef object is_finalizing = sys.is_finalizing  # C variables: module globals may be gone when the last request is freed


@cython.no_gc_clear
cdef class RawRequest(SqeRequest):
    """A request that loop.add_sqe() made.  It is awaitable; it is not a Future.

    `await request` returns the result, 0 or more.  It raises the OSError subclass of a negative one.  A task that is
    cancelled while it awaits cancels the request, and continues when the kernel has released the memory.  After the
    completion every await gives the same result.

    A multishot request is iterated instead: `async for cqe in request` gives each Cqe as it is, the last one
    with `cqe.more` false; negative results are not raised.  To stop before that, call aclose(), or iterate within
    contextlib.aclosing(request).  If dropped instead, it is cancelled with a ResourceWarning.

    Thread: the loop's.  Source: io_uring_enter(2), io_uring_prep_*(3).
    """

    cdef ContextCore its_context(self):
        return self.loop.aio_context

    cdef int check_open(self) except -1:
        if self.loop.is_loop_closed or self.loop.aio_context.monitor.is_closed:
            raise RuntimeError("Event loop is closed")
        return 0

    cdef object tables(self):
        return self.loop._registered_buffers

    cdef object reporter(self):
        return self.loop

    cdef Request in_kernel(self):
        return self if self.proxy is None else self.proxy

    cdef int iterate(self) except -1:
        """From now on hold its RequestProxy in its place."""
        must(is_none(<void *>self.proxy), "one RequestProxy is in the kernel for a request")
        self.arrived = deque()
        self.proxy = RequestProxy.__new__(RequestProxy)
        self.proxy.makes_fds = self.makes_fds
        self.proxy.request = PyWeakref_NewRef(self, None)
        return 0

    def __await__(self):
        if self.is_multishot:
            raise TypeError("a multishot request is not awaited: async for cqe in request")
        if self.callback is not None:
            raise TypeError("this request reports to its callback; it is not awaited")
        return RequestWait.__new__(RequestWait, self, False)

    def __aiter__(self):
        if not self.is_multishot or self.arrived is None:
            raise TypeError("only a request made with multishot=True and without a callback is iterated")
        return self

    def __anext__(self):
        return RequestWait.__new__(RequestWait, self, True)

    async def aclose(self):
        """Cancel the request, and return when it is over; a task that iterates it meanwhile reaches its loop's end.

        Completions that were not taken are dropped, and fds in them closed.  To get them all, cancel() and keep
        iterating.
        """
        cdef object cancelled = None
        self.cancel()
        self.is_closing = True
        self.discard_arrived()
        if self.proxy is not None and not self.is_over:
            self.proxy.kept = self  # dropped by detach
        while not self.is_over:
            future = Future(loop=self.loop)
            self.closers = [] if self.closers is None else self.closers
            self.closers.append(future)
            try:
                await future
            except CancelledError as error:
                cancelled = error  # as for an await of the request: not before the kernel has released it
        if cancelled is not None:
            raise cancelled

    # -- completions -----------------------------------------------------------------------------------

    cdef int arrive(self, Cqe cqe) except -1:
        must_not(self.is_over, "nothing arrives after the final completion")
        if self.arrived is not None:
            if self.is_closing:
                self.discard(cqe)
            else:
                self.arrived.append(cqe)
        return 0

    cdef int discard(self, object cqe) except -1:
        """This completion will not be delivered."""
        if self.makes_fds and (<Cqe>cqe).res >= 0:
            close_fd((<Cqe>cqe).res)
        return 0

    cdef int discard_arrived(self) except -1:
        while self.arrived:
            self.discard(self.arrived.popleft())
        return 0

    cdef int set_waiter(self, object waiter) except -1:
        """The Future that waits from now on, or None; while there is one the request must live."""
        self.waiter = waiter
        if self.proxy is not None:
            self.proxy.kept = self if waiter is not None or self.is_closing else None
            must_if(not is_none(<void *>waiter), <void *>self.proxy.kept == <void *>self,
                    "a request that is waited for is kept alive")
        return 0

    cdef int wake(self) except -1:
        cdef object waiter = self.waiter
        cdef list closers
        if waiter is not None:
            self.resolve(waiter)
            if self.waiter is waiter:
                self.set_waiter(None)
        if self.is_over and self.closers is not None:
            closers, self.closers = self.closers, None
            for waiter in closers:
                self.resolve(waiter)
        return 0

    cdef int resolve(self, object waiter) except -1:
        cdef ContextOwner loop = self.loop
        if not loop.is_loop_closed and not is_future_done(waiter):
            try:
                resolve_future(waiter, None)
            except MemoryError:
                loop._after_memory_error()  # the future is done, but asyncio has dropped the task's wake-up
        return 0

    cdef int finish(self) except -1:
        if (self.last_cqe.res < 0 and not self.is_seen and self.arrived is None and self.last_cqe.res != -ECANCELED
                and not self.loop.is_loop_closed):
            self.reports_to = self.loop
        return SqeRequest.finish(self)

    cdef int detach(self) except -1:
        must(self.is_over, "a request has its loop until it is over")
        self.loop = None
        if self.proxy is not None:
            self.proxy.kept = None
        return 0

    # -- unreachable from user code --------------------------------------------------------------------

    def __del__(self):
        if self.proxy is not None:
            if not is_finalizing() and self.drop_in_flight():
                return
            self.proxy.request = None
        if self.makes_fds:
            for cqe in self.arrived if self.arrived is not None else (() if self.is_seen else (self.last_cqe,)):
                if cqe is not None:
                    self.discard(cqe)
            self.makes_fds = False
        if self.reports_to is not None and not self.is_seen and not is_finalizing():
            loop, self.reports_to = self.reports_to, None
            loop.call_exception_handler({
                "message": f"{self!r} failed, and was never awaited",
                "exception": os_error(-self.last_cqe.res),
            })

    cdef int drop_in_flight(self) except -1:
        """Cancel it, since nothing iterates it or could stop it any more; fds that arrive until then are closed.

        Returns: 0 if there is nothing to cancel.
        """
        cdef ContextOwner loop = self.loop
        if (self.proxy.owner is None or loop is None or loop.is_loop_closed
                or loop.aio_context.monitor.is_closed):
            return 0
        self.is_closing = True
        self.discard_arrived()
        self.proxy.kept = self  # it lives on until the final completion; dropped by detach
        # Not at once: this may be another thread's garbage collection, or the middle of work on the ring.
        loop.call_soon_threadsafe(self.cancel)
        if self.proxy.state != CANCELLING:
            warnings.warn(f"unclosed {self!r}: use contextlib.aclosing(request), or await request.aclose()",
                          ResourceWarning, source=self)
        return 1


@cython.no_gc_clear
@cython.final
cdef class RequestProxy(Request):
    """Stands in the kernel for a RawRequest that is iterated, which has its memory and its completions."""

    def __cinit__(self):
        self.kind = KIND_RAW

    cdef RawRequest known(self):
        """The request; None when it is gone."""
        return self.kept if self.kept is not None or self.request is None else self.request()

    cdef int complete(self, int32_t res, uint32_t flags, char *data) except -1:
        cdef RawRequest request = self.known()
        if request is None:
            # it was freed with the interpreter, or with a loop that was left open
            if self.makes_fds and res >= 0:
                close_fd(res)
            if not flags & IORING_CQE_F_MORE:
                self.keepalive = None
            return 0
        return request.complete(res, flags, data)

    cdef void drop(self, int32_t res, uint32_t flags) noexcept:
        if self.makes_fds and res >= 0:
            close_fd(res)

    cdef object subject(self):
        return self.known()

    def __repr__(self):
        return repr(self.subject())


@cython.freelist(64)
@cython.final
cdef class RequestWait:
    """Awaiting a request, or the next completion of a multishot one; the iterator that `yield from` needs."""

    cdef RawRequest request
    cdef object future      # the task waits for this now; the request's waiter
    cdef object cancelled   # the exception that was thrown in, to be raised when the kernel has released the memory
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
        """Called in a task that is cancelled: cancel the request, but still wait until it is over."""
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
                self.request.set_waiter(None)
            if isinstance(error, GeneratorExit):
                self.close()
            raise error
        self.future = None
        self.request.set_waiter(None)
        if self.cancelled is None:
            self.cancelled = error
        self.request.cancel()
        return self.step()

    def close(self):
        """The coroutine is thrown away and cannot wait: the request is held until the kernel releases it."""
        if self.request.waiter is self.future:
            self.request.set_waiter(None)
        if not self.request.is_over and self.future is not None:
            self.request.cancel()


cdef int advance(RequestWait wait, PyObject **found) except -1:
    """Give a future to wait for (0), or the result (1), as an owned reference."""
    cdef RawRequest request = wait.request
    cdef object result
    if wait.is_next:
        if wait.cancelled is None and request.arrived and not request.is_closing:
            result = request.arrived.popleft()
            return give_reference(result, found, 1)
        if request.is_over:
            raise StopAsyncIteration() if wait.cancelled is None else wait.cancelled
    elif request.is_over:
        if wait.cancelled is not None:
            raise wait.cancelled
        if request.last_cqe.res < 0:
            request.is_seen = True
            raise os_error(-request.last_cqe.res)
        result = request.last_cqe.res
        request.is_seen = True
        return give_reference(result, found, 1)
    if request.waiter is not None and request.waiter is not wait.future:
        raise RuntimeError(f"{request!r} is awaited already; one task at a time")
    wait.future = Future(loop=request.loop)
    request.set_waiter(wait.future)
    must(<void *>request.waiter == <void *>wait.future, "one task at a time waits for a request")
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


cdef void take_back(RequestWait wait) noexcept:
    """The result of advance() did not reach the task: an fd in it is closed with the request."""
    wait.request.is_seen = False


ul_install_next(RequestWait, <void *>advance, <void *>take_back)

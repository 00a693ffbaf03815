"""loop.add_sqe(): any io_uring request on the loop's own ring, awaited, iterated or reported to a callback.

`requests/submit` fills, checks and submits an SQE; this module makes it a request of asyncio's world, and makes chains
and the tables of buffers and files.

Thread: the loop's; before the loop first runs any one thread.
Not here: what a completion becomes (`requests/awaiting`).
"""

from libc.stdint cimport uintptr_t
from libc.stdlib cimport free, malloc
from cpython.ref cimport Py_INCREF, PyObject
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from cpython.unicode cimport PyUnicode_AsUTF8

from ..liburing.liburing cimport IOSQE_IO_HARDLINK, IOSQE_IO_LINK, io_uring_sqe
from ..requests.awaiting cimport RawRequest
from ..requests.checks cimport check_callback
from ..requests.submit cimport Scratch, prepare, put_back, submit, take_scratch, what_lives
from ..support.fastcall cimport PyMethodDef, call_slowly, put_fast_method
from ..uring.engine cimport Engine
from ..uring.ring cimport SQ_LARGE
from .base.loop_core cimport LoopCore

from ..exceptions import SqeNotSupported

cdef extern from "Python.h":
    """
    #define UL_LIST_ITEMS(list) (&PyList_GET_ITEM((list), 0))
    """
    PyObject **UL_LIST_ITEMS(object)


cdef class RawCore(LoopCore):
    """The part of Loop that makes raw requests."""

    def add_sqe(self, prep, *args, callback=None, keepalive=None, bint multishot=False):
        """Make an io_uring request on this loop's ring.

        Parameters:
            prep: called at once as prep(sqe, *args) with a cffi `struct io_uring_sqe *` that is valid during the call
                only: a function of uringloop.liburing.lib (io_uring_prep_read ...) or one of your own that
                calls such functions and sets flags.  It must not set user_data.
            callback: called as callback(cqe) for each completion, in the loop's thread and in the current contextvars
                context; a Cqe as it is, nothing is raised.  None: await the request.
            keepalive: any object that has to live until the kernel is done.  prep and args are held anyhow, and with
                them cffi objects (ffi.new, ffi.from_buffer) among them.
            multishot: the request posts several completions: iterate it (async for cqe in request), or give a callback.

        Returns: a RawRequest.  The kernel sees it by the end of the turn at the latest.
        Raises: SqeNotSupported on epoll and poll; ValueError for an SQE that would break the loop; RuntimeError from
            another thread or on a closed loop; OSError (EAGAIN) where the kernel takes nothing; any exception of prep.
            Then no request was made.
        Thread: the loop's.  Source: io_uring_enter(2); QEMU: "aio-posix: add aio_add_sqe() API".
        """
        cdef tuple call = (prep, *args)
        if callback is not None:
            check_callback(callback)
        return self.add_one(call, keepalive, callback, multishot)

    cdef RawRequest add_one(self, tuple call, object keepalive, object callback, bint is_multishot):
        """add_sqe with prep and its arguments in one tuple."""
        cdef RawRequest request
        self.check_ready()
        request = RawRequest.__new__(RawRequest)
        request.loop = self
        request.guard = self.guard
        request.is_multishot = is_multishot
        submit(request, call, keepalive, callback, self.is_debug)
        return request

    def add_sqes(self, chain, *, keepalive=None):
        """Make linked requests: each starts when the one before it has succeeded.

        Parameters:
            chain: tuples (prep, *args), each as for add_sqe, at most 256.  IOSQE_IO_LINK is set on all but the last;
                where prep sets IOSQE_IO_HARDLINK the next one starts in any case.
            keepalive: as for add_sqe, for each of them.

        Returns: a list of RawRequests in the same order.  When one fails, those behind it end with -ECANCELED.
        Raises: as add_sqe; then no request was made.
        Thread: the loop's.  Source: io_uring_enter(2), IOSQE_IO_LINK.
        """
        cdef Scratch scratch
        cdef RawRequest request
        cdef io_uring_sqe *filled
        cdef Py_ssize_t i = 0
        cdef list requests = []
        cdef list parts
        cdef bint is_debug = self.is_debug
        self.check_ready()
        parts = [as_part(part) for part in chain]
        if len(parts) > <Py_ssize_t>SQ_LARGE:
            raise ValueError(f"a chain of {len(parts)} requests is too long: {SQ_LARGE} fit into one submission")
        filled = <io_uring_sqe *>malloc(max(1, len(parts)) * sizeof(io_uring_sqe))
        if filled == NULL:
            raise MemoryError()
        try:
            for part in parts:
                scratch = take_scratch(is_debug)
                try:
                    request = RawRequest.__new__(RawRequest)
                    request.loop = self
                    request.guard = self.guard
                    prepare(request, scratch, part, keepalive, True, is_debug)
                    request.keepalive = what_lives(part, keepalive, self._registered_buffers)
                    requests.append(request)
                    filled[i] = scratch.sqe[0]
                finally:
                    put_back(scratch, is_debug)
                if i == len(parts) - 1:
                    filled[i].flags &= ~(IOSQE_IO_LINK | IOSQE_IO_HARDLINK)
                elif not filled[i].flags & IOSQE_IO_HARDLINK:
                    filled[i].flags |= IOSQE_IO_LINK
                i += 1
            if requests:
                self.check_ready()  # a prep function may have closed the loop
                (<Engine>self.aio_context.engine).add_raw(UL_LIST_ITEMS(requests), <unsigned>len(requests), filled)
        finally:
            free(filled)
        return requests

    def register_buffers(self, buffers):
        """Pin memory for fixed requests; see registered.RegisteredBuffers.

        Parameters:
            buffers: objects with the buffer protocol, writable ones for reads.

        Returns: a RegisteredBuffers, whose close() releases the memory.
        Raises: RuntimeError when some are registered already; OSError (ENOMEM: RLIMIT_MEMLOCK); as add_sqe.
        """
        if self._registered_buffers is not None:
            raise RuntimeError("this loop has registered buffers already: close() those first")
        from ..requests.registered import RegisteredBuffers  # on first use
        self._registered_buffers = RegisteredBuffers(self, buffers)
        self._follow_tables()
        return self._registered_buffers

    def register_files(self, files):
        """Make the table of files for fixed requests; see registered.RegisteredFiles.

        Parameters:
            files: how many empty slots, or a list of fds with -1 for an empty slot.

        Returns: a RegisteredFiles, whose close() releases the files.
        Raises: RuntimeError when there is a table already; OSError; as add_sqe.
        """
        if self._registered_files is not None:
            raise RuntimeError("this loop has registered files already: close() those first")
        from ..requests.registered import RegisteredFiles  # on first use
        self._registered_files = RegisteredFiles(self, files)
        self._follow_tables()
        return self._registered_files

    def _follow_tables(self):
        """With a table the loop stays in its thread, and no other loop gets its ring."""
        cdef Engine engine = self.aio_context.engine
        engine.has_tables = self._registered_buffers is not None or self._registered_files is not None

    def _ring_pointer(self):
        """The ring as cffi `struct io_uring *`, for io_uring_register_*; valid until the loop moves to a thread."""
        cdef Engine engine
        from ..liburing import ffi
        self.check_ready()
        engine = self.aio_context.engine
        engine.prepare_for_raw()
        engine.grow()  # it will stay with this ring
        engine.is_bound = True
        return ffi.cast("struct io_uring *", <uintptr_t>&engine.ring.ring)

    cdef int check_ready(self) except -1:
        if self.is_loop_closed or self.aio_context.monitor.is_closed:
            raise RuntimeError("Event loop is closed")
        if self.is_debug:
            self._check_thread()
        if self.aio_context.engine is None:
            raise SqeNotSupported(self.aio_context.monitor.name, self.fdmon_reason)
        if (<Engine>self.aio_context.engine).is_restricted:
            raise SqeNotSupported(self.aio_context.monitor.name, "URINGLOOP_RESTRICTED")
        return 0


cdef tuple as_part(object part):
    """One part of a chain."""
    if callable(part):
        raise TypeError(f"each part of a chain is a tuple (prep, *args), got {part!r}: for a prep function alone "
                        "write (prep,)")
    part = tuple(part)
    if not part:
        raise ValueError("each part of a chain is a tuple (prep, *args)")
    return part


# -- the fast way in: as call_soon's in loop_core.pyx, the arguments as the interpreter has them --------------

cdef PyMethodDef add_sqe_definition
cdef object plain_add_sqe = RawCore.__dict__["add_sqe"]


cdef object fast_add_sqe(RawCore loop, PyObject **args, Py_ssize_t n_args, PyObject *names):
    cdef Py_ssize_t i
    cdef tuple call
    if names == NULL and n_args:
        call = PyTuple_New(n_args)
        for i in range(n_args):
            Py_INCREF(<object>args[i])  # the tuple's
            PyTuple_SET_ITEM(call, i, <object>args[i])
        return loop.add_one(call, None, None, False)
    return call_slowly(plain_add_sqe, loop, args, n_args, names)


# kept for ever: the method's documentation points into it
cdef object documentation = (
    "add_sqe($self, prep, *args, callback=None, keepalive=None, multishot=False)\n--\n\n" + plain_add_sqe.__doc__)
put_fast_method(
    RawCore, &add_sqe_definition, b"add_sqe", <void *>fast_add_sqe, PyUnicode_AsUTF8(documentation))

"""add_sqe(): any io_uring request on the loop's own ring.

How it works:
 1. The user's prep function fills an SQE of ours in ordinary memory, never a slot of the ring: it may raise, run a
    nested turn or make other requests, and the kernel still sees only what is whole and was checked.
 2. `check_sqe` refuses what would break the loop's own requests (decision 0012 lists it).
 3. The SQE is copied into the ring, and the request held (uring/request).  It goes out with the next wait, which comes
    at the end of the turn; a full SQ is submitted at once.

What an SQE points to is the user's; `keepalive` holds prep, its arguments and what the user names until the final
completion, so that cffi's objects and Python buffers among them live as long as the kernel may touch them.

Thread: the loop's; before the loop first runs any one thread.
Not here: what a completion becomes (`raw_request`).
"""

from libc.stdint cimport uint64_t, uintptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.ref cimport Py_INCREF, PyObject
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE, PyTuple_New, PyTuple_SET_ITEM

from ..fdmon.io_uring cimport IoUringMonitor
from ..liburing.liburing cimport (IOSQE_BUFFER_SELECT, IOSQE_CQE_SKIP_SUCCESS, IOSQE_FIXED_FILE, IOSQE_IO_DRAIN,
                                  IOSQE_IO_HARDLINK, IOSQE_IO_LINK, io_uring_sqe)
from ..uring.ring cimport RING_ENTRIES, is_a_loops_ring
from .core cimport LoopCore
from .raw_request cimport RawRequest

import types
from collections import deque

from ..exceptions import SqeNotSupported
from ..uring.buffers import FIRST_RESERVED_GROUP
from .registered import RegisteredBuffers, RegisteredFiles

cdef extern from "Python.h":
    """
    #define UL_LIST_ITEMS(list) (&PyList_GET_ITEM((list), 0))
    """
    PyObject **UL_LIST_ITEMS(object)
    object PyObject_Vectorcall(object callable, PyObject **args, size_t n_args, PyObject *names)
    object PyContext_CopyCurrent()

cdef enum:
    # Opcodes that the checks know; numbers are ABI (linux/io_uring.h).
    OP_POLL_ADD = 6
    OP_POLL_REMOVE = 7
    OP_RECVMSG = 10
    OP_TIMEOUT = 11
    OP_ACCEPT = 13
    OP_OPENAT = 18
    OP_READ = 22
    OP_WRITE = 23
    OP_SEND = 26
    OP_RECV = 27
    OP_OPENAT2 = 28
    OP_PROVIDE_BUFFERS = 31
    OP_REMOVE_BUFFERS = 32
    OP_MSG_RING = 40
    OP_SOCKET = 45
    OP_SEND_ZC = 47
    OP_READ_MULTISHOT = 49
    OP_FIXED_FD_INSTALL = 54
    OP_NONE = 255                      # what stands in an SQE that nobody filled
    POLL_ADD_MULTI = 1 << 0
    POLL_UPDATE_USER_DATA = 1 << 2
    TIMEOUT_MULTISHOT = 1 << 6
    ACCEPT_MULTISHOT = 1 << 0
    RECV_MULTISHOT = 1 << 1
    POISON = 0xDB
    STACK_MOST = 12                    # arguments of a prep function of liburing, the SQE included

cdef uint64_t UNTOUCHED = 0x5A5A_0F0F_5A5A_0F0F  # user_data while prep runs
cdef unsigned FIRST_RESERVED = FIRST_RESERVED_GROUP
cdef object BuiltinFunction = types.BuiltinFunctionType


cdef class Scratch:
    """Memory of one SQE that a prep function fills."""

    def __cinit__(self):
        from ..liburing import ffi
        self.pointer = ffi.new("struct io_uring_sqe *")
        self.sqe = <io_uring_sqe *><uintptr_t>int(ffi.cast("uintptr_t", self.pointer))

    def was_touched(self):
        """Debug mode: somebody wrote to it after it was poisoned."""
        cdef const unsigned char *at = <const unsigned char *>self.sqe
        cdef size_t i
        for i in range(sizeof(io_uring_sqe)):
            if at[i] != POISON:
                return True
        return False


cdef class RawCore(LoopCore):
    """The part of Loop that makes raw requests."""

    def __cinit__(self, *args, **kwargs):
        self.spare_scratches = []

    @property
    def supports_sqe(self):
        """Whether add_sqe() works: this loop runs on io_uring."""
        return self.aio_context is not None and isinstance(self.aio_context.monitor, IoUringMonitor)

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
            another thread or on a closed loop; OSError (EAGAIN) where the kernel takes nothing; whatever prep raises.
            Then no request was made.
        Thread: the loop's.  Source: io_uring_enter(2); QEMU: "aio-posix: add aio_add_sqe() API".
        """
        cdef tuple call = (prep, *args)
        if callback is not None and not callable(callback):
            raise TypeError(f"callback must be callable or None, got {callback!r}")
        return self.add_one(call, keepalive, callback, multishot)

    cdef RawRequest add_one(self, tuple call, object keepalive, object callback, bint is_multishot):
        """add_sqe with prep and its arguments in one tuple."""
        cdef Scratch scratch
        cdef RawRequest request
        cdef PyObject *borrowed
        self.check_ready()
        scratch = self.take_scratch()
        try:
            request = self.prepare(scratch, call, is_multishot, False)
            request.keepalive = call if keepalive is None else (call, keepalive)
            if self._registered_buffers is not None:
                # a fixed request may use them: they live on when they are unregistered meanwhile
                request.keepalive = (request.keepalive, self._registered_buffers)
            if callback is not None:
                request.callback = callback
                request.callback_context = PyContext_CopyCurrent()
            elif is_multishot:
                request.arrived = deque()
            borrowed = <PyObject *>request
            self.ring_monitor().add_raw(&borrowed, 1, scratch.sqe)
        finally:
            self.put_back(scratch)
        return request

    def add_sqes(self, chain, *, keepalive=None):
        """Make linked requests: each starts when the one before it has succeeded.

        Parameters:
            chain: tuples (prep, *args), each as for add_sqe, at most 256.  IOSQE_IO_LINK is set on all but the last;
                where prep sets IOSQE_IO_HARDLINK the next starts whatever happens.
            keepalive: as for add_sqe, for each of them.

        Returns: a list of RawRequests in the same order.  When one fails, those behind it end with -ECANCELED.
        Raises: as add_sqe; then none of them was made.
        Thread: the loop's.  Source: io_uring_enter(2), IOSQE_IO_LINK.
        """
        cdef Scratch scratch
        cdef RawRequest request
        cdef io_uring_sqe *filled
        cdef Py_ssize_t i = 0
        cdef list requests = []
        cdef list parts
        self.check_ready()
        parts = [tuple(part) for part in chain]
        if len(parts) > <Py_ssize_t>RING_ENTRIES:
            raise ValueError(f"a chain of {len(parts)} requests is too long: {RING_ENTRIES} fit into one submission")
        if not all(parts):
            raise ValueError("each part of a chain is a tuple (prep, *args)")
        filled = <io_uring_sqe *>malloc(max(1, len(parts)) * sizeof(io_uring_sqe))
        if filled == NULL:
            raise MemoryError()
        try:
            for part in parts:
                scratch = self.take_scratch()
                try:
                    request = self.prepare(scratch, part, False, True)
                    request.keepalive = (part, keepalive, self._registered_buffers)
                    requests.append(request)
                    filled[i] = scratch.sqe[0]
                finally:
                    self.put_back(scratch)
                if i == len(parts) - 1:
                    filled[i].flags &= ~(IOSQE_IO_LINK | IOSQE_IO_HARDLINK)
                elif not filled[i].flags & IOSQE_IO_HARDLINK:
                    filled[i].flags |= IOSQE_IO_LINK
                i += 1
            if requests:
                self.check_ready()  # a prep function may have closed the loop
                self.ring_monitor().add_raw(UL_LIST_ITEMS(requests), <unsigned>len(requests), filled)
        finally:
            free(filled)
        return requests

    def register_buffers(self, buffers):
        """Pin memory for fixed requests; see registered.RegisteredBuffers.

        Parameters:
            buffers: objects with the buffer protocol, writable ones for reads.

        Returns: a RegisteredBuffers, whose close() lets go of the memory.
        Raises: RuntimeError when some are registered already; OSError (ENOMEM: RLIMIT_MEMLOCK); as add_sqe.
        """
        if self._registered_buffers is not None:
            raise RuntimeError("this loop has registered buffers already: close() those first")
        self._registered_buffers = RegisteredBuffers(self, buffers)
        self._follow_tables()
        return self._registered_buffers

    def register_files(self, files):
        """Make the table of files for fixed requests; see registered.RegisteredFiles.

        Parameters:
            files: how many empty slots, or a list of fds with -1 for an empty slot.

        Returns: a RegisteredFiles, whose close() lets go of the files.
        Raises: RuntimeError when there is a table already; OSError; as add_sqe.
        """
        if self._registered_files is not None:
            raise RuntimeError("this loop has registered files already: close() those first")
        self._registered_files = RegisteredFiles(self, files)
        self._follow_tables()
        return self._registered_files

    def _follow_tables(self):
        """With a table the loop stays in its thread, and its ring is not handed on."""
        self.ring_monitor().has_tables = self._registered_buffers is not None or self._registered_files is not None

    def _ring_pointer(self):
        """The ring as cffi `struct io_uring *`, for io_uring_register_*; valid until the loop moves to a thread."""
        cdef IoUringMonitor monitor
        from ..liburing import ffi
        self.check_ready()
        monitor = self.ring_monitor()
        monitor.prepare_for_raw()
        return ffi.cast("struct io_uring *", <uintptr_t>&monitor.ring.ring)

    cdef int check_ready(self) except -1:
        if self.is_loop_closed or self.aio_context.monitor.is_closed:
            raise RuntimeError("Event loop is closed")
        if self.is_debug:
            self._check_thread()
        if not isinstance(self.aio_context.monitor, IoUringMonitor):
            raise SqeNotSupported(self.aio_context.monitor.name, self.fdmon_reason)
        return 0

    cdef IoUringMonitor ring_monitor(self):
        return <IoUringMonitor>self.aio_context.monitor

    cdef Scratch take_scratch(self):
        """Memory for one SQE.  In debug mode it is used once, so that its being touched later can be told."""
        if self.spare_scratches and not self.is_debug:
            return self.spare_scratches.pop()
        return Scratch()

    cdef int put_back(self, Scratch scratch) except -1:
        if not self.is_debug:
            self.spare_scratches.append(scratch)
        else:
            memset(scratch.sqe, POISON, sizeof(io_uring_sqe))
        return 0

    cdef RawRequest prepare(self, Scratch scratch, tuple call, bint is_multishot, bint is_linked):
        """Have an SQE filled and checked; a request that waits to be held."""
        cdef io_uring_sqe *sqe = scratch.sqe
        cdef RawRequest request
        memset(sqe, 0, sizeof(io_uring_sqe))
        sqe.opcode = OP_NONE
        sqe.user_data = UNTOUCHED
        call_prep(scratch, call)
        if self.is_loop_closed or self.aio_context.monitor.is_closed:
            raise RuntimeError("Event loop is closed")
        check_sqe(sqe, call, is_linked)
        if not is_multishot and posts_several(sqe):
            raise ValueError("this request posts several completions: say multishot=True, and iterate it or give a "
                             "callback")
        request = RawRequest.__new__(RawRequest)
        request.loop = self
        request.opcode = sqe.opcode
        request.fd = sqe.fd
        request.makes_fds = makes_fds(sqe)
        request.is_multishot = is_multishot
        if self.is_debug:
            request.touched = scratch.was_touched
        return request


cdef int call_prep(Scratch scratch, tuple call) except -1:
    """prep(pointer, *args); what is known to go wrong with arguments is refused before."""
    cdef object prep = call[0]
    cdef Py_ssize_t n = PyTuple_GET_SIZE(call)
    cdef Py_ssize_t i
    cdef PyObject *stack[STACK_MOST]
    if not callable(prep):
        raise TypeError(f"prep must be callable, got {prep!r}")
    if type(prep) is not BuiltinFunction or n > STACK_MOST:
        prep(scratch.pointer, *call[1:])
        return 0
    stack[0] = <PyObject *>scratch.pointer
    for i in range(1, n):
        stack[i] = <PyObject *>PyTuple_GET_ITEM(call, i)
        if isinstance(<object>stack[i], (list, tuple, dict)):
            raise TypeError("cffi copies a list, tuple or dict into memory that is gone before the kernel reads it: "
                            "pass ffi.new(...)")
    PyObject_Vectorcall(prep, stack, n, NULL)
    return 0


cdef int check_sqe(const io_uring_sqe *sqe, tuple call, bint is_linked) except -1:
    """Refuse what would break the loop's own requests, or what could never be told to its maker."""
    if sqe.opcode == OP_NONE:
        raise ValueError(f"{call[0]!r} filled no SQE")
    if sqe.user_data != UNTOUCHED:
        raise ValueError("user_data belongs to the loop: prep must not set it")
    if sqe.flags & IOSQE_IO_DRAIN:
        # Measured: sends of the loop behind a drain are consumed without being sent, for the life of the ring.
        raise ValueError("IOSQE_IO_DRAIN would hold up the loop's own requests")
    if sqe.flags & IOSQE_CQE_SKIP_SUCCESS:
        raise ValueError("with IOSQE_CQE_SKIP_SUCCESS nobody would learn when the kernel has let go of the memory")
    if sqe.flags & (IOSQE_IO_LINK | IOSQE_IO_HARDLINK) and not is_linked:
        raise ValueError("a link would tie the loop's next request to this one: make chains by add_sqes()")
    if ((sqe.flags & IOSQE_BUFFER_SELECT or sqe.opcode == OP_PROVIDE_BUFFERS or sqe.opcode == OP_REMOVE_BUFFERS)
            and sqe.buf_group >= FIRST_RESERVED):
        raise ValueError(f"buffer groups from {FIRST_RESERVED:#x} on (uringloop.FIRST_RESERVED_GROUP) are the loop's")
    if sqe.opcode == OP_POLL_REMOVE and sqe.len & POLL_UPDATE_USER_DATA:
        raise ValueError("IORING_POLL_UPDATE_USER_DATA: user_data belongs to the loop")
    if sqe.opcode == OP_MSG_RING and sqe.off != 0 and (sqe.flags & IOSQE_FIXED_FILE or is_a_loops_ring(sqe.fd)):
        raise ValueError("a message to a loop's ring must carry the data 0: other would be taken for a request")
    for arg in call:
        if type(arg) is bytes:
            check_bytes(sqe, arg)
    return 0


cdef int check_bytes(const io_uring_sqe *sqe, bytes arg) except -1:
    """The mistakes with bytes objects that cffi lets through: written to by the kernel, or read beyond the end."""
    if sqe.addr != <uint64_t><uintptr_t>PyBytes_AS_STRING(arg):
        return 0
    if sqe.opcode == OP_READ or sqe.opcode == OP_RECV:
        raise ValueError("the kernel would write into an immutable bytes object: use ffi.from_buffer(bytearray)")
    if ((sqe.opcode == OP_WRITE or sqe.opcode == OP_SEND or sqe.opcode == OP_SEND_ZC)
            and sqe.len > <uint64_t>PyBytes_GET_SIZE(arg)):
        raise ValueError(f"{sqe.len} bytes of a bytes object of {PyBytes_GET_SIZE(arg)}")
    return 0


cdef bint posts_several(const io_uring_sqe *sqe) noexcept:
    """One of the multishot requests; their flags stand in different fields."""
    if sqe.opcode == OP_POLL_ADD:
        return sqe.len & POLL_ADD_MULTI != 0
    if sqe.opcode == OP_TIMEOUT:
        return sqe.timeout_flags & TIMEOUT_MULTISHOT != 0
    if sqe.opcode == OP_ACCEPT:
        return sqe.ioprio & ACCEPT_MULTISHOT != 0
    if sqe.opcode == OP_RECV or sqe.opcode == OP_RECVMSG:
        return sqe.ioprio & RECV_MULTISHOT != 0
    return sqe.opcode == OP_READ_MULTISHOT


cdef bint makes_fds(const io_uring_sqe *sqe) noexcept:
    """The result is an ordinary file descriptor; with file_index it is a slot of the registered files instead."""
    if sqe.opcode == OP_FIXED_FD_INSTALL:
        return True
    return (sqe.file_index == 0
            and (sqe.opcode == OP_ACCEPT or sqe.opcode == OP_OPENAT or sqe.opcode == OP_OPENAT2
                 or sqe.opcode == OP_SOCKET))


# -- the fast way in: as call_soon's in core.pyx, the arguments as the interpreter has them ------------------

cdef extern from *:
    """
    static PyMethodDef ul_add_sqe = {"add_sqe", NULL, METH_FASTCALL | METH_KEYWORDS, NULL};
    static int ul_install_add_sqe(PyObject *type, PyObject *slow, void *function)
    {
        PyObject *method;
        int result;
        ul_add_sqe.ml_meth = (PyCFunction)function;
        ul_add_sqe.ml_doc = PyUnicode_AsUTF8(slow);
        method = PyDescr_NewMethod((PyTypeObject *)type, &ul_add_sqe);
        if (method == NULL)
            return -1;
        result = PyDict_SetItemString(((PyTypeObject *)type)->tp_dict, "add_sqe", method);
        PyType_Modified((PyTypeObject *)type);
        Py_DECREF(method);
        return result;
    }
    """
    int ul_install_add_sqe(object type, object documentation, void *function) except -1

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
    positional = [<object>args[i] for i in range(n_args)]
    keywords = {}
    if names != NULL:
        for i, name in enumerate(<tuple>names):
            keywords[name] = <object>args[n_args + i]
    return plain_add_sqe(loop, *positional, **keywords)


# kept for ever: the method's documentation points into it
cdef object documentation = (
    "add_sqe($self, prep, *args, callback=None, keepalive=None, multishot=False)\n--\n\n" + plain_add_sqe.__doc__)
ul_install_add_sqe(RawCore, documentation, <void *>fast_add_sqe)

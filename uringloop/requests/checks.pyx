"""What add_sqe() refuses, and the errors that say what was meant.

How it works:
 1. `call_prep` calls the prep function.  A mistake that liburing's functions report in cffi's words gets a hint.
 2. `check_sqe` refuses what would break the loop's own requests (decision 0012 lists it), and memory that is known to
    be too small or read-only.

Known memory is found in prep's arguments and `keepalive`: bytes, cffi's arrays and buffers, and objects with the buffer
protocol.  A pointer that was computed (`buffer + offset`) or that the user's own prep function takes from elsewhere
reveals nothing about its memory: name the buffer in `keepalive`.

Thread: the context's.
Not here: making requests (`submit`).
"""

from libc.stdint cimport uint64_t, uintptr_t
from libc.string cimport memset
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_CheckBuffer, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.ref cimport PyObject
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE

from ..liburing.liburing cimport (IOSQE_ASYNC, IOSQE_BUFFER_SELECT, IOSQE_CQE_SKIP_SUCCESS, IOSQE_FIXED_FILE,
                                  IOSQE_IO_DRAIN,
                                  IOSQE_IO_HARDLINK, IOSQE_IO_LINK, io_uring_sqe)
from ..liburing.numbers cimport (ACCEPT_MULTISHOT, OP_ACCEPT, OP_FIXED_FD_INSTALL, OP_MSG_RING, OP_OPENAT, OP_OPENAT2,
                                 OP_POLL_ADD, OP_POLL_REMOVE, OP_PROVIDE_BUFFERS, OP_READ, OP_READV, OP_READ_FIXED,
                                 OP_READ_MULTISHOT, OP_RECV, OP_RECVMSG, OP_REMOVE_BUFFERS, OP_SEND, OP_SEND_ZC,
                                 OP_SOCKET, OP_TIMEOUT, OP_WRITE, OP_WRITEV, OP_WRITE_FIXED, POLL_ADD_MULTI,
                                 POLL_UPDATE_USER_DATA, RECV_MULTISHOT, TIMEOUT_MULTISHOT)
from ..support.assertions cimport is_none, must, must_not
from ..support.capi cimport PyObject_Vectorcall, decref, error_is_set
from ..uring.ring cimport is_a_loops_ring
from .request cimport SqeRequest

import functools
import os
import types

from ..uring.buffers import FIRST_RESERVED_GROUP

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        pass

cdef extern from "Python.h":
    enum:
        CO_COROUTINE
        CO_ASYNC_GENERATOR

cdef extern from *:
    """
    static int ul_has_buffer(PyObject *visited, void *found)
    {
        if (!PyObject_CheckBuffer(visited))
            return 0;
        *(PyObject **)found = visited;
        return 1;
    }

    /* An object with the buffer protocol to which this one refers, borrowed; or NULL. */
    static PyObject *ul_buffer_behind(PyObject *object)
    {
        PyObject *found = NULL;
        if (Py_TYPE(object)->tp_traverse != NULL)
            Py_TYPE(object)->tp_traverse(object, ul_has_buffer, &found);
        return found;
    }
    """
    PyObject *ul_buffer_behind(object)

cdef enum:
    OP_NONE = 255                      # the opcode of an SQE that was not filled
    KEEPALIVE_LOOKED_AT = 16           # items of a keepalive that is a list or tuple; it may be long, and is only kept
    STACK_MOST = 12                    # arguments of a prep function of liburing, the SQE included

cdef uint64_t UNTOUCHED = 0x5A5A_0F0F_5A5A_0F0F  # user_data while prep runs
cdef unsigned FIRST_RESERVED = FIRST_RESERVED_GROUP
cdef object BuiltinFunction = types.BuiltinFunctionType
cdef object PythonFunction = types.FunctionType

# cffi's types: memory that the object owns, and the view of another object's buffer.  Known from the first request on.
cdef object OwnMemory = None
cdef object BufferView = None
cdef object as_buffer = None


cdef int know_cffi() except -1:
    global OwnMemory, BufferView, as_buffer
    from ..liburing import ffi
    OwnMemory = type(ffi.new("char[1]"))
    BufferView = type(ffi.from_buffer(bytearray(1)))
    as_buffer = ffi.buffer
    return 0


cdef int fill_sqe(SqeRequest request, io_uring_sqe *sqe, object pointer, tuple call, object keepalive,
                  bint is_linked) except -1:
    """Have prep fill an SQE, check it, and record in the request what it must know about it.

    Parameters:
        request: new; is_multishot is set.
        pointer: `sqe` as cffi knows it.
        call: (prep, *args).
        keepalive: as passed by the user; searched for known memory.
        is_linked: the chain's owner sets the link flags.

    Raises: ValueError and TypeError for refused arguments; any exception of prep.
    """
    must(is_none(<void *>request.owner), "a request whose SQE is filled is not in flight")
    memset(sqe, 0, sizeof(io_uring_sqe))
    sqe.opcode = OP_NONE
    sqe.user_data = UNTOUCHED
    call_prep(pointer, call)
    check_sqe(sqe, call, keepalive, is_linked)
    if not request.is_multishot and posts_several(sqe):
        raise ValueError("this request posts several completions: say multishot=True, and iterate it or give a "
                         "callback")
    must_not(sqe.opcode == OP_NONE, "an SQE that was checked is filled")
    must(sqe.user_data == UNTOUCHED, "an SQE that was checked has no user_data of its maker's")
    request.opcode = sqe.opcode
    request.group = sqe.buf_group
    request.first_id = <unsigned short>sqe.off
    request.is_forced_async = sqe.flags & IOSQE_ASYNC != 0
    request.fd = sqe.fd
    request.makes_fds = makes_fds(sqe)
    return 0


# -- calling prep ----------------------------------------------------------------------------------------------

cdef int call_prep(object pointer, tuple call) except -1:
    """Call prep(pointer, *args); arguments that are known to fail are refused before."""
    cdef object prep = call[0]
    cdef Py_ssize_t n = PyTuple_GET_SIZE(call)
    cdef Py_ssize_t i
    cdef PyObject *stack[STACK_MOST]
    cdef PyObject *result
    if not callable(prep):
        raise TypeError(f"prep must be callable, got {prep!r}: pass the function and its arguments, as in "
                        "add_sqe(lib.io_uring_prep_nop), not the result of a call")
    if type(prep) is not BuiltinFunction or n > STACK_MOST:
        if is_async(prep):
            raise TypeError("prep is called at once and must be an ordinary function, not the coroutine function "
                            f"{prep!r}")
        prep(pointer, *call[1:])
        return 0
    stack[0] = <PyObject *>pointer
    for i in range(1, n):
        stack[i] = <PyObject *>PyTuple_GET_ITEM(call, i)
        if isinstance(<object>stack[i], (list, tuple, dict)):
            raise TypeError("cffi copies a list, tuple or dict into memory that is gone before the kernel reads it: "
                            "pass ffi.new(...)")
    result = PyObject_Vectorcall(prep, stack, n, NULL)
    if result != NULL:
        decref(result)
        return 0
    explain(call)
    return 0


cdef int explain(tuple call) except -1:
    """prep, a function of liburing, raised: raise the same with a hint, if one is known."""
    try:
        error_is_set()
    except TypeError as error:
        hint = hint_for(str(error), call)
        if not hint:
            raise
        raise TypeError(f"{error}: {hint}") from None
    return 0


cdef object hint_for(str problem, tuple call):
    """A suggestion in place of the argument that cffi refused; None if none is known."""
    if "expected" in problem and "arguments" in problem:
        return "the SQE is passed by add_sqe() and counts as the first one"
    for argument in call[1:]:
        kind = type(argument).__name__
        if "integer" in problem:
            if hasattr(argument, "fileno"):
                return f"for a {kind} pass its number, {kind}.fileno()"
        elif argument is None:
            return "for a null pointer pass ffi.NULL"
        elif isinstance(argument, (str, os.PathLike)):
            return "a path is passed as bytes, os.fsencode(path)"
        elif type(argument) is not bytes and PyObject_CheckBuffer(argument):
            return f"for the memory of a {kind} pass ffi.from_buffer(it)"
    return None


cdef bint is_async(object function):
    """Whether it is a coroutine function or an asynchronous generator function."""
    if type(function) is not PythonFunction:
        if isinstance(function, functools.partial):
            function = function.func
        function = getattr(function, "__func__", function)
    return type(function) is PythonFunction and function.__code__.co_flags & (CO_COROUTINE | CO_ASYNC_GENERATOR)


cdef int check_callback(object callback) except -1:
    if not callable(callback):
        raise TypeError(f"callback must be callable or None, got {callback!r}")
    if is_async(callback):
        raise TypeError(f"callback must be an ordinary function, not the coroutine function {callback!r}, "
                        f"which would never be awaited; await the request instead, or make a task in the callback")
    return 0


# -- what an SQE may say ---------------------------------------------------------------------------------------

cdef int check_sqe(const io_uring_sqe *sqe, tuple call, object keepalive, bint is_linked) except -1:
    """Refuse what would break the loop's own requests, or what could never be reported to its maker."""
    if sqe.opcode == OP_NONE:
        raise ValueError(f"{call[0]!r} filled no SQE")
    if sqe.user_data != UNTOUCHED:
        raise ValueError("user_data belongs to the loop: prep must not set it")
    if sqe.flags & IOSQE_IO_DRAIN:
        # Measured: sends of the loop behind a drain are consumed without being sent, for the life of the ring.
        raise ValueError("IOSQE_IO_DRAIN would hold up the loop's own requests")
    if sqe.flags & IOSQE_CQE_SKIP_SUCCESS:
        raise ValueError("with IOSQE_CQE_SKIP_SUCCESS it is never reported that the kernel has released the memory")
    if sqe.flags & (IOSQE_IO_LINK | IOSQE_IO_HARDLINK) and not is_linked:
        raise ValueError("a link would tie the loop's next request to this one: make chains by add_sqes()")
    if ((sqe.flags & IOSQE_BUFFER_SELECT or sqe.opcode == OP_PROVIDE_BUFFERS or sqe.opcode == OP_REMOVE_BUFFERS)
            and sqe.buf_group >= FIRST_RESERVED):
        raise ValueError(f"buffer groups from {FIRST_RESERVED:#x} on (uringloop.FIRST_RESERVED_GROUP) are the loop's")
    if sqe.opcode == OP_POLL_REMOVE and sqe.len & POLL_UPDATE_USER_DATA:
        raise ValueError("IORING_POLL_UPDATE_USER_DATA: user_data belongs to the loop")
    if sqe.opcode == OP_MSG_RING and sqe.off != 0 and (sqe.flags & IOSQE_FIXED_FILE or is_a_loops_ring(sqe.fd)):
        raise ValueError("a message to a loop's ring must carry the data 0: other would be taken for a request")
    if sqe.addr and transferred(sqe):
        if as_buffer is None:
            know_cffi()
        check_all_memory(sqe, call, 1)
        if keepalive is not None:
            check_memory(sqe, keepalive)
            if isinstance(keepalive, (tuple, list)):
                check_all_memory(sqe, tuple(keepalive[:KEEPALIVE_LOOKED_AT]), 0)
    return 0


cdef uint64_t transferred(const io_uring_sqe *sqe) noexcept:
    """How many bytes at sqe.addr the kernel may touch; 0 where that is not known."""
    if (sqe.opcode == OP_READ or sqe.opcode == OP_WRITE or sqe.opcode == OP_SEND or sqe.opcode == OP_RECV
            or sqe.opcode == OP_READ_FIXED or sqe.opcode == OP_WRITE_FIXED or sqe.opcode == OP_SEND_ZC):
        return sqe.len
    if sqe.opcode == OP_READV or sqe.opcode == OP_WRITEV:
        return <uint64_t>sqe.len * sizeof(iovec)
    if sqe.opcode == OP_PROVIDE_BUFFERS:
        return <uint64_t>sqe.len * <uint64_t>max(sqe.fd, 0)
    return 0


cdef bint is_written_to(const io_uring_sqe *sqe) noexcept:
    """Whether the kernel writes to sqe.addr, at once or later."""
    return (sqe.opcode == OP_READ or sqe.opcode == OP_RECV or sqe.opcode == OP_READ_FIXED
            or sqe.opcode == OP_PROVIDE_BUFFERS)


cdef int check_all_memory(const io_uring_sqe *sqe, tuple objects, Py_ssize_t first) except -1:
    cdef Py_ssize_t i
    for i in range(first, PyTuple_GET_SIZE(objects)):
        check_memory(sqe, <object>PyTuple_GET_ITEM(objects, i))
    return 0


cdef int check_memory(const io_uring_sqe *sqe, object owner) except -1:
    """If sqe.addr is in the memory of this object, all of the transfer must be."""
    cdef Py_buffer memory
    cdef object kind = type(owner)
    cdef object what = owner
    cdef PyObject *behind
    if kind is int:
        return 0
    if kind is bytes:
        return check_range(sqe, what, PyBytes_AS_STRING(owner), <uint64_t>PyBytes_GET_SIZE(owner), True)
    if kind is BufferView:
        behind = ul_buffer_behind(owner)  # as gc.get_referents(): the object of ffi.from_buffer(object)
        if behind == NULL:
            return 0
        what = <object>behind
    elif kind is OwnMemory:
        owner = as_buffer(owner)
        what = None
    elif not PyObject_CheckBuffer(owner):
        return 0
    try:
        PyObject_GetBuffer(owner if what is None else what, &memory, PyBUF_SIMPLE)
    except (BufferError, ValueError):
        return 0  # in pieces, or released
    try:
        return check_range(sqe, what, <char *>memory.buf, <uint64_t>memory.len, memory.readonly)
    finally:
        PyBuffer_Release(&memory)


cdef int check_range(const io_uring_sqe *sqe, object what, const char *start, uint64_t size,
                     bint is_readonly) except -1:
    cdef uint64_t offset = sqe.addr - <uint64_t><uintptr_t>start
    cdef uint64_t count = transferred(sqe)
    must_not(count == 0, "only memory that is transferred is checked")
    if offset >= size and not (offset == 0 and size == 0):  # also when addr is before the start
        return 0
    if is_readonly and is_written_to(sqe):
        raise ValueError(f"the kernel would write into an immutable {name_of(what)}: use "
                         "ffi.from_buffer(bytearray(size))")
    if count > size - offset:
        place = f" from offset {offset} on" if offset else ""
        raise ValueError(f"{count} bytes{place} of a {name_of(what)} of {size}: the kernel would touch memory of "
                         "others; the length to give is that of the buffer, less the offset into it")
    return 0


cdef object name_of(object what):
    return "cffi array" if what is None else f"{type(what).__name__} object"


cdef bint posts_several(const io_uring_sqe *sqe) noexcept:
    """Whether it is a multishot request; the flags of these are in different fields."""
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
    """Whether the result is an ordinary file descriptor; with file_index it is a slot of the registered files."""
    if sqe.opcode == OP_FIXED_FD_INSTALL:
        return True
    return (sqe.file_index == 0
            and (sqe.opcode == OP_ACCEPT or sqe.opcode == OP_OPENAT or sqe.opcode == OP_OPENAT2
                 or sqe.opcode == OP_SOCKET))

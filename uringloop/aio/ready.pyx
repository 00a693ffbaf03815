"""The ready queue: callbacks in the order in which they were scheduled.

One contiguous ring of references that doubles when full (References); push and pop are a few instructions.

A handle that ran and is not referenced any more is emptied and used again: making and freeing a collected object with
eight fields costs more than all the rest of scheduling it (sleep(0) among 100 tasks: 1.27 times uvloop, 1.22 before).

Invariant: tail - head handles are queued and each holds one reference of ours; so do n_spare empty ones.
Thread: the loop's, which has the guard; push_from_any any.  Where there is no GIL, what other threads push waits in a
queue of its own, behind a lock, until the loop's thread looks: when a turn begins, and before each push of its own.
"""

from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject

from ..support.assertions cimport is_none, must, must_not
from ..support.collect cimport ul_traverse_own, visitproc
from ..support.guard cimport FREE_THREADED, acquire, is_held, peek_size, poke_size, release
from ..support.references cimport References
from .handles cimport Handle

cdef extern from *:
    """
    #define ul_prefetch(address) __builtin_prefetch(address)
    """
    void ul_prefetch(void *) noexcept

cdef extern from "Python.h":
    """
    #include "guard.h"
    /* Ours is the only reference, of an exact Handle, and no weak reference knows it. */
    #define UL_IS_OURS_ALONE(o, type) (ul_is_ours_alone((PyObject *)(o)) && Py_IS_TYPE((o), (PyTypeObject *)(type)) \\
        && *(PyObject **)((char *)(o) + Py_TYPE(o)->tp_weaklistoffset) == NULL)
    """
    bint UL_IS_OURS_ALONE(Handle, type) noexcept

cdef enum:
    SPARE_MOST = 256  # length of ReadyQueue.spare


cdef class ReadyQueue(References):
    """FIFO of Handles."""

    def __cinit__(self):
        if FREE_THREADED:
            self.arrived = References()

    def __dealloc__(self):
        self.clear()

    def __len__(self):
        return self.tail - self.head

    cdef int have_room(self) except -1:
        """Make sure that one push() cannot fail."""
        return self.grow() if self.tail - self.head > self.mask else 0

    cdef int push(self, Handle handle) except -1:
        """Queue it as the last one."""
        if FREE_THREADED and peek_size(&self.n_arrived):
            self.take_arrived()
        if self.tail - self.head > self.mask:
            self.grow()
        Py_INCREF(handle)  # undone by pop or clear
        self.items[self.tail & self.mask] = <PyObject *>handle
        self.tail += 1
        must(self.tail - self.head <= self.mask + 1, "the queue holds no more than it has room for")
        return 0

    cdef int push_from_any(self, object guard, Handle handle) except -1:
        """The same from any thread; `guard`: the context's.  RuntimeError when the queue was shut."""
        cdef bint is_shut
        if is_held(guard):
            return self.push(handle)
        acquire(&self.lock)
        try:
            is_shut = self.is_shut
            if not is_shut:
                self.arrived.put(handle)
                poke_size(&self.n_arrived, self.arrived.count())
        finally:
            release(&self.lock)
        if is_shut:
            raise RuntimeError("Event loop is closed")
        return 0

    cdef int take_arrived(self) except -1:
        """Queue what other threads have pushed."""
        cdef size_t _i
        if not FREE_THREADED or not peek_size(&self.n_arrived):
            return 0
        cdef References arrived = self.arrived
        acquire(&self.lock)
        try:
            while self.tail - self.head + arrived.count() > self.mask + 1:
                self.grow()
            for _i in range(arrived.count()):  # with their references
                self.items[self.tail & self.mask] = arrived.items[arrived.head & arrived.mask]
                arrived.head += 1
                self.tail += 1
            poke_size(&self.n_arrived, 0)
        finally:
            release(&self.lock)
        return 0

    cdef int shut(self) except -1:
        """The context closes: other threads can push no more, and what they have pushed is dropped."""
        if FREE_THREADED:
            acquire(&self.lock)
            self.is_shut = True
            release(&self.lock)
            self.take_arrived()
        self.clear()
        return 0

    cdef Handle pop(self):
        """The oldest one; the queue is not empty."""
        must_not(self.head == self.tail, "a callback that runs was queued")
        cdef Handle handle = <Handle>self.items[self.head & self.mask]
        self.head += 1
        # The next handle was written a while ago; fetch it while this one runs.
        ul_prefetch(self.items[self.head & self.mask])
        Py_DECREF(handle)  # taken by push
        return handle

    cdef list handles(self):
        """The queued handles, the oldest first: a copy."""
        cdef list copy = []  # first: it may run user code, as nothing below does
        cdef size_t at
        self.take_arrived()
        for at in range(self.head, self.tail):
            copy.append(<object>self.items[at & self.mask])
        return copy

    cdef Handle new_handle(self):
        """An empty one, as Handle.__new__ returns it."""
        cdef Handle handle
        while self.n_spare:
            self.n_spare -= 1
            handle = <Handle>self.spare[self.n_spare]
            Py_DECREF(handle)  # taken by recycle
            # code that walks all objects (gc.get_objects) can have found it since
            if UL_IS_OURS_ALONE(handle, Handle) and not handle.is_cancelled:
                must(is_none(<void *>handle.timers), "a handle that is used again is on no heap")
                return handle
        return Handle.__new__(Handle)

    cdef int recycle(self, Handle handle) except -1:
        """Keep a handle that ran, if that is not observable; the caller's reference must be the only one."""
        if (not UL_IS_OURS_ALONE(handle, Handle) or handle.n_args < 0 or handle.args is not None
                or handle.debug_info is not None or self.n_spare == SPARE_MOST):
            return 0
        handle.callback = handle.first = handle.second = handle.context = handle.loop = None
        # Releasing these may have run user code, and a turn in it.
        if self.n_spare < SPARE_MOST:
            Py_INCREF(handle)  # undone by new_handle or clear
            self.spare[self.n_spare] = <PyObject *>handle
            self.n_spare += 1
            must(self.n_spare <= SPARE_MOST, "no more handles are kept than have room")
            must_not(UL_IS_OURS_ALONE(handle, Handle), "the reference to a spare handle is counted")
        return 0

    cdef void clear(self) noexcept:
        References.clear(self)
        while self.n_spare:
            self.n_spare -= 1
            Py_DECREF(<Handle>self.spare[self.n_spare])


# -- garbage collection: see support/collect.h ---------------------------------------------------------------

cdef extern from *:
    """
    UL_COLLECTED(ReadyQueue)
    """
    void ul_collect_ReadyQueue(object, ul_traverse_own)


cdef int traverse_own(PyObject *self, visitproc visit, void *arg) noexcept:
    cdef int i, stop
    # what is queued, References visits
    for i in range((<ReadyQueue>self).n_spare):
        stop = visit((<ReadyQueue>self).spare[i], arg)
        if stop:
            return stop
    return 0


ul_collect_ReadyQueue(ReadyQueue, traverse_own)

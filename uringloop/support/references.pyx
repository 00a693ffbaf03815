"""References in C memory that the garbage collector sees: the one container for those that a loop owns.

A ring that doubles when full; putting and taking are a few instructions, without an extra object.

Other owners of references in C memory (whose entries have more than a reference) use collect.h themselves.

The collector visits them and never clears them: each cycle includes the owner of the container, which it clears.
A loop that is left open is closed by its finalizer before that, so that the kernel uses nothing here by then.

Invariant: tail - head references are in it, each owned once.
Thread: any that holds the GIL.
"""

from libc.stdlib cimport free, malloc
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject

from .assertions cimport must, must_not
from .collect cimport ul_traverse_own, visitproc

cdef enum:
    FIRST_CAPACITY = 64


cdef class References:
    """FIFO of owned references; also a base class, for one with typed access."""

    def __cinit__(self):
        self.mask = FIRST_CAPACITY - 1
        self.items = <PyObject **>malloc(FIRST_CAPACITY * sizeof(PyObject *))
        if self.items == NULL:
            raise MemoryError()

    def __dealloc__(self):
        if self.items != NULL:
            References.clear(self)
            free(self.items)

    cdef int put(self, object one) except -1:
        """Append one."""
        if self.tail - self.head > self.mask:
            self.grow()
        Py_INCREF(one)  # undone by take or clear
        self.items[self.tail & self.mask] = <PyObject *>one
        self.tail += 1
        must(self.tail - self.head <= self.mask + 1, "a ring holds no more than it has room for")
        return 0

    cdef object take(self):
        """Remove the oldest one; the caller then owns it.  There is one."""
        must_not(self.head == self.tail, "what is taken from a ring is there")
        one = <object>self.items[self.head & self.mask]
        self.head += 1
        Py_DECREF(one)  # taken by put
        return one

    cdef int grow(self) except -1:
        cdef size_t i
        cdef PyObject **grown = <PyObject **>malloc(2 * (self.mask + 1) * sizeof(PyObject *))
        if grown == NULL:
            raise MemoryError()
        # positions do not change: a turn remembers the position at which it ends
        for i in range(self.head, self.tail):
            grown[i & (2 * self.mask + 1)] = self.items[i & self.mask]
        free(self.items)
        self.items = grown
        self.mask = 2 * self.mask + 1
        must((self.mask & (self.mask + 1)) == 0, "the capacity of a ring is a power of two")
        must(self.tail - self.head <= self.mask, "a ring that has grown has room for one more")
        return 0

    cdef void clear(self) noexcept:
        # each leaves before it is released, which may run user code
        while self.head != self.tail:
            self.head += 1
            Py_DECREF(<object>self.items[(self.head - 1) & self.mask])  # taken by put


cdef extern from *:
    """
    UL_COLLECTED(References)
    """
    void ul_collect_References(object, ul_traverse_own)


cdef int traverse_own(PyObject *self, visitproc visit, void *arg) noexcept:
    cdef size_t at = (<References>self).head
    cdef int stop
    while at != (<References>self).tail:
        stop = visit((<References>self).items[at & (<References>self).mask], arg)
        if stop:
            return stop
        at += 1
    return 0


ul_collect_References(References, traverse_own)

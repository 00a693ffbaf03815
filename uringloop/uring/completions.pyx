"""The FIFO between harvest and dispatch.

Harvest copies CQEs to its end, dispatch takes from its head before it calls anything: a nested wait appends to the same
FIFO, a nested dispatch takes what the outer one has left, and each completion is delivered once and in order.

Invariant: tail - head completions are queued, and each holds one reference to its request.
Thread: the ring's owner.
"""

from libc.stdint cimport int32_t, uint32_t
from libc.stdlib cimport free, malloc
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject

from ..support.assertions cimport must, must_not
from ..support.collect cimport ul_traverse_own, visitproc
from .request cimport Request


cdef inline void fill(Completion *slot, Request request, int32_t res, uint32_t flags, char *data) noexcept:
    Py_INCREF(request)  # undone by the caller of pop
    slot.request = <PyObject *>request
    slot.res = res
    slot.flags = flags
    slot.data = data


cdef class CompletionFifo:
    """Completions in the order in which they were harvested."""

    def __cinit__(self):
        self.mask = 127
        self.items = <Completion *>malloc((self.mask + 1) * sizeof(Completion))
        if self.items == NULL:
            raise MemoryError()

    def __dealloc__(self):
        while self.items != NULL and self.head != self.tail:
            Py_DECREF(<object>self.items[self.head & self.mask].request)
            self.head += 1
        free(self.items)

    cdef size_t count(self) noexcept:
        return self.tail - self.head

    cdef int push(self, Request request, int32_t res, uint32_t flags, char *data) except -1:
        if self.tail - self.head > self.mask:
            self.grow()
        fill(&self.items[self.tail & self.mask], request, res, flags, data)
        self.tail += 1
        must(self.tail - self.head <= self.mask + 1, "the FIFO holds no more than it has room for")
        return 0

    cdef Completion pop(self) noexcept:
        """Remove the oldest one; the caller then owns its reference.  The FIFO is not empty."""
        must_not(self.head == self.tail, "a completion that is dispatched is on the FIFO")
        self.head += 1
        must_not(self.items[(self.head - 1) & self.mask].request == NULL, "a completion has its request")
        return self.items[(self.head - 1) & self.mask]

    cdef int put_back(self, Request request, int32_t res, uint32_t flags) except -1:
        """One that was popped could not be delivered: it is the oldest one again.  Not with provided buffers."""
        if self.tail - self.head > self.mask:
            self.grow()
        self.head -= 1
        fill(&self.items[self.head & self.mask], request, res, flags, NULL)
        must(self.tail - self.head <= self.mask + 1, "the FIFO holds no more than it has room for")
        return 0

    cdef int reserve(self, size_t n_more) except -1:
        """Make room for so many more, so that push() cannot fail: called before harvest takes CQEs from the ring."""
        while self.tail - self.head + n_more > self.mask + 1:
            self.grow()
        return 0

    cdef int grow(self) except -1:
        cdef size_t i, n = self.tail - self.head
        cdef Completion *grown = <Completion *>malloc(2 * (self.mask + 1) * sizeof(Completion))
        if grown == NULL:
            raise MemoryError()
        for i in range(n):
            grown[i] = self.items[(self.head + i) & self.mask]
        free(self.items)
        self.items = grown
        self.mask = 2 * self.mask + 1
        self.head = 0
        self.tail = n
        must((self.mask & (self.mask + 1)) == 0, "the capacity of the FIFO is a power of two")
        return 0


# -- garbage collection: see support/collect.h ---------------------------------------------------------------

cdef extern from *:
    """
    UL_COLLECTED(CompletionFifo)
    """
    void ul_collect_CompletionFifo(object, ul_traverse_own)


cdef int traverse_own(PyObject *self, visitproc visit, void *arg) noexcept:
    cdef size_t at = (<CompletionFifo>self).head
    cdef int stop
    while at != (<CompletionFifo>self).tail:
        stop = visit((<CompletionFifo>self).items[at & (<CompletionFifo>self).mask].request, arg)
        if stop:
            return stop
        at += 1
    return 0


ul_collect_CompletionFifo(CompletionFifo, traverse_own)

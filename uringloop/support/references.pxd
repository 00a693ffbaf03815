# A FIFO of owned references.
cimport cython
from cpython.ref cimport PyObject

cdef class References:
    cdef object collected     # always None: an object field makes the class garbage-collected
    cdef PyObject **items     # a ring of owned references
    cdef size_t head          # positions are items[position & mask]: the oldest
    cdef size_t tail          # the place of the next one
    cdef size_t mask
    cdef int put(self, object one) except -1
    cdef object take(self)
    cdef int grow(self) except -1
    cdef void clear(self) noexcept

    @cython.final
    cdef inline size_t count(self) noexcept:
        return self.tail - self.head

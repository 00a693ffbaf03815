# The provided-buffer ring of one loop.
from libc.stdint cimport int32_t, uint32_t

from ..liburing.liburing cimport io_uring_buf_ring
from .ring cimport Ring

cdef class BufferRing:
    cdef Ring ring                 # the ring with which it is registered
    cdef io_uring_buf_ring *slots  # page-aligned; the kernel reads it while the ring is open; owned
    cdef char *memory              # n_buffers * buffer_bytes; the kernel writes into it; owned
    cdef uint32_t *offsets         # next byte of each buffer (incremental mode); owned
    cdef uint32_t *n_taken         # chunks of each buffer taken and not yet returned; owned
    cdef unsigned char *is_spent   # the kernel will not write to this buffer any more; owned
    cdef bint is_lent              # a frame on the stack calls user code while it reads a buffer: one at most
    cdef size_t slots_bytes
    cdef readonly unsigned n_buffers
    cdef readonly unsigned buffer_bytes
    cdef readonly bint is_incremental
    cdef readonly unsigned group
    cdef bint unregister(self) noexcept
    cdef char *take(self, int32_t res, uint32_t flags) noexcept
    cdef void give_back(self, uint32_t flags) noexcept
    cdef void free_memory(self) noexcept

cdef class LentBuffers:
    cdef dict groups                   # {group: {buffer id: [how many, objects they keep alive ...]}}
    cdef dict counts                   # {group: buffers that the kernel has at most}
    cdef int lend(self, unsigned group, unsigned first_id, int count, object keepalive) except -1
    cdef object use(self, unsigned group, unsigned id)
    cdef object remove(self, unsigned group, int n_removed)

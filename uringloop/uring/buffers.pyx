"""The provided-buffer ring: memory that the kernel fills when data arrives, shared by all connections.

 1. Incremental (IOU_PBUF_RING_INC, since Linux 6.12): 4 buffers of 256 KiB; small messages are packed one after
    the other, large ones get large chunks.  Before that: 64 buffers of 16 KiB.  The ring is a FIFO, so
    all of it is cycled through; 1 MiB stays within the L2 cache.
 2. Each completion with IORING_CQE_F_BUFFER names a buffer; in incremental mode the data begins where the previous
    completion of the same buffer ended, so `take` is called in harvest order, for all of them.
 3. The data is copied out at dispatch and `give_back` called; a buffer returns to the kernel when it is
    spent and every chunk of it was given back.  An idle connection costs no memory.

Invariant: offsets[id] is where the kernel's next byte goes in buffer id.

Memory: owned by this object, which the monitor frees only after the ring is closed and drained.  Never locked.
"""

from libc.stdint cimport int32_t, uint32_t
from libc.stdlib cimport calloc, free
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap, munmap

from ..liburing.liburing cimport *
from .ring cimport Ring

import os

# Buffer-group ids from here on are the loop's own; users' requests keep below.
FIRST_RESERVED_GROUP = 0xFF00


cdef class BufferRing:
    """Register a provided-buffer ring with `ring`.

    Raises: OSError where the kernel has none (before Linux 5.19) or memory is short.
    """

    def __cinit__(self, Ring ring not None):
        cdef int result
        self.ring = ring
        self.group = FIRST_RESERVED_GROUP
        self.n_buffers, self.buffer_bytes, self.is_incremental = 4, 256 * 1024, True
        self.slots_bytes = 4096
        self.slots = <io_uring_buf_ring *>mmap(NULL, self.slots_bytes, PROT_READ | PROT_WRITE,
                                               MAP_ANONYMOUS | MAP_PRIVATE, -1, 0)
        if <void *>self.slots == MAP_FAILED:
            self.slots = NULL
            raise MemoryError()
        result = ul_register_buffer_ring(&ring.ring, self.slots, self.n_buffers, self.group, UL_PBUF_RING_INC)
        if result == -22:  # EINVAL: no incremental mode
            self.n_buffers, self.buffer_bytes, self.is_incremental = 64, 16 * 1024, False
            result = ul_register_buffer_ring(&ring.ring, self.slots, self.n_buffers, self.group, 0)
        if result < 0:
            raise OSError(-result, "io_uring_register(PBUF_RING): " + os.strerror(-result))
        self.memory = <char *>mmap(NULL, <size_t>self.n_buffers * self.buffer_bytes, PROT_READ | PROT_WRITE,
                                   MAP_ANONYMOUS | MAP_PRIVATE, -1, 0)
        if <void *>self.memory == MAP_FAILED:
            self.memory = NULL
            raise MemoryError()
        self.offsets = <uint32_t *>calloc(self.n_buffers, sizeof(uint32_t))
        self.n_taken = <uint32_t *>calloc(self.n_buffers, sizeof(uint32_t))
        self.is_spent = <unsigned char *>calloc(self.n_buffers, 1)
        if self.offsets == NULL or self.n_taken == NULL or self.is_spent == NULL:
            raise MemoryError()
        for i in range(self.n_buffers):
            ul_buffer_add(self.slots, self.memory + <size_t>i * self.buffer_bytes, self.buffer_bytes, i,
                          self.n_buffers - 1, i)
        ul_buffer_publish(self.slots, self.n_buffers)

    def __dealloc__(self):
        self.free_memory()

    cdef bint unregister(self) noexcept:
        """Take it out of a ring that goes on to another loop; nothing is in flight.  False: close the ring."""
        return io_uring_unregister_buf_ring(&self.ring.ring, self.group) == 0

    cdef void free_memory(self) noexcept:
        """Only when the ring is closed: the kernel may write until then."""
        if self.memory != NULL:
            munmap(self.memory, <size_t>self.n_buffers * self.buffer_bytes)
            self.memory = NULL
        if self.slots != NULL:
            munmap(self.slots, self.slots_bytes)
            self.slots = NULL
        free(self.offsets)
        free(self.n_taken)
        free(self.is_spent)
        self.offsets = self.n_taken = NULL
        self.is_spent = NULL

    cdef char *take(self, int32_t res, uint32_t flags) noexcept:
        """Where the bytes of a completion with IORING_CQE_F_BUFFER are; valid until give_back.

        Call it once for each such completion, in harvest order: that order is where the kernel wrote.
        """
        cdef unsigned id = flags >> IORING_CQE_BUFFER_SHIFT
        cdef char *data = self.memory + <size_t>id * self.buffer_bytes + self.offsets[id]
        self.n_taken[id] += 1
        if flags & UL_CQE_F_BUF_MORE:
            self.offsets[id] += <uint32_t>res if res > 0 else 0
        else:
            self.is_spent[id] = 1
        return data

    cdef void give_back(self, uint32_t flags) noexcept:
        """The bytes of one completion were copied; in any order."""
        cdef unsigned id = flags >> IORING_CQE_BUFFER_SHIFT
        self.n_taken[id] -= 1
        if self.n_taken[id] or not self.is_spent[id]:
            return
        self.is_spent[id] = 0
        self.offsets[id] = 0
        ul_buffer_add(self.slots, self.memory + <size_t>id * self.buffer_bytes, self.buffer_bytes, id,
                      self.n_buffers - 1, 0)
        ul_buffer_publish(self.slots, 1)

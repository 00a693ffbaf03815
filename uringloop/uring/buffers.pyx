"""Provided buffers: memory that the kernel fills when data arrives.  The loop's own ring of them is shared by all
connections; buffers that requests of add_sqe() provide one by one are `LentBuffers`.

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

from libc.errno cimport EINVAL
from libc.stdint cimport int32_t, uint32_t
from libc.stdlib cimport calloc, free
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap, munmap

from ..liburing.liburing cimport *
from ..support.assertions cimport must, must_not
from ..support.errors cimport os_error
from .ring cimport Ring


# Buffer-group ids from here on are the loop's own; users' requests use lower ones.
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
        result = ul_register_buffer_ring(&ring.ring, self.slots, self.n_buffers, self.group, IOU_PBUF_RING_INC)
        if result == -EINVAL:  # no incremental mode
            self.n_buffers, self.buffer_bytes, self.is_incremental = 64, 16 * 1024, False
            result = ul_register_buffer_ring(&ring.ring, self.slots, self.n_buffers, self.group, 0)
        if result < 0:
            raise os_error(-result, "io_uring_register(PBUF_RING)")
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
            io_uring_buf_ring_add(self.slots, self.memory + <size_t>i * self.buffer_bytes, self.buffer_bytes, i,
                                  self.n_buffers - 1, i)
        io_uring_buf_ring_advance(self.slots, self.n_buffers)

    def __dealloc__(self):
        self.free_memory()

    cdef bint unregister(self) noexcept:
        """Unregister it from a ring that is given to another loop; nothing is in flight.  False: close the ring."""
        return io_uring_unregister_buf_ring(&self.ring.ring, self.group) == 0

    cdef void free_memory(self) noexcept:
        """Free the memory, only when the ring is closed: the kernel may write until then."""
        must_not(self.is_lent, "no frame reads a buffer whose memory is freed")
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

        Call it once for each such completion, in harvest order: that order determines where the kernel wrote.
        """
        cdef unsigned id = flags >> IORING_CQE_BUFFER_SHIFT
        must(id < self.n_buffers, "a completion names a buffer of the ring")
        must_not(self.is_spent[id], "the kernel puts nothing into a buffer that is spent")
        cdef char *data = self.memory + <size_t>id * self.buffer_bytes + self.offsets[id]
        self.n_taken[id] += 1
        if flags & IORING_CQE_F_BUF_MORE:
            self.offsets[id] += <uint32_t>res if res > 0 else 0
        else:
            self.is_spent[id] = 1
        must(self.offsets[id] <= self.buffer_bytes, "the next byte goes into the buffer or it is full")
        return data

    cdef void give_back(self, uint32_t flags) noexcept:
        """The bytes of one completion were copied; in any order."""
        cdef unsigned id = flags >> IORING_CQE_BUFFER_SHIFT
        must(id < self.n_buffers, "what is given back is a buffer of the ring")
        must(self.n_taken[id] > 0, "each chunk of a buffer is given back once")
        self.n_taken[id] -= 1
        if self.n_taken[id] or not self.is_spent[id]:
            return
        self.is_spent[id] = 0
        self.offsets[id] = 0
        io_uring_buf_ring_add(self.slots, self.memory + <size_t>id * self.buffer_bytes, self.buffer_bytes, id,
                              self.n_buffers - 1, 0)
        io_uring_buf_ring_advance(self.slots, 1)


cdef class LentBuffers:
    """Keeps the memory alive that IORING_OP_PROVIDE_BUFFERS gave to the kernel.

    The request itself is over at once, and the kernel writes to the buffer whenever it selects it.  So what that
    request kept alive lives on: until a completion names the buffer (IORING_CQE_F_BUFFER), until as many of the group
    were named or removed as were provided, or until the ring is closed.  Completions are counted in CQ order.

    Invariant: a count is never less than what the kernel has.  A buffer that the kernel drops silently stays
    until the ring is closed.
    """

    def __cinit__(self):
        self.groups = {}
        self.counts = {}

    cdef int lend(self, unsigned group, unsigned first_id, int count, object keepalive) except -1:
        cdef dict held = self.groups.setdefault(group, {})
        cdef list kept
        cdef int i
        must(count >= 0, "no less than no buffer is lent")
        for i in range(count):
            kept = held.setdefault(first_id + i, [0])
            kept[0] += 1
            kept.append(keepalive)
        self.counts[group] = self.counts.get(group, 0) + count
        return 0

    cdef object use(self, unsigned group, unsigned id):
        """A completion names a buffer; returns the objects not needed any more, for the caller to drop."""
        cdef dict held = self.groups.get(group)
        cdef list kept = None if held is None else held.get(id)
        if kept is None:
            return None
        self.counts[group] -= 1
        kept[0] -= 1
        if kept[0]:
            return None  # the same id was provided twice, and which of the two is left is not known
        del held[id]
        return kept

    cdef object remove(self, unsigned group, int n_removed):
        """Buffers were removed; returns the objects not needed any more, for the caller to drop.

        That there were no more proves nothing: a request that ends unfinished returns its buffer later.
        The kernel removes the oldest, so completions after this one name the buffers that are left.
        """
        if group not in self.counts:
            return None
        must(n_removed >= 0, "no less than no buffer is removed")
        self.counts[group] -= n_removed
        if self.counts[group] > 0:
            return None  # which ones are left is not known
        del self.counts[group]
        return self.groups.pop(group)

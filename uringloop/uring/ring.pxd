# One io_uring instance: set-up, SQEs, the one syscall, close.  Knows nothing of requests.
from libc.stdint cimport int64_t, uint64_t

from ..liburing.liburing cimport io_uring, io_uring_sqe

cdef class Ring:
    cdef io_uring ring                 # liburing's state; valid while is_open
    cdef readonly bint is_open         # the ring fd and its mappings exist
    cdef bint is_left                  # in a fork child, closed: opened anew when it is needed
    cdef readonly bint is_large        # SQ_LARGE
    cdef readonly bint is_enabled      # submissions are accepted (IORING_REGISTER_ENABLE_RINGS done)
    cdef unsigned long long inode      # of the ring's file, to know its fd again
    cdef uint64_t owner_thread         # serial of the thread that enabled it; 0 before
    cdef int owner_tid                 # its number in the kernel, which another thread may have later
    cdef readonly unsigned setup_flags  # what the kernel accepted
    cdef readonly unsigned features    # IORING_FEAT_*
    cdef readonly unsigned long long n_syscalls
    cdef readonly unsigned long long n_submitted
    cdef unsigned wait_flags           # GETEVENTS, and NO_IOWAIT where the kernel has it
    cdef bint has_taskrun_flag         # IORING_SQ_TASKRUN reports deferred completions
    cdef io_uring_sqe *overflow        # SQEs beyond the SQ while the ring is disabled; owned
    cdef unsigned n_overflow
    cdef bint is_sq_left               # disabled, and from now on SQEs go to `overflow`
    cdef unsigned overflow_capacity

    cdef io_uring_sqe *get_sqe(self) except NULL
    cdef int enable(self) except -1
    cdef bint is_mine(self) noexcept
    cdef bint has_lost_its_owner(self) noexcept
    cdef int enter(self, unsigned wait_count, int64_t timeout_ns) except? -1
    cdef bint has_unsubmitted(self) noexcept
    cdef bint has_completions(self) noexcept
    cdef int close(self) except -1
    cdef int open(self, bint single_issuer, bint is_patient) except -1
    cdef int leave(self) except -1
    cdef int reopen(self) except -1
    cdef bint has_room(self, unsigned n_sqes) noexcept
    cdef bint move_overflow(self) except -1
    cdef int adopt(self, Ring old) except -1
    cdef void take_number(self, int number) noexcept
    cdef int setup(self, bint single_issuer)
    cdef bint has_its_fd(self) noexcept
    cdef void unmap_and_close(self) noexcept
    cdef int setup_when_there_is_memory(self, bint single_issuer) except? -1
    cdef int fill_cq(self) except -1

cdef bint is_a_loops_ring(int fd) except -1
cdef int raise_kernel_busy() except -1

cdef unsigned SQ_LARGE             # the longest chain

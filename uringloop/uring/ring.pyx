"""One io_uring instance: set-up, SQEs, the one syscall, close.

How it works:
 1. The ring is made disabled (IORING_SETUP_R_DISABLED, since Linux 5.10), because whether a loop gets io_uring
    must be known when the loop is made, and because the thread that enables a SINGLE_ISSUER ring becomes
    its only owner for ever (measured: any other thread gets -EEXIST from then on).
 2. Set-up flags are tried from best to plainest; the kernel refuses unknown ones with EINVAL.
 3. A disabled ring accepts no submission (-EBADFD).  SQEs that do not fit into the SQ until then wait in
    our own array and move into the SQ when the ring is enabled, in order, linked ones together.
 4. All submitting and waiting is one function, `enter`.

Invariant: only the owner thread calls anything here after `enable`, except `close`.

Not here: what is in flight (`request`), when it is entered (`engine`).
"""

cimport cython
from libc.errno cimport EAGAIN, EBUSY, EINTR, EINVAL, EMFILE, ENOMEM
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove, memset

from posix.fcntl cimport fcntl
from posix.unistd cimport close as close_fd

from ..liburing.liburing cimport *
from ..support.assertions cimport length_of_list, must, must_if, must_not
from ..support.errors cimport os_error
from ..support.guard cimport peek_int, poke_int
from ..support.probes cimport ul_probe_submit

cdef extern from "<sys/stat.h>" nogil:
    """
    static unsigned long long ul_inode(int fd)
    {
        struct stat status;
        return fstat(fd, &status) == 0 ? (unsigned long long)status.st_ino : 0;
    }
    """
    unsigned long long ul_inode(int fd)  # 0: no open file

cdef extern from *:
    """
    #include <errno.h>
    #include <liburing.h>
    #include <string.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    /* The errno of a sandbox that lets a ring be made and refuses its use, or 0: else fd -1 gives EBADF or EINVAL. */
    static int ul_refused_call(void)
    {
        if (syscall(__NR_io_uring_enter, -1, 0, 0, 0, NULL, 0) < 0 && errno != EBADF)
            return errno;
        if (syscall(__NR_io_uring_register, -1, IORING_REGISTER_ENABLE_RINGS, NULL, 0) < 0
                && errno != EBADF && errno != EINVAL)
            return errno;
        return 0;
    }
    /* Permit what sockets, timers and wake-ups need, for the life of the ring; a negated errno or 0.
       Each of these works on fds that the process has: none opens or names a file, none makes a socket. */
    static int ul_restrict(struct io_uring *ring)
    {
        static const unsigned char operations[] = {
            IORING_OP_NOP, IORING_OP_POLL_ADD, IORING_OP_ASYNC_CANCEL, IORING_OP_TIMEOUT,
            IORING_OP_ACCEPT, IORING_OP_RECV, IORING_OP_SEND, IORING_OP_SENDMSG,
        };
        static const unsigned char calls[] = {
            IORING_REGISTER_ENABLE_RINGS, IORING_REGISTER_PBUF_RING, IORING_UNREGISTER_PBUF_RING,
        };
        struct io_uring_restriction permitted[sizeof operations + sizeof calls + 1];
        struct io_uring_restriction *next = permitted;
        memset(permitted, 0, sizeof permitted);
        for (size_t i = 0; i < sizeof operations; i++, next++) {
            next->opcode = IORING_RESTRICTION_SQE_OP;
            next->sqe_op = operations[i];
        }
        for (size_t i = 0; i < sizeof calls; i++, next++) {
            next->opcode = IORING_RESTRICTION_REGISTER_OP;
            next->register_op = calls[i];
        }
        next->opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED;
        next->sqe_flags = IOSQE_CQE_SKIP_SUCCESS | IOSQE_BUFFER_SELECT | IOSQE_IO_LINK;
        return io_uring_register_restrictions(ring, permitted, next + 1 - permitted);
    }
    """
    int ul_refused_call() noexcept
    int ul_restrict(io_uring *ring) noexcept

cdef extern from "../uring/ring_fds.h":
    bint ul_note_ring(int fd) noexcept
    void ul_forget_ring(int fd) noexcept
    int ul_count_rings() noexcept
    bint ul_is_a_ring(int fd) noexcept

import atexit
import os
import time

from ..exceptions import MonitorUnavailable
from ..liburing.refusal import explain

cdef extern from "<fcntl.h>":
    int F_DUPFD_CLOEXEC

# Ring memory is charged, in pages, against RLIMIT_MEMLOCK per user: 64 SQEs are one page, and 128 CQEs fit into another
# with everything else.  More gains nothing (measured at 1,000 connections, echo and broadcast): the loop harvests every
# some 32 completions, a full SQ is one cheap system call in 64, and the kernel keeps what the CQ does not hold
# (IORING_FEAT_NODROP).  A chain of add_sqes() has to fit into the SQ: loops with raw requests get a large ring.
cdef unsigned SQ_SMALL = 64
cdef unsigned CQ_SMALL = 128
cdef unsigned SQ_LARGE = 256
cdef unsigned CQ_LARGE = 1024

# How long the constructor waits before it fails with ENOMEM: the kernel returns the memory of closed rings tens of
# milliseconds after close, to all processes of the user.  They all wait for it, and one that tries rarely gets none: so
# the pauses stay short.  Counted, not timed: programs replace the clock.
ENOMEM_PAUSES_MS = (1, 2, 4, 8) + (10,) * 18
# The rest, up to a second, where a ring was made or closed since the last such wait: memory does come back then, and
# without a ring a loop is an error, where the first of a process would fall back.
ENOMEM_MORE_PAUSES_MS = (10,) * 80
cdef int is_worth_waiting = False  # of this process; any thread writes it

# Empty rings of closed loops, ready for the next loop: never enabled, for any thread, or enabled, for the one thread
# that owns it for ever.  Besides the time, this saves locked memory, which the kernel returns late: as an
# unprivileged user with 8 MiB, thousands of loops in a row would fail.  Oldest first; in a critical section.
cdef list spare_rings = []
cdef object of_spare_rings = object()  # of that section: the list itself is locked by its own methods
cdef int SPARE_RINGS = 4
cdef object owner_pid = os.getpid()


# Read once: what a ring may do cannot be changed any more, and spare rings serve any loop.
is_restricted = os.environ.get("URINGLOOP_RESTRICTED", "") not in ("", "0")


cdef bint is_a_loops_ring(int fd) except -1:
    """Completions on it are taken for requests of a loop; also of a duplicate of its fd, where kcmp(2) detects it."""
    return ul_is_a_ring(fd)


# Without EXT_ARG (since Linux 5.11) timeouts would need separate SQEs, without NODROP (5.5) completions could be lost,
# and without CQE_SKIP (5.17) every cancel would be refused.
cdef unsigned NEEDED_FEATURES = IORING_FEAT_EXT_ARG | IORING_FEAT_NODROP | IORING_FEAT_CQE_SKIP

cdef enum:
    ENTERS_WHILE_FULL = 20  # a timeout that is set at the moment expires meanwhile


cdef int raise_kernel_busy() except -1:
    """The SQ stays full although the kernel was entered: memory is short, or the CQ overflows."""
    raise OSError(EAGAIN, "io_uring_enter: the kernel takes no requests at the moment")


cdef list flag_ladder(bint single_issuer):
    """Set-up flags from best to plainest."""
    cdef unsigned base = IORING_SETUP_R_DISABLED | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP
    ladder = []
    if single_issuer:
        # since Linux 6.1
        ladder.append(base | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_SINGLE_ISSUER
                      | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG)
    # since Linux 5.19
    ladder.append(base | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG)
    # Nothing plainer: without these flags completions interrupt the thread (measured: slower than epoll), and before
    # 5.19 the kernel has neither ASYNC_CANCEL_ANY nor multishot accept, and 5.15 no CQE_SKIP_SUCCESS for cancels.
    return ladder


cdef class Ring:
    """One io_uring instance, made disabled.

    Parameters:
        single_issuer: whether one thread will submit; False for a loop that moved to another thread, and for one that
            sleeps on the ring's fd.
        is_large: with an SQ for the longest chain.
        is_dummy: open nothing; stands in for a ring that was given away.
        is_patient: whether to wait for locked memory that is on its way back; False where it can do without the ring.

    Raises: MonitorUnavailable with errno and cause; nothing is left behind.
    Threads: see the module's invariant.
    """

    def __cinit__(self, bint single_issuer=True, bint is_dummy=False, bint is_large=False, bint is_patient=True):
        self.is_large = is_large
        memset(&self.ring, 0, sizeof(self.ring))
        if not is_dummy:
            self.open(single_issuer, is_patient)

    cdef int open(self, bint single_issuer, bint is_patient) except -1:
        cdef int result = self.setup(single_issuer)
        if result == -ENOMEM and is_patient:
            result = self.setup_when_there_is_memory(single_issuer)
        if result < 0:
            raise MonitorUnavailable("io_uring", -result, explain(-result, ul_count_rings()))
        return 0

    cdef int setup_when_there_is_memory(self, bint single_issuer) except? -1:
        """Locked memory is used up: close the spare rings, and wait for memory that is on its way back."""
        close_spare_rings()
        pauses_ms = ENOMEM_PAUSES_MS + ENOMEM_MORE_PAUSES_MS if peek_int(&is_worth_waiting) else ENOMEM_PAUSES_MS
        for pause_ms in pauses_ms:
            time.sleep(pause_ms / 1000)
            result = self.setup(single_issuer)
            if result != -ENOMEM:
                return result
        poke_int(&is_worth_waiting, False)
        return -ENOMEM

    cdef int setup(self, bint single_issuer):
        """Try the flag ladder; 0 or a negated errno."""
        global is_worth_waiting
        cdef io_uring_params params
        cdef int result = -EINVAL
        for flags in flag_ladder(single_issuer):
            memset(&params, 0, sizeof(params))
            params.flags = flags
            params.cq_entries = CQ_LARGE if self.is_large else CQ_SMALL
            result = io_uring_queue_init_params(SQ_LARGE if self.is_large else SQ_SMALL, &self.ring, &params)
            if result != -EINVAL:
                break
        if result < 0:
            return result
        if params.features & NEEDED_FEATURES != NEEDED_FEATURES:
            io_uring_queue_exit(&self.ring)
            return -EINVAL
        result = ul_refused_call()
        if not result and is_restricted:
            result = -ul_restrict(&self.ring)  # while the ring is disabled, since Linux 5.10
        if not result and not ul_note_ring(self.ring.ring_fd):
            result = EMFILE
        if result:
            io_uring_queue_exit(&self.ring)
            return -result
        self.setup_flags = flags
        self.features = params.features
        self.is_open = True
        self.has_taskrun_flag = bool(flags & IORING_SETUP_TASKRUN_FLAG)
        self.wait_flags = IORING_ENTER_GETEVENTS
        if params.features & IORING_FEAT_NO_IOWAIT:
            # A sleeping loop always has requests in flight; without this the CPU looks 100 % in iowait.
            self.wait_flags |= IORING_ENTER_NO_IOWAIT
        ul_identity_sq_array(&self.ring)
        self.inode = ul_inode(self.ring.ring_fd)
        poke_int(&is_worth_waiting, True)
        return 0

    def __dealloc__(self):
        if self.is_open:
            self.is_open = False
            self.unmap_and_close()
        free(self.overflow)

    cdef bint has_its_fd(self) noexcept:
        """False once the program has closed the fd without our knowledge: os.closerange() of a daemon, for example."""
        return ul_inode(self.ring.ring_fd) == self.inode  # a ring's inode is its own, since Linux 5.16

    cdef void unmap_and_close(self) noexcept:
        must_not(self.is_open, "a ring that is unmapped is not open any more")
        ul_forget_ring(self.ring.ring_fd)
        if not self.has_its_fd():
            self.ring.ring_fd = -1  # the number may be another file's, which must stay open
        io_uring_queue_exit(&self.ring)
        poke_int(&is_worth_waiting, True)

    cdef io_uring_sqe *get_sqe(self) except NULL:
        """A cleared-by-prep SQE to fill before anything else is called here.

        Raises: OSError where the kernel takes no SQEs at the moment (memory pressure).
        The pointer is valid until the next call of this method.
        """
        cdef io_uring_sqe *sqe
        cdef io_uring_sqe *grown
        if not self.is_open:
            if not self.is_left:
                raise RuntimeError("the loop is closed: its ring takes no requests")
            self.reopen()
        must_if(self.is_enabled, self.is_mine(), "only its owner queues requests on a ring")
        if self.is_enabled or not (self.n_overflow or self.is_sq_left):
            sqe = io_uring_get_sqe(&self.ring)
            if sqe != NULL:
                # prep does not clear it: if filling fails before hold(), an old request's address must not stand here
                sqe.user_data = 0
                return sqe
        if self.is_enabled:
            self.enter(0, -1)
            sqe = io_uring_get_sqe(&self.ring)
            if sqe == NULL:
                raise_kernel_busy()
            sqe.user_data = 0
            return sqe
        if self.n_overflow == self.overflow_capacity:
            capacity = max(64, 2 * self.overflow_capacity)
            grown = <io_uring_sqe *>realloc(self.overflow, capacity * sizeof(io_uring_sqe))
            if grown == NULL:
                raise MemoryError()
            self.overflow = grown
            self.overflow_capacity = capacity
        sqe = &self.overflow[self.n_overflow]
        memset(sqe, 0, sizeof(io_uring_sqe))
        self.n_overflow += 1
        must(self.n_overflow <= self.overflow_capacity, "what waits for `enable` has its memory")
        return sqe

    cdef int enable(self) except -1:
        """Accept submissions from now on; the calling thread becomes the owner.  move_overflow comes next."""
        cdef int result
        if self.is_enabled:
            return 0
        self.reopen()
        result = io_uring_enable_rings(&self.ring)
        if result < 0:
            raise os_error(-result, "io_uring_register(ENABLE_RINGS)")
        self.is_enabled = True
        self.owner_thread = ul_thread_serial()
        self.owner_tid = ul_thread_number()
        must(self.is_open, "a ring that is enabled is open")
        must(self.is_mine(), "the thread that enables a ring owns it")
        return 0

    cdef bint is_mine(self) noexcept:
        """Whether the calling thread enabled it: no other thread may enter it."""
        return self.is_enabled and self.owner_thread == ul_thread_serial()

    cdef bint has_lost_its_owner(self) noexcept:
        """Whether the thread that enabled it has ended, so that no thread can enter it any more."""
        return self.is_enabled and ul_is_thread_gone(self.owner_tid)

    cdef bint has_room(self, unsigned n_sqes) noexcept:
        """The next `n_sqes` calls of get_sqe submit nothing, so that no submission comes between them.

        While the ring is disabled they also stay together: all in the SQ, or all among those that wait for `enable`.
        """
        if io_uring_sq_space_left(&self.ring) >= n_sqes:
            return True
        self.is_sq_left = not self.is_enabled
        return self.is_sq_left

    cdef bint move_overflow(self) except -1:
        """Move SQEs that waited for `enable` into the SQ as far as there is room; True while more wait.

        A chain of linked SQEs moves as a whole: an enter between two of them would split it.
        """
        cdef unsigned first = 0
        cdef unsigned after, i
        while first < self.n_overflow:
            after = first + 1
            while after < self.n_overflow and self.overflow[after - 1].flags & (IOSQE_IO_LINK | IOSQE_IO_HARDLINK):
                after += 1
            if not self.has_room(after - first):
                break
            for i in range(first, after):
                memcpy(self.get_sqe(), &self.overflow[i], sizeof(io_uring_sqe))
            first = after
        must(first <= self.n_overflow, "no more is moved into the SQ than has waited")
        self.is_sq_left = False
        self.n_overflow -= first
        if self.n_overflow:
            memmove(self.overflow, &self.overflow[first], self.n_overflow * sizeof(io_uring_sqe))
            return True
        free(self.overflow)
        self.overflow = NULL
        self.overflow_capacity = 0
        return False

    cdef int adopt(self, Ring old) except -1:
        """Take the SQEs that wait for `enable` in another ring; neither was enabled, and this one is empty."""
        must_not(self.is_enabled, "a ring that adopts was never enabled")
        must_not(old.is_enabled, "nothing was consumed of what is adopted")
        must(self.n_overflow == 0, "a ring that adopts is empty")
        cdef unsigned n_in_sq = old.ring.sq.sqe_tail  # none was consumed
        cdef io_uring_sqe *all = <io_uring_sqe *>malloc((n_in_sq + old.n_overflow + 1) * sizeof(io_uring_sqe))
        if all == NULL:
            raise MemoryError()
        memcpy(all, old.ring.sq.sqes, n_in_sq * sizeof(io_uring_sqe))
        if old.n_overflow:
            memcpy(&all[n_in_sq], old.overflow, old.n_overflow * sizeof(io_uring_sqe))
        free(self.overflow)
        self.overflow = all
        self.n_overflow = n_in_sq + old.n_overflow
        self.overflow_capacity = self.n_overflow + 1
        return 0

    cdef void take_number(self, int number) noexcept:
        """Use this fd number, which is free, instead of the kernel's; keep the kernel's if it is no longer free."""
        cdef int taken = fcntl(self.ring.ring_fd, F_DUPFD_CLOEXEC, number)
        if taken < 0:
            return
        ul_forget_ring(self.ring.ring_fd)
        close_fd(self.ring.ring_fd)
        self.ring.ring_fd = self.ring.enter_ring_fd = taken
        ul_note_ring(taken)

    cdef int enter(self, unsigned wait_count, int64_t timeout_ns) except? -1:
        """Submit everything and wait; the only place where the ring's owner releases the GIL.

        Parameters:
            wait_count: completions to wait for; 0 only runs what the kernel has deferred.
            timeout_ns: upper bound in nanoseconds, -1 for ever; 0 is not allowed (the kernel really sleeps
                then, 21 us): pass wait_count 0 instead.

        Returns: SQEs consumed, or a negated errno, one of those that callers must expect:
            -EINTR (a signal), -ETIME (the time is over), -EAGAIN and -EBUSY (harvest, then try again).
        Raises: OSError for any other errno.
        """
        cdef int done, ring_fd
        cdef unsigned to_submit
        if not self.is_open:
            raise RuntimeError("the loop is closed: its ring cannot be entered")
        must_if(self.is_enabled, self.is_mine(), "only its owner enters a ring")
        must_if(wait_count != 0, timeout_ns != 0, "a wait without time is none: wait_count is 0 then")
        # Before the GIL is released: a finalizer that another thread calls may have the next SQE half filled meanwhile.
        to_submit = ul_publish(&self.ring)
        ring_fd = self.ring.ring_fd
        with nogil:
            done = ul_enter(ring_fd, to_submit, wait_count, self.wait_flags, timeout_ns)
        self.n_syscalls += 1
        ul_probe_submit(ring_fd, to_submit, done)
        if done >= 0:
            self.n_submitted += done
            return done
        if done in (-EINTR, -ETIME, -EAGAIN, -EBUSY):
            return done
        raise os_error(-done, "io_uring_enter")

    cdef bint has_unsubmitted(self) noexcept:
        return self.is_open and io_uring_sq_ready(&self.ring) != 0

    cdef bint has_completions(self) noexcept:
        """Whether completions are visible, or an enter would make some visible; without a system call."""
        if not self.is_open:
            return False
        if io_uring_cq_ready(&self.ring):
            return True
        return (ul_sq_flags(&self.ring) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0

    cdef int fill_cq(self) except -1:
        """End the multishot timeouts that expire as soon as they are set again, too fast for a cancel to find them.

        The kernel does not set one again that finds no room in the CQ.  So fill that, with completions that no request
        waits for.  Other multishot requests that complete meanwhile also end, as with any overflow.  Nothing is lost;
        harvest next.
        """
        cdef io_uring_sqe *sqe
        cdef unsigned _i
        for _i in range(2 * (self.ring.cq.ring_mask + 1)):
            if not self.has_room(1):
                self.enter(0, -1)
            if ul_sq_flags(&self.ring) & IORING_SQ_CQ_OVERFLOW or not self.has_room(1):
                break
            sqe = self.get_sqe()
            io_uring_prep_nop(sqe)
            sqe.user_data = 0
        for _i in range(<unsigned>ENTERS_WHILE_FULL):
            self.enter(0, -1)
        return 0

    cdef int close(self) except -1:
        """Close the ring; the kernel cancels requests in flight.  Idempotent.

        In a fork child only the child's copy is released: unmapping and closing touch no shared content.
        """
        self.is_left = False
        if self.is_open:
            self.is_open = False
            self.is_enabled = False
            self.unmap_and_close()
        free(self.overflow)
        self.overflow = NULL
        self.n_overflow = self.overflow_capacity = 0
        return 0

    cdef int leave(self) except -1:
        """In a fork child: release the parent's ring; `reopen` makes another one, which is disabled."""
        cdef bint is_left = self.is_open or self.is_left
        self.close()
        memset(&self.ring, 0, sizeof(self.ring))
        self.n_syscalls = self.n_submitted = 0
        self.owner_thread = 0
        self.is_sq_left = False
        self.is_left = is_left
        return 0

    cdef int reopen(self) except -1:
        """The first need of a ring after `leave`.  Raises MonitorUnavailable; then the next one tries again."""
        if self.is_left:
            self.open(bool(self.setup_flags & IORING_SETUP_SINGLE_ISSUER), True)
            self.is_left = False
        return 0


def take_ring(bint single_issuer=True, bint only_disabled=False, bint is_patient=True):
    """A ring for the calling thread, or a disabled one for any thread.  Raises MonitorUnavailable, as Ring."""
    cdef Ring ring = None
    with cython.critical_section(of_spare_rings):
        ring = take_spare(single_issuer, only_disabled)
    return ring if ring is not None else Ring(single_issuer, is_patient=is_patient)


cdef Ring take_spare(bint single_issuer, bint only_disabled):
    """None where there is none."""
    cdef Ring ring
    global owner_pid
    if os.getpid() != owner_pid:
        # After a fork without the at-fork hook: the spares' memory is shared with the parent.
        spare_rings.clear()
        owner_pid = os.getpid()
    if single_issuer:
        for ring in reversed(spare_rings):
            if not ring.has_its_fd():
                spare_rings.remove(ring)
                ring.close()
            elif not ring.is_enabled or (ring.is_mine() and not only_disabled):
                spare_rings.remove(ring)
                return ring
    close_ownerless_rings()
    return None


def give_back(Ring ring not None):
    """Keep a ring on which nothing is in flight for the next loop; False where it must be closed instead."""
    cdef Ring oldest
    if (not ring.is_open or ring.has_unsubmitted() or ring.has_completions() or ring.n_overflow or ring.is_large
            or not ring.setup_flags & IORING_SETUP_SINGLE_ISSUER):
        return False
    ring.n_syscalls = ring.n_submitted = 0
    with cython.critical_section(of_spare_rings):
        close_ownerless_rings()
        spare_rings.append(ring)
        if len(spare_rings) > SPARE_RINGS:
            oldest = spare_rings.pop(0)
            oldest.close()
        must(length_of_list(<void *>spare_rings) <= SPARE_RINGS, "few rings are kept")
    return True


cdef int close_ownerless_rings() except -1:
    """Close rings that no thread can use any more: their locked memory is charged to all processes of the user."""
    cdef Ring ring
    for ring in spare_rings[:]:
        if ring.has_lost_its_owner():
            spare_rings.remove(ring)
            ring.close()
    return 0


cdef int close_spare_rings() except -1:
    cdef Ring ring
    with cython.critical_section(of_spare_rings):
        while spare_rings:
            ring = spare_rings.pop()
            ring.close()
    return 0


def end_spare_rings():
    """The interpreter ends; another one of this process may go on, and needs the locked memory."""
    close_spare_rings()


atexit.register(end_spare_rings)


def forget_spare_rings():
    """In a fork child: release the parent's rings."""
    global owner_pid
    owner_pid = os.getpid()
    close_spare_rings()
    poke_int(&is_worth_waiting, False)

"""The notifier: an eventfd, or a pipe where a sandbox refuses that, and the protocol that decides when to write to it.

A system call per call_soon_threadsafe would cost both sides microseconds; most of the time the loop is awake and
will check anyway.  What each side writes, in which order (QEMU: aio_notify):

    any thread                          the loop's thread, before it blocks
      publish the callback                notify_me = 1
      notified = 1                        full barrier
      full barrier                        if notified: do not block
      if notify_me: write the eventfd     ... block ...
                                          notify_me = 0
                                          notified = 0, full barrier, check the callbacks

Either the publisher sees notify_me and writes, or the loop sees `notified` and does not block; without the
two full barriers both could miss the other's store, and the loop would sleep on a published callback.
Model-checked: docs/spin.

Invariant: with notify_me 0 the loop checks everything again before its next block.

Lock: none for the protocol; `lock`, where there is no GIL, keeps the fd from being closed while it is written to.
"""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint64_t
from posix.unistd cimport close as close_fd, read as read_fd, write as write_fd

from ..fdmon.base cimport FdHandler
from ..support.assertions cimport must, must_if, must_not
from ..support.errors cimport os_error
from ..support.guard cimport FREE_THREADED, acquire, release
from ..support.system cimport POLLIN

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd(unsigned initial, int flags)
    int EFD_CLOEXEC, EFD_NONBLOCK

cdef extern from *:
    """
    #include <fcntl.h>
    #include <unistd.h>
    """
    int pipe2(int *ends, int flags) nogil
    int O_CLOEXEC, O_NONBLOCK

cdef extern from *:
    """
    #define ul_store(pointer, value) __atomic_store_n((pointer), (value), __ATOMIC_SEQ_CST)
    #define ul_load(pointer) __atomic_load_n((pointer), __ATOMIC_SEQ_CST)
    #define ul_full_barrier() __atomic_thread_fence(__ATOMIC_SEQ_CST)
    """
    void ul_store(int *pointer, int value) noexcept nogil
    int ul_load(int *pointer) noexcept nogil
    void ul_full_barrier() noexcept nogil


cdef class Notifier(FdHandler):
    """The handler of the loop's eventfd.  Raises OSError where neither that nor a pipe can be made."""

    def __cinit__(self):
        self.open()
        self.events = POLLIN

    cdef int open(self) except -1:
        cdef int ends[2]
        cdef int error
        must(self.fd < 0, "a notifier has one fd, or none")
        self.fd = self.writing_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if self.fd < 0:
            error = errno
            if pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0:
                raise os_error(error, "eventfd")
            self.fd, self.writing_fd = ends[0], ends[1]
        return 0

    def __dealloc__(self):
        self.close()

    cdef int notify(self) except -1:
        """Something was published; wake the loop if it may sleep.  Any thread, also a signal handler's."""
        cdef int error
        ul_store(&self.notified, 1)
        ul_full_barrier()
        if ul_load(&self.notify_me):
            must_if(not FREE_THREADED, self.writing_fd >= 0, "a thread that may sleep can be woken")
            acquire(&self.lock)
            error = self.write()
            release(&self.lock)
            if error:
                raise os_error(error, "eventfd")
        return 0

    cdef int write(self) noexcept:
        """Returns an errno, or 0."""
        cdef uint64_t one = 1
        if self.writing_fd < 0:
            return 0  # the loop was closed meanwhile
        while write_fd(self.writing_fd, &one, sizeof(one)) < 0:
            # EAGAIN: the counter, or the pipe, is full, so the loop wakes anyway
            if errno != EINTR:
                return 0 if errno == EAGAIN else errno
        return 0

    cdef bint may_sleep(self) noexcept:
        """Whether the loop's thread may be asleep without having seen what was published.  Any thread."""
        ul_full_barrier()
        return ul_load(&self.notify_me) != 0

    cdef bint begin_wait(self) noexcept:
        """The loop wants to block; False where it must not."""
        ul_store(&self.notify_me, 1)
        ul_full_barrier()
        return not ul_load(&self.notified)

    cdef void end_wait(self) noexcept:
        """The loop is awake and will check everything after this."""
        ul_store(&self.notify_me, 0)
        if ul_load(&self.notified):
            ul_store(&self.notified, 0)
            ul_full_barrier()
        must_not(self.notify_me, "a loop that is awake is not written to")

    cdef int on_ready(self, short revents) except -1:
        cdef uint64_t counts[64]
        self.n_wakeups += 1
        while read_fd(self.fd, counts, sizeof(counts)) < 0 and errno == EINTR:
            pass
        return 0

    cdef int close(self) except -1:
        acquire(&self.lock)
        if self.fd >= 0:
            close_fd(self.fd)
        if self.writing_fd >= 0 and self.writing_fd != self.fd:
            close_fd(self.writing_fd)
        self.fd = self.writing_fd = -1
        release(&self.lock)
        return 0

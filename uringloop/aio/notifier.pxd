# Waking a loop from another thread.
from ..fdmon.base cimport FdHandler
from ..support.guard cimport short_lock

cdef class Notifier(FdHandler):
    cdef int notify_me            # the loop may be asleep; written by the loop's thread
    cdef int notified             # a notification was published since the loop last checked
    cdef readonly unsigned long long n_wakeups
    cdef int writing_fd           # fd itself, or the other end of the pipe; changed under `lock`, which writers hold
    cdef short_lock lock
    cdef int write(self) noexcept
    cdef int notify(self) except -1
    cdef bint may_sleep(self) noexcept
    cdef bint begin_wait(self) noexcept
    cdef void end_wait(self) noexcept
    cdef int open(self) except -1
    cdef int close(self) except -1

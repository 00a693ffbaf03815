"""The poll(2) monitor: the plainest one, O(handlers) per wait, works everywhere.

Where ppoll(2) is refused (a seccomp filter), poll(2) waits in milliseconds, rounded up.
The array for both is rebuilt at the next wait after a change.  Level-triggered.
GIL: released around ppoll only; meanwhile other threads may touch nothing but the notifier.
"""

from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t
from libc.stdlib cimport free, realloc

from ..support.assertions cimport must, must_not
from ..support.errors cimport os_error
from ..support.system cimport POLLNVAL
from .base cimport FDMonitor, FdHandler, ReadyList, check_pollable

cdef extern from "<poll.h>" nogil:
    """
    #define _GNU_SOURCE 1
    #include <poll.h>
    #include <time.h>
    #include <errno.h>
    #include <stdint.h>
    #include <stddef.h>
    extern int ppoll(struct pollfd *, nfds_t, const struct timespec *, const sigset_t *);
    static int ul_ppoll(struct pollfd *fds, size_t count, int64_t timeout_ns)
    {
        struct timespec timeout = {timeout_ns / 1000000000, timeout_ns % 1000000000};
        static int has_ppoll = 1;                    /* of the process: a seccomp filter stays */
        int n, timeout_ms;

        if (__atomic_load_n(&has_ppoll, __ATOMIC_RELAXED)) {
            n = ppoll(fds, count, timeout_ns < 0 ? NULL : &timeout, NULL);
            if (n >= 0 || errno == EINTR)
                return n;
        }
        /* refused with any errno, or itself wrong: then poll(2) reports it; late, never early */
        timeout_ms = timeout_ns < 0 ? -1 : timeout_ns > 2147483647 * INT64_C(1000000) - 999999 ? 2147483647
                   : (int)((timeout_ns + 999999) / 1000000);
        n = poll(fds, count, timeout_ms);
        if (n >= 0)
            __atomic_store_n(&has_ppoll, 0, __ATOMIC_RELAXED);
        return n;
    }
    """
    int ul_ppoll(pollfd *fds, size_t count, int64_t timeout_ns)


cdef class PollMonitor(FDMonitor):
    """FDMonitor on ppoll(2)."""

    name = "poll"

    def __cinit__(self):
        self.slots = []

    def __dealloc__(self):
        free(self.fds)

    cdef int update(self, FdHandler old, FdHandler new) except -1:
        if new is not None:
            check_pollable(new.fd)
            if self.left_files is not None:
                self.renew()
            if old is None:
                old = self.handlers.get(new.fd)  # its fd was closed without notice, and the number used again
            must_not(new.is_removed, "a handler that is removed is never watched for again")
            self.handlers[new.fd] = new
        elif old is not None and self.handlers.get(old.fd) is old:
            del self.handlers[old.fd]
        if old is not None:
            old.is_removed = True
        self.is_stale = True
        self.n_interests += 1
        return 0

    cdef int rebuild(self) except -1:
        cdef FdHandler handler
        cdef size_t i = 0
        cdef pollfd *grown
        self.slots = list(self.handlers.values())
        if <size_t>len(self.slots) > self.capacity:
            grown = <pollfd *>realloc(self.fds, 2 * len(self.slots) * sizeof(pollfd))
            if grown == NULL:
                raise MemoryError()
            self.fds = grown
            self.capacity = 2 * len(self.slots)
        for handler in self.slots:
            self.fds[i].fd = handler.fd
            self.fds[i].events = handler.events
            self.fds[i].revents = 0
            i += 1
        must(i <= self.capacity, "each handler has its place in the array")
        self.is_stale = False
        return 0

    cdef int wait(self, ReadyList ready_list, int64_t timeout_ns) except -1:
        cdef int n_ready, error
        cdef size_t i, count
        cdef FdHandler handler
        if self.is_stale:
            self.rebuild()
        count = <size_t>len(self.slots)
        must_not(self.is_stale, "a wait is for what is watched now")
        must(count <= self.capacity, "each handler has its place in the array")
        with nogil:
            n_ready = ul_ppoll(self.fds, count, timeout_ns)
            error = errno
        self.n_syscalls += 1
        if n_ready < 0:
            if error == EINTR:
                return 0
            raise os_error(error, "ppoll")
        for i in range(count):
            if n_ready == 0:
                break
            if self.fds[i].revents:
                n_ready -= 1
                if self.fds[i].revents & POLLNVAL:
                    # the fd was closed without removing its handler; epoll forgets it, too
                    self.update(<FdHandler>self.slots[i], None)
                    continue
                handler = <FdHandler>self.slots[i]
                must(handler.fd == self.fds[i].fd, "a handler is in the place of its fd")
                if handler.may_be_closed and handler.is_closed_by_program():
                    # The same where another file has the number already: its events are not this handler's, which would
                    # not consume them, so that they come again in every turn.
                    self.update(handler, None)
                    continue
                ready_list.append(handler, self.fds[i].revents)
        return 0

    cdef int close(self) except -1:
        self.slots = []
        return FDMonitor.close(self)

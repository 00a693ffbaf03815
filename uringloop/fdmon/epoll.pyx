"""The epoll(7) monitor: level-triggered, O(ready) per wait; the fall-back of a loop.

epoll_pwait2(2) (since Linux 5.11) takes nanoseconds; where it is missing or refused (seccomp filters return any errno:
ENOSYS, EPERM in older Docker profiles), milliseconds are rounded up, so that a timer is late, never early.  The same
holds where a preloaded library moves the clock (libfaketime), which adjusts the timeout of epoll_wait().
GIL: released around the wait only; meanwhile other threads may touch nothing but the notifier.

Invariant: a registration carries the fd and a serial number, never a pointer: an fd that was closed while a
duplicate, or a fork child's copy, is open stays in the kernel's set, and its pointer would dangle.
"""

from libc.errno cimport EBADF, EEXIST, EINTR, ENOENT, EPERM, errno
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memset
from cpython.ref cimport PyObject
from posix.unistd cimport close as close_fd

from ..support.assertions cimport is_none, must, must_if, must_not
from ..support.errors cimport os_error
from .base cimport FDMonitor, FdHandler, ReadyList, ul_is_clock_faked

from ..exceptions import MonitorUnavailable


cdef extern from "<sys/epoll.h>" nogil:
    """
    #include "../support/pause.h"
    #include <sys/epoll.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    #include <stdint.h>
    #include <time.h>
    #include <errno.h>
    #ifndef __NR_epoll_pwait2
    #define __NR_epoll_pwait2 441
    #endif
    static int ul_epoll_pwait2(int epoll_fd, struct epoll_event *events, int count, int64_t timeout_ns)
    {
        struct timespec timeout = {timeout_ns / 1000000000, timeout_ns % 1000000000};
        return (int)syscall(__NR_epoll_pwait2, epoll_fd, events, count, &timeout, NULL, 8);
    }
    /*
     * Poll until an event is there, `notified` is set, or the monotonic clock passes until_ns: 1, 1 and 0.  An error is
     * for the next wait: 1.  Between two calls only `notified` is read, for about as long as a call takes.
     */
    static int ul_epoll_spin(int epoll_fd, const int *notified, int64_t until_ns, int *n_calls)
    {
        struct epoll_event event;
        struct timespec now;
        for (;;) {
            ++*n_calls;
            if (epoll_wait(epoll_fd, &event, 1, 0) != 0)
                return 1;
            for (int i = 0; i < 8; i++) {
                if (__atomic_load_n(notified, __ATOMIC_SEQ_CST))
                    return 1;
                ul_cpu_pause();
            }
            clock_gettime(CLOCK_MONOTONIC, &now); /* vDSO */
            if ((int64_t)now.tv_sec * 1000000000 + now.tv_nsec >= until_ns)
                return 0;
        }
    }
    """
    int ul_epoll_spin(int epoll_fd, const int *notified, int64_t until_ns, int *n_calls)
    int EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL, EPOLL_CLOEXEC
    int epoll_create1(int flags)
    int epoll_ctl(int epoll_fd, int operation, int fd, epoll_event *event)
    int epoll_wait(int epoll_fd, epoll_event *events, int count, int timeout_ms)
    int ul_epoll_pwait2(int epoll_fd, epoll_event *events, int count, int64_t timeout_ns)

cdef extern from "<fcntl.h>" nogil:
    int O_CLOEXEC

cdef extern from "<unistd.h>" nogil:
    int dup3(int old, int new, int flags)

# The most events per wait; more only makes latency uneven (measured: 32 to 64 is best at 1,000 connections).
cdef enum:
    EVENTS_PER_WAIT = 64


cdef int refused_call() noexcept:
    """The errno of a sandbox that lets an epoll object be made and refuses its use, or 0: else fd -1 gives EBADF."""
    cdef epoll_event event
    if epoll_ctl(-1, EPOLL_CTL_DEL, -1, NULL) < 0 and errno != EBADF:
        return errno
    return errno if epoll_wait(-1, &event, 1, 0) < 0 and errno != EBADF else 0


cdef class EpollMonitor(FDMonitor):
    """FDMonitor on epoll(7).  Raises MonitorUnavailable where epoll_create1(2) fails."""

    name = "epoll"

    def __cinit__(self):
        self.epoll_fd = -1
        self.create()
        self.has_pwait2 = True

    def __dealloc__(self):
        if self.epoll_fd >= 0:
            close_fd(self.epoll_fd)
        free(self.by_fd)

    cdef int create(self) except -1:
        cdef int error
        self.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
        if self.epoll_fd < 0:
            raise MonitorUnavailable("epoll", errno, "epoll_create1 failed")
        error = refused_call()
        if error:
            close_fd(self.epoll_fd)
            self.epoll_fd = -1
            raise MonitorUnavailable("epoll", error, "epoll_ctl or epoll_wait is refused")
        return 0

    cdef int reserve(self, int fd) except -1:
        cdef PyObject **grown
        cdef int i, capacity
        if fd < self.by_fd_capacity:
            return 0
        capacity = max(64, 2 * fd)
        grown = <PyObject **>realloc(self.by_fd, capacity * sizeof(PyObject *))
        if grown == NULL:
            raise MemoryError()
        for i in range(self.by_fd_capacity, capacity):
            grown[i] = NULL
        self.by_fd = grown
        self.by_fd_capacity = capacity
        must(fd < self.by_fd_capacity, "an fd that is watched has its place")
        return 0

    cdef int control(self, int operation, FdHandler handler) noexcept:
        """0 or an errno; epoll's event bits are poll's."""
        cdef epoll_event event
        memset(&event, 0, sizeof(event))
        event.events = <unsigned>handler.events
        event.data.u64 = <uint64_t>handler.registration << 32 | <unsigned>handler.fd
        self.n_syscalls += 1
        return 0 if epoll_ctl(self.epoll_fd, operation, handler.fd, &event) == 0 else errno

    cdef int update(self, FdHandler old, FdHandler new) except -1:
        cdef FdHandler before
        cdef int error = 0
        if new is not None:
            if self.left_files is not None:
                self.renew()
            self.reserve(new.fd)
            must_not(new.is_removed, "a handler that is removed is never watched for again")
            before = self.handlers.get(new.fd)
            self.handlers[new.fd] = new  # before the kernel: what it reports must have a handler
            self.n_registrations += 1
            new.registration = self.n_registrations
            error = self.control(EPOLL_CTL_ADD if old is None else EPOLL_CTL_MOD, new)
            if error == EEXIST:
                error = self.control(EPOLL_CTL_MOD, new)
            elif error == ENOENT:
                # the fd was closed and reused without removing the handler: the kernel forgot it
                error = self.control(EPOLL_CTL_ADD, new)
            if error:
                if before is not None:
                    self.handlers[new.fd] = before
                else:
                    del self.handlers[new.fd]
                raise os_error(error)
            if old is None:
                old = before  # its fd was closed without notice, and the number used again
            self.by_fd[new.fd] = <PyObject *>new
        elif old is not None and self.handlers.get(old.fd) is old:
            # EBADF and ENOENT: the fd was closed first, which removed it from the kernel's set
            if self.epoll_fd >= 0:  # else there is none yet in this fork child
                self.control(EPOLL_CTL_DEL, old)
            self.by_fd[old.fd] = NULL
            del self.handlers[old.fd]
        if old is not None:
            old.is_removed = True
        must_if(not is_none(<void *>new), <void *>new != <void *>old, "a change of interest takes a new handler")
        return 0

    cdef int withdraw(self, FdHandler handler) except -1:
        """Stop watching for our handler, which is not removed: others watch for it."""
        must(self.by_fd[handler.fd] == <PyObject *>handler, "what is withdrawn is watched for")
        must_not(handler.is_removed, "what is withdrawn is not removed")
        self.control(EPOLL_CTL_DEL, handler)
        self.by_fd[handler.fd] = NULL
        del self.handlers[handler.fd]
        return 0

    cdef int wait(self, ReadyList ready_list, int64_t timeout_ns) except -1:
        cdef epoll_event events[EVENTS_PER_WAIT]
        cdef int n_ready, error, timeout_ms
        self.n_syscalls += 1
        if timeout_ns > 0 and self.has_pwait2 and not ul_is_clock_faked():
            with nogil:
                n_ready = ul_epoll_pwait2(self.epoll_fd, events, EVENTS_PER_WAIT, timeout_ns)
                error = errno
            if n_ready < 0 and error != EINTR:
                self.has_pwait2 = False  # if the cause was another, epoll_wait(2) reports it
                return self.wait(ready_list, timeout_ns)
        else:
            timeout_ms = <int>min((timeout_ns + 999999) // 1000000, 2147483647) if timeout_ns > 0 else <int>timeout_ns
            with nogil:
                n_ready = epoll_wait(self.epoll_fd, events, EVENTS_PER_WAIT, timeout_ms)
                error = errno
        if n_ready < 0:
            if error == EINTR:
                return 0
            raise os_error(error, "epoll_wait")
        return self.report(ready_list, n_ready, events)

    cdef bint may_poll_by_default(self) noexcept:
        return True

    cdef bint spin_with_calls(self, ReadyList ready_list, const int *notified, int64_t until_ns) except -1:
        """Level-triggered: what it sees is reported again, by the wait that follows."""
        cdef int n_calls = 0
        cdef bint is_hit
        with nogil:
            is_hit = ul_epoll_spin(self.epoll_fd, notified, until_ns, &n_calls)
        self.n_syscalls += n_calls
        return is_hit

    cdef int collect(self, ReadyList ready_list) except -1:
        """wait(0) for a caller that knows of an event: without releasing the GIL, which costs more."""
        cdef epoll_event events[EVENTS_PER_WAIT]
        cdef int n_ready = epoll_wait(self.epoll_fd, events, EVENTS_PER_WAIT, 0)
        self.n_syscalls += 1
        if n_ready < 0:
            raise os_error(errno, "epoll_wait")
        return self.report(ready_list, n_ready, events)

    cdef int report(self, ReadyList ready_list, int n_ready, const epoll_event *events) except -1:
        cdef PyObject *handler
        cdef uint64_t tag
        cdef bint has_strays = False
        cdef int i
        for i in range(n_ready):
            tag = events[i].data.u64
            must(<int>tag < self.by_fd_capacity, "an fd that is reported has its place")
            handler = self.by_fd[<unsigned>tag]
            must_if(handler != NULL, (<FdHandler>handler).fd == <int>tag, "a handler is in the place of its fd")
            must_if(handler != NULL, not (<FdHandler>handler).is_removed,
                    "a handler that is removed is not watched for")
            if handler != NULL and (<FdHandler>handler).registration == tag >> 32:
                ready_list.append(<FdHandler>handler, <short>events[i].events)
            else:
                has_strays = True
        return self.replace_set() if has_strays else 0

    cdef int replace_set(self) except -1:
        """Continue with another set, under the same number.

        The old one reports a file that nothing watches any more: its fd was closed before its handler was removed, and
        a duplicate is open.  The kernel would report it in each wait, and offers no other way to remove it.
        """
        cdef FdHandler handler
        cdef int error = 0, old = self.epoll_fd, fresh = epoll_create1(EPOLL_CLOEXEC)
        if fresh < 0:
            return 0  # no descriptor is left: tried again with its next report
        for handler in self.handlers.values():
            error = self.control(EPOLL_CTL_MOD, handler)
            if error == ENOENT or error == EBADF or error == EPERM:
                error = 0
                continue  # not in the old set: it was also closed, and its number may be another file's by now
            if not error:
                self.epoll_fd = fresh
                error = self.control(EPOLL_CTL_ADD, handler)
                self.epoll_fd = old
            if error:
                break  # the user's watches, or memory, are used up: also tried again
        self.n_syscalls += 3
        if not error:
            dup3(fresh, old, O_CLOEXEC)
        close_fd(fresh)
        return 0

    cdef int fileno(self) noexcept:
        return self.epoll_fd

    cdef int leave(self) except -1:
        FDMonitor.leave(self)
        if self.epoll_fd >= 0:
            close_fd(self.epoll_fd)
            self.epoll_fd = -1
        return 0

    cdef int renew(self) except -1:
        cdef FdHandler handler
        if self.epoll_fd < 0:
            self.create()
        FDMonitor.renew(self)
        for handler in list(self.handlers.values()):
            if self.control(EPOLL_CTL_ADD, handler):
                self.update(handler, None)
        return 0

    cdef int close(self) except -1:
        if self.epoll_fd >= 0:
            close_fd(self.epoll_fd)
            self.epoll_fd = -1
        return FDMonitor.close(self)

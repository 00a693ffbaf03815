"""System calls that fail, one after the other, in a process of its own.

A seccomp filter hands the system calls of one thread to the parent process (SECCOMP_RET_USER_NOTIF, Linux 5.5), which
lets them go on, or lets the n-th of a kind fail. So the error is the kernel's as far as the thread can see, and what
the call would have done is not done. See seccomp(2) and seccomp_unotify(2).
"""

import collections
import contextlib
import ctypes
import errno
import fcntl
import gc
import mmap
import os
import platform
import select
import struct
import sys
import time

from support import helpers
from support.helpers import open_fds

# What may fail without being asked wrongly: no memory, no room, a signal, the peer. close(2) is left out: it closes
# even where it reports an error.
ERRORS = {
    "accept4": ("ECONNABORTED", "EMFILE", "ENOBUFS"),
    "bind": ("EADDRINUSE", "ENOMEM"),
    "clone": ("EAGAIN",),
    "clone3": ("EAGAIN",),
    "connect": ("ENOBUFS", "EADDRNOTAVAIL"),
    "dup": ("EMFILE",),
    "epoll_create1": ("EMFILE", "ENOMEM"),
    "epoll_ctl": ("ENOMEM", "ENOSPC"),
    "epoll_pwait2": ("EINTR",),
    "epoll_wait": ("EINTR",),
    "eventfd2": ("EMFILE", "ENOMEM"),
    "fstat": ("ENOMEM",),
    "fsync": ("EIO", "EDQUOT"),
    "ftruncate": ("EIO", "EINTR"),
    "getdents64": ("EIO", "ENOMEM"),
    "getpeername": ("ENOBUFS", "ENOTCONN"),
    "getsockname": ("ENOBUFS",),
    "getsockopt": ("ENOMEM",),
    "io_uring_enter": ("EINTR", "EAGAIN", "EBUSY"),
    "io_uring_register": ("ENOMEM", "EINTR"),
    "io_uring_setup": ("ENOMEM", "EMFILE", "EPERM"),
    "ioctl": ("ENOMEM",),
    "listen": ("EADDRINUSE",),
    "lseek": ("EIO",),
    "mmap": ("ENOMEM",),
    "openat": ("EMFILE", "ENOMEM", "EINTR"),
    "openat2": ("EMFILE", "EAGAIN"),
    "pidfd_open": ("EMFILE", "ENOMEM"),
    "pipe2": ("EMFILE",),
    "poll": ("EINTR", "ENOMEM"),
    "ppoll": ("EINTR", "ENOMEM"),
    "pread64": ("EIO", "EINTR"),
    "preadv2": ("EIO", "EINTR", "EOPNOTSUPP"),
    "pwrite64": ("EIO", "ENOSPC", "EINTR"),
    "read": ("EIO", "EINTR"),
    "readv": ("EIO", "EINTR"),
    "recvfrom": ("ECONNRESET", "ENOMEM", "EINTR"),
    "recvmmsg": ("ENOMEM", "EINTR"),
    "recvmsg": ("ECONNRESET", "ENOMEM", "EINTR"),
    "rename": ("EIO", "ENOSPC"),
    "rt_sigaction": ("ENOMEM",),
    "sendfile": ("EIO", "ENOMEM", "EINTR"),
    "sendmmsg": ("ENOBUFS", "ENOMEM", "EINTR"),
    "sendmsg": ("EPIPE", "ENOBUFS", "EINTR"),
    "sendto": ("EPIPE", "ENOBUFS", "EINTR"),
    "setsockopt": ("ENOMEM",),
    "shutdown": ("ENOBUFS",),
    "socket": ("EMFILE", "ENOBUFS"),
    "socketpair": ("EMFILE", "ENOBUFS"),
    "statx": ("EIO", "ENOMEM"),
    "unlink": ("EIO", "EBUSY"),
    "vfork": ("EAGAIN", "ENOMEM"),
    "waitid": ("EINTR",),
    "wait4": ("EINTR",),
    "write": ("EIO", "EINTR"),
    "writev": ("EPIPE", "ENOBUFS", "EINTR"),
}

# <asm/unistd.h>
NUMBERS = {
    "x86_64": {
        "accept4": 288,
        "bind": 49,
        "clone": 56,
        "clone3": 435,
        "connect": 42,
        "dup": 32,
        "epoll_create1": 291,
        "epoll_ctl": 233,
        "epoll_pwait2": 441,
        "epoll_wait": 232,
        "eventfd2": 290,
        "fstat": 5,
        "fsync": 74,
        "ftruncate": 77,
        "getdents64": 217,
        "getpeername": 52,
        "getsockname": 51,
        "getsockopt": 55,
        "io_uring_enter": 426,
        "io_uring_register": 427,
        "io_uring_setup": 425,
        "ioctl": 16,
        "listen": 50,
        "lseek": 8,
        "mmap": 9,
        "openat": 257,
        "openat2": 437,
        "pidfd_open": 434,
        "pipe2": 293,
        "poll": 7,
        "ppoll": 271,
        "pread64": 17,
        "preadv2": 327,
        "pwrite64": 18,
        "read": 0,
        "readv": 19,
        "recvfrom": 45,
        "recvmmsg": 299,
        "recvmsg": 47,
        "rename": 82,
        "rt_sigaction": 13,
        "sendfile": 40,
        "sendmmsg": 307,
        "sendmsg": 46,
        "sendto": 44,
        "setsockopt": 54,
        "shutdown": 48,
        "socket": 41,
        "socketpair": 53,
        "statx": 332,
        "unlink": 87,
        "vfork": 58,
        "waitid": 247,
        "wait4": 61,
        "write": 1,
        "writev": 20,
    },
}.get(platform.machine(), {})
NAMES = {number: name for name, number in NUMBERS.items()}

CALLS_MAX = 30  # of a kind in a scenario; further ones are not let fail
SECONDS = 20.0
POOLED_RINGS_MAX = 8

_libc = ctypes.CDLL(None, use_errno=True)


# The supervisor


class Order(ctypes.Structure):
    """What the supervisor is to do, in memory that both processes share."""

    _fields_ = (
        ("listener", ctypes.c_int),  # the fd in the child, or 0
        ("is_counting", ctypes.c_int),
        ("number", ctypes.c_int),  # of the system call that fails
        ("nth", ctypes.c_int),  # which of them, counted from 1; 0 for none
        ("error", ctypes.c_int),
        ("counts", ctypes.c_int * 512),
    )


def in_supervised_child():
    """Fork. In the child, return the shared Order; the parent decides on its main thread's calls, and ends with it."""
    order = Order.from_buffer(mmap.mmap(-1, ctypes.sizeof(Order)))
    pid = os.fork()
    if not pid:
        _hand_over_calls(order)
        return order
    pidfd = os.pidfd_open(pid)
    while not order.listener and not select.select([pidfd], [], [], 0.001)[0]:
        pass
    if order.listener:
        listener = _libc.syscall(438, pidfd, order.listener, 0)  # pidfd_getfd
        assert listener >= 0, os.strerror(ctypes.get_errno())
        order.listener = 0
        _supervise(pid, listener, order)
    os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 0xFF)


def _hand_over_calls(order):
    """Install the filter for this thread and those that it makes."""
    program, _code = helpers.filter_of_calls(NAMES, 0x7FC00000)  # SECCOMP_RET_USER_NOTIF
    assert _libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    # SECCOMP_SET_MODE_FILTER with SECCOMP_FILTER_FLAG_NEW_LISTENER
    listener = _libc.syscall(317, 1, 8, program)
    assert listener > 0, os.strerror(ctypes.get_errno())
    order.listener = listener
    while order.listener:
        pass
    os.close(listener)


def _supervise(pid, listener, order):
    """Answer the child's system calls until there is no process left that makes some."""
    receive, send = 0xC0502100, 0xC0182101  # SECCOMP_IOCTL_NOTIF_RECV, SECCOMP_IOCTL_NOTIF_SEND
    epoll_ctl_add = 1  # the others need no memory
    goes_on = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE
    waiting = select.poll()
    waiting.register(listener, select.POLLIN)
    while waiting.poll()[0][1] & select.POLLIN:
        notification = bytearray(80)
        try:
            fcntl.ioctl(listener, receive, notification)
        except FileNotFoundError:  # the thread has ended, or a signal has interrupted it
            continue
        key, thread, _, number, operation = struct.unpack_from("QIIi20xQ", notification)
        error = 0
        is_real = number != NUMBERS["epoll_ctl"] or operation == epoll_ctl_add
        if order.is_counting and thread == pid and is_real:
            order.counts[number] += 1
            if number == order.number and order.counts[number] == order.nth:
                error = order.error
        with contextlib.suppress(FileNotFoundError):
            fcntl.ioctl(listener, send, struct.pack("QqiI", key, 0, -error, 0 if error else goes_on))


# The sweep


class Failed(Exception):
    """A scenario ended in a way that no failing system call explains."""


def is_expected(error):
    """Whether a system call that fails explains the error."""
    return isinstance(error, OSError | MemoryError) or str(error) == "can't start new thread"


class Sweep:
    """Runs a scenario again and again, each time with another system call that fails.

    Parameters:
        scenario: called with a loop, returns a coroutine; its result must always be the same, unless an error was
            reported: raised, given to `lost`, or to the loop's exception handler.
        monitor: the loops' monitor.
        only: names of system calls, or None for all that the scenario makes.
    """

    def __init__(self, scenario, monitor, only=None):
        self.scenario = scenario
        self.monitor = monitor
        self.only = only
        self.order = in_supervised_child()
        self.errors = []
        self.failures = collections.Counter()

    def lost(self, error):
        """Record an error that a protocol or a caller got, without its traceback, which keeps sockets open."""
        if error is not None:
            self.errors.append(error.with_traceback(None))
            error.__context__ = error.__cause__ = None

    def run(self):
        """Let each system call fail in turn; print how many were let fail, by name."""
        loop = self.new_loop(0, 0, 0)
        run_plain = [helpers.run(loop, self.scenario(loop), seconds=SECONDS) for _ in range(2)]
        self.close(loop)
        self.expected = run_plain[1]
        assert run_plain[0] == self.expected
        gc.collect()
        self.before = open_fds()
        for number, count in self.counts().items():
            name = NAMES[number]
            if self.only is None or name in self.only:
                for error in ERRORS[name]:
                    for nth in range(1, min(count, CALLS_MAX) + 1):
                        print(f"{name} {nth} of {count}: {error}", file=sys.stderr, flush=True)
                        self.run_with(number, nth, getattr(errno, error))
                        self.failures[name] += 1
        print(" ".join(f"{name}={count}" for name, count in sorted(self.failures.items())))

    def counts(self):
        """How often a scenario makes each system call, from the making of its loop to its end."""
        loop = self.new_loop(0, 0, 0)
        helpers.run(loop, self.scenario(loop), seconds=SECONDS)
        self.close(loop)
        self.order.is_counting = 0
        return {number: self.order.counts[number] for number in NAMES if self.order.counts[number]}

    def run_with(self, number, nth, error):
        loop, result = None, None
        self.errors.clear()
        try:
            loop = self.new_loop(number, nth, error)
            result = helpers.run(loop, self.scenario(loop), seconds=SECONDS)
        except TimeoutError as caught:
            if caught.errno != error:
                raise Failed("waits forever") from caught
            self.lost(caught)
        except Exception as caught:
            self.lost(caught)
        self.order.is_counting = 0
        if result != self.expected and not self.errors:
            raise Failed(f"{result!r} without an error")
        unexpected = [one for one in self.errors if not is_expected(one)]
        self.errors.clear()  # their tracebacks keep what the scenario has open
        if unexpected:
            raise Failed("an error of another kind") from unexpected[0]
        if loop is not None:
            self.works_again(loop)
            self.close(loop)
        loop = None  # since Python 3.13 it keeps UNIX listeners, also one that it could not watch
        self.check_fds()

    def works_again(self, loop):
        result = helpers.run(loop, self.scenario(loop), seconds=SECONDS)
        if result != self.expected or self.errors:
            raise Failed(f"afterwards: {result!r}, {self.errors}")

    def check_fds(self):
        gc.collect()
        deadline = time.monotonic() + SECONDS
        while lost := self.lost_files():
            if time.monotonic() > deadline:
                raise Failed(f"open: {lost}")
            gc.collect()
            time.sleep(0.001)

    def lost_files(self):
        """What was not open before; rings may be kept in the process's pool."""
        lost = [os.readlink(f"/proc/self/fd/{fd}") for fd in open_fds() - self.before]
        rings = [file for file in lost if file == "anon_inode:[io_uring]"]
        return lost if len(rings) > POOLED_RINGS_MAX else [file for file in lost if file not in rings]

    def start(self, number, nth, error):
        self.order.number, self.order.nth, self.order.error = number, nth, error
        ctypes.memset(self.order.counts, 0, ctypes.sizeof(self.order.counts))
        self.order.is_counting = 1

    def new_loop(self, number, nth, error):
        self.start(number, nth, error)
        loop = helpers.make_loop(self.monitor)
        loop.set_exception_handler(lambda _, details: self.lost(details.get("exception")))
        return loop

    def close(self, loop):
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

"""A bad network: two namespaces, and a process between them that loses, delays, repeats and damages packets.

Each namespace has a TUN device (needs root and /dev/net/tun). What one of them sends, the process reads as IP packets
and writes to the other, or not, as numbers from a seed say. Damaged packets are what the kernel's checksums must find.
"""

import contextlib
import ctypes
import fcntl
import heapq
import mmap
import os
import random
import select
import signal
import socket
import struct
import time
import traceback

NEAR, FAR = "192.0.2.1", "192.0.2.2"

_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_IFF_TUN_NO_PI = 0x0001 | 0x1000
_SIOCSIFADDR, _SIOCSIFNETMASK, _SIOCSIFFLAGS, _SIOCGIFFLAGS = 0x8916, 0x891C, 0x8914, 0x8913
_IFF_UP = 1

_libc = ctypes.CDLL(None, use_errno=True)


def is_possible():
    """Whether this process may make namespaces and TUN devices."""
    return os.geteuid() == 0 and os.access("/dev/net/tun", os.R_OK | os.W_OK)


def _namespace_with_tun(address):
    """Enter a new network namespace. Returns: fds of the namespace and of its TUN device."""
    if _libc.unshare(_CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", b"bad0", _IFF_TUN_NO_PI))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for request, value in ((_SIOCSIFADDR, address), (_SIOCSIFNETMASK, "255.255.255.0")):
            where = struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(value))
            fcntl.ioctl(sock, request, struct.pack("16s16s8x", b"bad0", where))
        for name in (b"lo", b"bad0"):
            flags = struct.unpack_from("H", fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("40s", name)), 16)[0]
            fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH22x", name, flags | _IFF_UP))
    return os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC), tun


class Network:
    """Two namespaces and what happens to packets between them.

    Parameters:
        seed: of the faults.
        lost, repeated, damaged: shares of packets, 0 to 1.
        delay_s: packets are late by up to so many seconds, so they overtake each other.
    """

    def __init__(self, seed, *, lost=0.0, repeated=0.0, damaged=0.0, delay_s=0.0):
        self.random = random.Random(seed)
        self.shares = {"lost": lost, "repeated": repeated, "damaged": damaged}
        self.delay_s = delay_s
        self.counts = dict.fromkeys(("packets", "cut", *self.shares), 0)
        self._is_cut = mmap.mmap(-1, 1)  # shared with both processes
        self._waiting = []  # (when it is due, number, fd, packet)

    def cut(self, is_cut):
        """Let no packet through from now on, or let all through again."""
        self._is_cut[0] = is_cut

    def run(self, serve, use, *, limit_s=100.0):
        """Run serve(ready) in one namespace and use() in the other, each in a process; ends with use().

        `serve` calls ready() when it can be used, and ends at SIGTERM.
        """
        far, far_tun = _namespace_with_tun(FAR)
        near, near_tun = _namespace_with_tun(NEAR)
        readable, writable = os.pipe()
        server = self._fork(far, lambda: serve(lambda: os.write(writable, b"x")))
        os.close(writable)
        if not os.read(readable, 1):
            raise AssertionError("the server has ended")
        user = self._fork(near, use)
        other = {near_tun: far_tun, far_tun: near_tun}
        try:
            self._pass_packets(other, user, time.monotonic() + limit_s)
            assert os.waitstatus_to_exitcode(os.waitpid(user, 0)[1]) == 0, "the user's side failed"
        finally:
            os.kill(server, signal.SIGTERM)
            status = os.waitpid(server, 0)[1]
        assert os.waitstatus_to_exitcode(status) == 0, "the server's side failed"
        print(" ".join(f"{name}={count}" for name, count in self.counts.items()))

    def _fork(self, namespace, function):
        pid = os.fork()
        if pid:
            return pid
        status = 1
        try:
            if _libc.setns(namespace, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            function()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def _pass_packets(self, other, user, deadline):
        """Until the process `user` has ended."""
        pidfd = os.pidfd_open(user)
        poll = select.poll()
        for fd in (pidfd, *other):
            poll.register(fd, select.POLLIN)
        while True:
            now = time.monotonic()
            assert now < deadline, "it takes too long"
            while self._waiting and self._waiting[0][0] <= now:
                _, _, fd, packet = heapq.heappop(self._waiting)
                with contextlib.suppress(OSError):  # its queue is full, or the kernel finds no IP header
                    os.write(fd, packet)
            timeout_s = min(1.0, self._waiting[0][0] - now) if self._waiting else 1.0
            for fd, _ in poll.poll(timeout_s * 1000 + 1):
                if fd == pidfd:
                    os.close(pidfd)
                    return
                with contextlib.suppress(BlockingIOError):
                    self._take(os.read(fd, 65536), other[fd])

    def _take(self, packet, to):
        """Decide what happens to a packet."""
        self.counts["packets"] += 1
        if self._is_cut[0]:
            self.counts["cut"] += 1
            return
        happens = {name for name, share in self.shares.items() if self.random.random() < share}
        for name in happens:
            self.counts[name] += 1
        if "lost" in happens:
            return
        if "damaged" in happens:
            damaged = bytearray(packet)
            damaged[self.random.randrange(len(packet))] ^= 1 << self.random.randrange(8)
            packet = bytes(damaged)
        for _ in range(1 + ("repeated" in happens)):
            due = time.monotonic() + self.random.random() * self.delay_s
            heapq.heappush(self._waiting, (due, self.counts["packets"], to, packet))

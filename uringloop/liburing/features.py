"""What the kernel and this process may do: one table, probed and never guessed from a version number.

    python -m uringloop.liburing.features              # what works here
    python -m uringloop.liburing.features --markdown   # the table of docs/kernel-support.md

Each feature is tried on a separate small ring, or reported by `probing.probe`; distributions backport,
containers forbid, so `uname` proves little.  The loop does not call this: it probes what it needs where it
needs it (`uring/ring`, `uring/buffers`, `uring/sendprobe`), by the same attempts.

Thread: any; each call of `try_all` opens and closes its own ring.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import mmap
import os
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ..support.errors import os_error
from .enums import Feature, Op
from .probing import probe

__all__ = ["FEATURES", "Finding", "KernelFeature", "liburing_build", "markdown", "try_all"]

WAIT_MS = 1000  # the longest wait of a probe; each of them completes at once where it works
GROUP = 1  # buffer group of the probes
N_SLOTS = 2  # of its buffer ring
# The probe could not be made: these say nothing about the feature.
SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


@dataclass(frozen=True)
class KernelFeature:
    """One row of the table."""

    name: str
    since: str  # Linux version
    how: str  # how it is probed
    without: str  # what we do where it is missing
    attempt: Callable[[_Kit], bool]
    is_for_speed: bool = False  # loops run without it, slower


@dataclass(frozen=True)
class Finding:
    """The result of a probe."""

    feature: KernelFeature
    is_available: bool | None  # None: could not be probed, see reason
    reason: str = ""  # why not: an errno's name, or a sentence


class _Kit:
    """An open plain ring and the operations that probes need."""

    def __init__(self, ffi: Any, lib: Any) -> None:
        self.ffi, self.lib = ffi, lib
        self.params = ffi.new("struct io_uring_params *")
        self.ring = self.open(self.params)
        self.keepalive: list[object] = []  # what requests of this ring point to

    def open(self, params: Any) -> Any:
        """A ring with params.flags; raises OSError."""
        ring = self.ffi.new("struct io_uring *")
        result = self.lib.io_uring_queue_init_params(8, ring, params)
        if result < 0:
            raise os_error(-result)
        return ring

    def sqe(self, user_data: int, prep: Callable[..., None], *args: object) -> Any:
        """A prepared SQE of the plain ring."""
        sqe = self.lib.io_uring_get_sqe(self.ring)
        prep(sqe, *args)
        sqe.user_data = user_data
        return sqe

    def run(self, n_wanted: int) -> dict[int, tuple[int, int]]:
        """Submit, wait for so many completions; {user_data: (res, flags)}."""
        found: dict[int, tuple[int, int]] = {}
        cqe = self.ffi.new("struct io_uring_cqe **")
        limit = self.ffi.new("struct __kernel_timespec *", {"tv_sec": WAIT_MS // 1000})
        null = self.ffi.NULL
        self.lib.io_uring_submit_and_wait_timeout(self.ring, cqe, n_wanted, limit, null)
        while self.lib.io_uring_peek_cqe(self.ring, cqe) == 0:
            found[cqe[0].user_data] = (cqe[0].res, cqe[0].flags)
            self.lib.io_uring_cqe_seen(self.ring, cqe[0])
        return found

    def close(self) -> None:
        self.lib.io_uring_queue_exit(self.ring)


# -- attempts ------------------------------------------------------------------------------------------


def _checked(res: int) -> int:
    if res < 0:
        raise os_error(-res)
    return res


def _always(kit: _Kit) -> bool:
    return True  # the kit has an open ring


def _has_feature(which: Feature) -> Callable[[_Kit], bool]:
    """An IORING_FEAT_* bit that io_uring_setup reports."""

    def attempt(kit: _Kit) -> bool:
        return which in probe().features

    return attempt


def _accepts(*names: str) -> Callable[[_Kit], bool]:
    """io_uring_setup takes these IORING_SETUP_* flags together."""

    def attempt(kit: _Kit) -> bool:
        params = kit.ffi.new("struct io_uring_params *")
        for name in names:
            params.flags |= getattr(kit.lib, name)
        kit.lib.io_uring_queue_exit(kit.open(params))
        return True

    return attempt


def _has_opcode(op: Op) -> Callable[[_Kit], bool]:
    """io_uring_get_probe lists an operation."""

    def attempt(kit: _Kit) -> bool:
        return probe().supports(op)

    return attempt


@contextlib.contextmanager
def _pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    with left, right:
        yield left, right


@contextlib.contextmanager
def _buffer_ring(kit: _Kit, flags: int) -> Iterator[Any]:
    """A registered provided-buffer ring of N_SLOTS; raises OSError."""
    page = kit.ffi.from_buffer(mmap.mmap(-1, mmap.PAGESIZE))
    kit.keepalive.append(page)
    _checked(kit.lib.ul_register_buffer_ring(kit.ring, page, N_SLOTS, GROUP, flags))
    try:
        yield kit.ffi.cast("struct io_uring_buf_ring *", page)
    finally:
        kit.lib.io_uring_unregister_buf_ring(kit.ring, GROUP)


def _registers_buffer_ring(kit: _Kit) -> bool:
    with _buffer_ring(kit, 0):
        return True


def _registers_incremental_buffer_ring(kit: _Kit) -> bool:
    with _buffer_ring(kit, kit.lib.IOU_PBUF_RING_INC):
        return True


def _receives_multishot(kit: _Kit) -> bool:
    lib = kit.lib
    with _pair() as (left, right), _buffer_ring(kit, 0) as buffers:
        # Two: before Linux 6.10 or so the request takes the next buffer before there is data, and ends without one.
        for slot in range(N_SLOTS):
            memory = kit.ffi.new("char[]", 64)
            kit.keepalive.append(memory)
            lib.io_uring_buf_ring_add(buffers, memory, 64, slot, lib.io_uring_buf_ring_mask(N_SLOTS), slot)
        lib.io_uring_buf_ring_advance(buffers, N_SLOTS)
        sqe = kit.sqe(1, lib.io_uring_prep_recv_multishot, left.fileno(), kit.ffi.NULL, 0, 0)
        sqe.flags |= lib.IOSQE_BUFFER_SELECT
        sqe.buf_group = GROUP
        right.send(b"x")
        res, flags = kit.run(1)[1]
        right.close()
        if flags & lib.IORING_CQE_F_MORE:
            kit.run(1)  # the end of file ends the request, before its buffer goes
        return _checked(res) == 1 and bool(flags & lib.IORING_CQE_F_MORE)


def _accepts_multishot(kit: _Kit) -> bool:
    lib, null = kit.lib, kit.ffi.NULL
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind("")  # a free abstract address
        listener.listen()
        client.connect(listener.getsockname())
        kit.sqe(1, lib.io_uring_prep_multishot_accept, listener.fileno(), null, null, 0)
        res, flags = kit.run(1)[1]
        os.close(_checked(res))
        return bool(flags & lib.IORING_CQE_F_MORE)


def _polls_multishot(kit: _Kit) -> bool:
    with _pair() as (left, _):
        kit.sqe(1, kit.lib.io_uring_prep_poll_multishot, left.fileno(), 4)  # POLLOUT: ready at once
        res, flags = kit.run(1)[1]
        return _checked(res) > 0 and bool(flags & kit.lib.IORING_CQE_F_MORE)


def _cancels_any(kit: _Kit) -> bool:
    lib = kit.lib
    with _pair() as (left, _):
        kit.sqe(1, lib.io_uring_prep_poll_add, left.fileno(), 1)  # POLLIN: never ready
        flags = lib.IORING_ASYNC_CANCEL_ANY | lib.IORING_ASYNC_CANCEL_ALL
        kit.sqe(2, lib.io_uring_prep_cancel64, 0, flags)
        done = kit.run(2)
        return _checked(done[2][0]) >= 0 and 1 in done


def _short_send_reports_count(kit: _Kit) -> bool:
    """A send that falls short posts its count, at the end of the system call that submits it."""
    lib = kit.lib
    with _pair() as (left, right):
        payload = kit.ffi.new("char[]", 4 << 20)
        kit.keepalive.append(payload)
        how = socket.MSG_WAITALL | socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
        sqe = kit.sqe(1, lib.io_uring_prep_send, left.fileno(), payload, len(payload), how)
        sqe.flags |= lib.IOSQE_CQE_SKIP_SUCCESS
        res, _ = kit.run(0).get(1, (0, 0))
        right.setblocking(False)
        n_received = 0
        with contextlib.suppress(BlockingIOError):
            while chunk := right.recv(1 << 20):
                n_received += len(chunk)
        return _checked(res) > 0 and res == n_received


def _has_epoll_pwait2() -> bool | None:
    """Needs no ring.  None where libc has no such function to ask."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "epoll_pwait2", None)
    if call is None:
        return None
    call(-1, None, 0, None, None)
    return ctypes.get_errno() != errno.ENOSYS


# -- the table -----------------------------------------------------------------------------------------

_SETUP = "`io_uring_setup` with the flag"
_REPORTED = "reported by `io_uring_setup`"
_NEEDED = "no io_uring: the loop falls back to epoll, else poll"
_READS_BY_POLL = "connections are read by `recv(2)` when a multishot poll says so"
_CQE_PER_SEND = "every send posts a completion of its own"

FEATURES = (
    KernelFeature("io_uring", "5.1", "`io_uring_setup`", "epoll, else poll; no raw requests", _always),
    KernelFeature("`FEAT_NODROP`", "5.5", _REPORTED, _NEEDED, _has_feature(Feature.NODROP)),
    KernelFeature("`SETUP_R_DISABLED`", "5.10", _SETUP, _NEEDED, _accepts("IORING_SETUP_R_DISABLED")),
    KernelFeature("`FEAT_EXT_ARG`", "5.11", _REPORTED, _NEEDED, _has_feature(Feature.EXT_ARG)),
    KernelFeature("multishot poll", "5.13", "attempt on a socket pair", _NEEDED, _polls_multishot),
    KernelFeature("`FEAT_CQE_SKIP`", "5.17", _REPORTED, _NEEDED, _has_feature(Feature.CQE_SKIP)),
    KernelFeature(
        "`SETUP_SUBMIT_ALL`",
        "5.18",
        _SETUP,
        _NEEDED,
        _accepts("IORING_SETUP_SUBMIT_ALL"),
    ),
    KernelFeature(
        "`SETUP_COOP_TASKRUN`",
        "5.19",
        _SETUP,
        _NEEDED,
        _accepts("IORING_SETUP_COOP_TASKRUN"),
    ),
    KernelFeature(
        "`SETUP_TASKRUN_FLAG`",
        "5.19",
        "`io_uring_setup` with it and `COOP_TASKRUN`",
        _NEEDED,
        _accepts("IORING_SETUP_COOP_TASKRUN", "IORING_SETUP_TASKRUN_FLAG"),
    ),
    KernelFeature(
        "provided-buffer rings",
        "5.19",
        "`io_uring_register(PBUF_RING)`",
        _READS_BY_POLL,
        _registers_buffer_ring,
        is_for_speed=True,
    ),
    KernelFeature("multishot accept", "5.19", "attempt on a UNIX socket", _NEEDED, _accepts_multishot),
    KernelFeature("`ASYNC_CANCEL_ANY`", "5.19", "attempt on a poll request", _NEEDED, _cancels_any),
    KernelFeature(
        "multishot receive",
        "6.0",
        "attempt on a socket pair",
        _READS_BY_POLL,
        _receives_multishot,
        is_for_speed=True,
    ),
    KernelFeature(
        "`SETUP_SINGLE_ISSUER` and `DEFER_TASKRUN`",
        "6.1",
        "`io_uring_setup` with both",
        "`COOP_TASKRUN`: completions are worked off in any system call, not in batches",
        _accepts("IORING_SETUP_SINGLE_ISSUER", "IORING_SETUP_DEFER_TASKRUN"),
        is_for_speed=True,
    ),
    KernelFeature(
        "short sends report their count",
        "6.1 or so",
        "attempt on a socket pair",
        _CQE_PER_SEND,
        _short_send_reports_count,
        is_for_speed=True,
    ),
    KernelFeature(
        "incremental buffer rings (`IOU_PBUF_RING_INC`)",
        "6.12",
        "`io_uring_register(PBUF_RING)` with the flag",
        "64 buffers of 16 KiB instead of 4 of 256 KiB",
        _registers_incremental_buffer_ring,
        is_for_speed=True,
    ),
    KernelFeature(
        "`FEAT_NO_IOWAIT`",
        "6.15",
        _REPORTED,
        "a sleeping loop is shown as waiting for I/O by `top`; nothing else",
        _has_feature(Feature.NO_IOWAIT),
    ),
    KernelFeature(
        "`OP_SOCKET`, `OP_URING_CMD`",
        "5.19",
        "`io_uring_get_probe`",
        "for raw requests only: they fail with `EINVAL`",
        _has_opcode(Op.URING_CMD),
    ),
    KernelFeature(
        "`OP_SEND_ZC`",
        "6.0",
        "`io_uring_get_probe`",
        "for raw requests only: they fail with `EINVAL`",
        _has_opcode(Op.SEND_ZC),
    ),
)
EPOLL_PWAIT2 = KernelFeature(
    "`epoll_pwait2`",
    "5.11",
    "the system call itself",
    "timeouts of the epoll monitor are rounded up to milliseconds",
    _always,
)


def liburing_build() -> tuple[str, bool] | None:
    """The liburing that this was built against: its version, and whether it is linked statically."""
    try:
        from . import ffi, lib
    except ImportError:
        return None
    return ffi.string(lib.ul_liburing_version).decode(), bool(lib.UL_LIBURING_IS_STATIC)


def try_all() -> list[Finding]:
    """Probe every feature; the epoll one last.  Raises nothing."""
    findings = []
    try:
        from . import ffi, lib

        kit = _Kit(ffi, lib)
    except ImportError as error:
        reason = "this build has no liburing" if error.name == "uringloop.liburing._ffi" else str(error)
        findings = [Finding(one, None, reason) for one in FEATURES]
    except OSError as error:
        reason = errno.errorcode.get(error.errno or 0, str(error))
        findings = [Finding(FEATURES[0], False, reason)]
        findings += [Finding(one, None, f"io_uring: {reason}") for one in FEATURES[1:]]
    else:
        kit.close()
        findings = [_probe_one(one, ffi, lib) for one in FEATURES]
    found = _has_epoll_pwait2()
    findings.append(Finding(EPOLL_PWAIT2, found, "libc has no such function" if found is None else ""))
    return findings


def unprobed(reason: str) -> list[Finding]:
    """What `try_all` would return where an attempt is not possible; nothing is tried."""
    return [Finding(one, None, reason) for one in (*FEATURES, EPOLL_PWAIT2)]


def _probe_one(feature: KernelFeature, ffi: Any, lib: Any) -> Finding:
    """Use a separate ring, so that requests that one probe leaves in flight do not disturb the next."""
    try:
        kit = _Kit(ffi, lib)
    except OSError as error:
        return Finding(feature, None, errno.errorcode.get(error.errno or 0, str(error)))
    try:
        return Finding(feature, feature.attempt(kit))
    except OSError as error:
        is_available = None if error.errno in SHORT else False
        return Finding(feature, is_available, errno.errorcode.get(error.errno or 0, str(error)))
    except KeyError:
        return Finding(feature, False, "no completion came")
    finally:
        kit.close()


# -- output --------------------------------------------------------------------------------------------

_HEAD = """\
# What uringloop needs of the kernel

Generated by `python tools/kernels --document` from the table in `uringloop/liburing/features.py` and the results of
`make kernels`; do not edit. `python -m uringloop` shows what of it works where you are. Nothing is decided by the
kernel's version number: everything is tried, because distributions backport and containers forbid. The versions below
are for orientation.

"""

_TAIL = """
The C library: uringloop brings a copy of liburing 2.15, which is linked statically ([liburing](liburing.md)). A build
with `URINGLOOP_WITHOUT_LIBURING=1` has epoll and poll only.
"""


def markdown() -> str:
    """The table, with what surrounds it: docs/kernel-support.md without the kernels that were run."""
    lines = ["| feature | since Linux | how it is probed | without it |", "|---|---|---|---|"]
    for one in (*FEATURES, EPOLL_PWAIT2):
        lines.append(f"| {one.name} | {one.since} | {one.how} | {one.without} |")
    return _HEAD + "\n".join(lines) + "\n" + _TAIL


def describe(finding: Finding) -> str:
    """One line for people."""
    state = {True: "yes", False: "no", None: "?"}[finding.is_available]
    text = f"{state:4} {finding.feature.name.replace('`', '')} (Linux {finding.feature.since})"
    if finding.is_available:
        return text
    consequence = finding.feature.without.replace("`", "")
    return f"{text}: {finding.reason + '; ' if finding.reason else ''}{consequence}"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m uringloop.liburing.features", description="What works here."
    )
    parser.add_argument("--markdown", action="store_true", help="print the table of all features instead")
    if parser.parse_args().markdown:
        sys.stdout.write(markdown())
    else:
        print("\n".join(map(describe, try_all())))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What io_uring can do here: which operations and features this kernel has, for this process.

How it works: a small ring is made, queried (io_uring_setup's feature bits, IORING_REGISTER_PROBE's operations) and
closed.  The result is kept for the process; a fork child probes anew, because limits and seccomp filters may have
changed.  A refusal is not kept: it may be temporary (EMFILE, ENOMEM).

Thread: any, also while loops run; no other code uses the ring.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from typing import Any

from ..exceptions import MonitorUnavailable
from .enums import Feature, Op
from .refusal import explain

__all__ = ["Probe", "probe"]

_kept: tuple[int, Probe] | None = None  # the process that probed, and its result


@dataclass(frozen=True)
class Probe:
    """The result of `probe`.

    Only what the kernel itself reports: a seccomp filter or an io_uring restriction may still refuse a single
    operation, and a device or file system need not support it.
    """

    ops: frozenset[Op]  # operations, as far as `Op` knows them
    features: Feature  # IORING_FEAT_*
    _numbers: frozenset[int] = field(repr=False)  # all operations, also those newer than `Op`

    def supports(self, op: Op | int) -> bool:
        """Whether a request may set `sqe.opcode = op`; any number may be passed."""
        return int(op) in self._numbers


def probe() -> Probe:
    """What io_uring of this kernel supports for this process; probed once per process.

    Raises: MonitorUnavailable with errno and cause where there is no io_uring: it is forbidden, there is no
    memory or file descriptor for a ring, or this build has no liburing.
    """
    global _kept
    kept = _kept
    if kept is None or kept[0] != os.getpid():
        kept = _kept = (os.getpid(), _ask())
    return kept[1]


def _ask() -> Probe:
    try:
        from . import ffi, lib
    except ImportError as error:
        raise MonitorUnavailable("io_uring", errno.ENOSYS, str(error)) from error
    ring, params = ffi.new("struct io_uring *"), ffi.new("struct io_uring_params *")
    result = lib.io_uring_queue_init_params(2, ring, params)
    if result < 0:
        raise MonitorUnavailable("io_uring", -result, explain(-result))
    try:
        return Probe(*_operations(ffi, lib, ring, Feature(params.features)))
    finally:
        lib.io_uring_queue_exit(ring)


def _operations(
    ffi: Any, lib: Any, ring: Any, features: Feature
) -> tuple[frozenset[Op], Feature, frozenset[int]]:
    answer = lib.io_uring_get_probe_ring(ring)
    if answer == ffi.NULL:  # since Linux 5.6
        raise MonitorUnavailable("io_uring", errno.EINVAL, explain(errno.EINVAL))
    try:
        numbers = frozenset(
            number for number in range(answer.last_op + 1) if lib.io_uring_opcode_supported(answer, number)
        )
    finally:
        lib.io_uring_free_probe(answer)
    return frozenset(op for op in Op if op in numbers), features, numbers

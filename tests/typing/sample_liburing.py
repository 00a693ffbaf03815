"""liburing as a type checker sees it: numbers are enums, functions have signatures."""

from typing import assert_type

from uringloop.exceptions import MonitorUnavailable
from uringloop.liburing import Feature, Op, Probe, SetupFlag, SqeFlag, probe


def numbers() -> None:
    assert_type(Op.WAITID.value, int)
    assert_type(Op.WAITID.since, str)
    assert_type(SqeFlag.ASYNC | SqeFlag.IO_LINK, SqeFlag)
    assert_type((SetupFlag.SQPOLL | SetupFlag.SQ_AFF).since, str)
    assert int(Op.NOP) == 0


def what_the_kernel_has() -> bool:
    try:
        found = probe()
    except MonitorUnavailable as error:
        print(error.cause)
        return False
    assert_type(found, Probe)
    assert_type(found.ops, frozenset[Op])
    assert_type(found.features, Feature)
    return found.supports(Op.SPLICE)


def prepared() -> None:
    try:
        from uringloop.liburing import ffi, lib
    except ImportError:
        return  # a build without liburing
    sqe = ffi.new("struct io_uring_sqe *")
    lib.io_uring_prep_openat(sqe, lib.AT_FDCWD, b"name", 0, 0o600)
    assert_type(lib.IORING_OP_OPENAT, int)
    assert sqe.opcode == Op.OPENAT
    assert_type(lib.io_uring_buf_ring_mask(8), int)


def a_wrong_call_is_found(sqe: object) -> None:
    """Never called."""
    from uringloop.liburing import lib

    lib.io_uring_prep_nop(sqe, 1)  # type: ignore[call-arg]


numbers()
print(what_the_kernel_has())
prepared()

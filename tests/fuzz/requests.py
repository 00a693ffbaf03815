"""What add_sqe() refuses: SQEs of any bytes, and memory that they name."""

import struct

from drivers.ring import check_call

from uringloop import FIRST_RESERVED_GROUP
from uringloop.liburing import ffi, lib

from .choices import Choices

# opcode, flags, ioprio, fd, off, addr, len, flags of the operation, user_data, buf_index, personality, file_index
SQE = struct.Struct("=BBHiQQIIQHHi16x")
UNTOUCHED = 0x5A5A0F0F5A5A0F0F
TRANSFERS = (lib.IORING_OP_READ, lib.IORING_OP_WRITE, lib.IORING_OP_SEND, lib.IORING_OP_RECV)
TRANSFERS += (lib.IORING_OP_READ_FIXED, lib.IORING_OP_WRITE_FIXED, lib.IORING_OP_SEND_ZC)
WRITES = (lib.IORING_OP_READ, lib.IORING_OP_RECV, lib.IORING_OP_READ_FIXED, lib.IORING_OP_PROVIDE_BUFFERS)
BUFFERS = (lib.IORING_OP_PROVIDE_BUFFERS, lib.IORING_OP_REMOVE_BUFFERS)
INTERESTING = (*TRANSFERS, *BUFFERS, lib.IORING_OP_READV, lib.IORING_OP_WRITEV, lib.IORING_OP_POLL_ADD)
INTERESTING += (
    lib.IORING_OP_POLL_REMOVE,
    lib.IORING_OP_MSG_RING,
    lib.IORING_OP_TIMEOUT,
    lib.IORING_OP_ACCEPT,
)
INTERESTING += (lib.IORING_OP_RECVMSG, lib.IORING_OP_OPENAT, lib.IORING_OP_OPENAT2, lib.IORING_OP_SOCKET)
OPENS = (lib.IORING_OP_ACCEPT, lib.IORING_OP_OPENAT, lib.IORING_OP_OPENAT2, lib.IORING_OP_SOCKET)
READ_MULTISHOT, FIXED_FD_INSTALL = 49, 54
NOT_FILLED = 255


class Fields:
    """The fields of an SQE, chosen so that the rules matter, and the memory that it may name."""

    def __init__(self, choices: Choices):
        chosen = choices.number()
        self.opcode = INTERESTING[chosen % len(INTERESTING)] if chosen < 200 else choices.number()
        flags = choices.of((0, 0, 1 << choices.below(8), choices.number()))
        self.flags = flags
        self.ioprio = choices.of((0, 1, 2, choices.number(2)))
        self.fd = choices.of((-1, 0, 1 << 20, 2, -(1 << 31), (1 << 31) - 1))
        self.off = choices.of((0, 0, 1, 65535, 1 << 63, choices.number(8)))
        self.length = choices.of((0, 1, 2, 63, 64, 65, 128, 1 << 20, 0xFFFFFFFF, choices.number(4)))
        self.op_flags = choices.of((0, 1, 2, 64, choices.number(4)))
        self.user_data = choices.of((UNTOUCHED, UNTOUCHED, UNTOUCHED, 0, choices.number(8)))
        self.buf_group = choices.of((0, 1, FIRST_RESERVED_GROUP - 1, FIRST_RESERVED_GROUP, 0xFFFF))
        self.file_index = choices.of((0, 0, 1, -1))
        size = choices.of((64, 0, 1, 100))
        self.kind = choices.below(5)
        self.size = size
        self.is_readonly = self.kind in (0, 4)
        if self.kind == 0:
            self.owner: object = b"r" * size
            self.base = int(ffi.cast("uintptr_t", ffi.from_buffer(self.owner)))
        elif self.kind == 1:
            self.owner = ffi.new(f"char[{size}]")
            self.base = int(ffi.cast("uintptr_t", self.owner))
        elif self.kind == 2:
            self.owner = ffi.from_buffer(bytearray(size))
            self.base = int(ffi.cast("uintptr_t", self.owner))
        elif self.kind == 3:
            self.owner = bytearray(size)
            self.base = int(ffi.cast("uintptr_t", ffi.from_buffer(self.owner)))
        else:
            self.owner = memoryview(b"v" * size)
            self.base = int(ffi.cast("uintptr_t", ffi.from_buffer(self.owner)))
        self.offset = choices.of((0, 0, 1, size - 1, size, size + 1, -1, -64))
        where = choices.below(8)
        self.addr = 0 if where == 6 else 1 << 40 if where == 7 else (self.base + self.offset) % (1 << 64)

    def packed(self) -> bytes:
        return SQE.pack(
            *(self.opcode, self.flags, self.ioprio, self.fd, self.off, self.addr, self.length, self.op_flags),
            *(self.user_data, self.buf_group, 0, self.file_index),
        )

    def transferred(self) -> int:
        if self.opcode in TRANSFERS:
            return self.length
        if self.opcode in (lib.IORING_OP_READV, lib.IORING_OP_WRITEV):
            return 16 * self.length
        if self.opcode == lib.IORING_OP_PROVIDE_BUFFERS:
            return self.length * max(self.fd, 0)
        return 0

    def is_memory_wrong(self) -> bool:
        count = self.transferred()
        if not self.addr or not count:
            return False
        offset = self.addr - self.base
        if not (0 <= offset < self.size or offset == self.size == 0):
            return False
        return (self.is_readonly and self.opcode in WRITES) or count > self.size - offset

    def posts_several(self) -> bool:
        if self.opcode == lib.IORING_OP_POLL_ADD:
            return bool(self.length & 1)
        if self.opcode == lib.IORING_OP_TIMEOUT:
            return bool(self.op_flags & 64)
        if self.opcode == lib.IORING_OP_ACCEPT:
            return bool(self.ioprio & 1)
        if self.opcode in (lib.IORING_OP_RECV, lib.IORING_OP_RECVMSG):
            return bool(self.ioprio & 2)
        return self.opcode == READ_MULTISHOT

    def is_refused(self, is_linked: bool, is_multishot: bool) -> bool:
        selects = self.flags & lib.IOSQE_BUFFER_SELECT or self.opcode in BUFFERS
        return any(
            (
                self.opcode == NOT_FILLED,
                self.user_data != UNTOUCHED,
                self.flags & lib.IOSQE_IO_DRAIN,
                self.flags & lib.IOSQE_CQE_SKIP_SUCCESS,
                self.flags & (lib.IOSQE_IO_LINK | lib.IOSQE_IO_HARDLINK) and not is_linked,
                selects and self.buf_group >= FIRST_RESERVED_GROUP,
                self.opcode == lib.IORING_OP_POLL_REMOVE and self.length & lib.IORING_POLL_UPDATE_USER_DATA,
                # no loop has a ring here
                self.opcode == lib.IORING_OP_MSG_RING and self.off and self.flags & lib.IOSQE_FIXED_FILE,
                self.is_memory_wrong(),
                self.posts_several() and not is_multishot,
            )
        )


def check(data: bytes) -> None:
    choices = Choices(data)
    is_linked, is_multishot = bool(choices.below(2)), bool(choices.below(2))
    where = choices.below(4)
    fields = Fields(choices)
    filled = fields.packed()

    def prep(sqe: object, *_: object) -> None:
        ffi.memmove(sqe, filled, len(filled))

    keepalive = (None, fields.owner, (1, fields.owner), None)[where]
    call = (prep, 1, fields.owner, None) if where == 0 else (prep, fields.owner) if where == 3 else (prep,)
    try:
        found = check_call(call, keepalive, is_multishot=is_multishot, is_linked=is_linked)
    except ValueError:
        assert fields.is_refused(is_linked, is_multishot), vars(fields)
        return
    assert not fields.is_refused(is_linked, is_multishot), vars(fields)
    makes_fds = fields.opcode == FIXED_FD_INSTALL or (fields.opcode in OPENS and fields.file_index == 0)
    is_async = bool(fields.flags & lib.IOSQE_ASYNC)
    expected = (fields.opcode, fields.buf_group, fields.off & 0xFFFF, is_async, fields.fd, makes_fds)
    assert found == expected


SEEDS = [
    bytes([0, 0, 0, opcode, flags, *([0] * 5), length, 0, 0, group, 0, 0, kind, 0, 0])
    for opcode, flags, length, group, kind in (
        (0, 0, 4, 0, 0),
        (1, 0, 5, 0, 1),
        (2, 0, 3, 0, 2),
        (7, 0, 2, 3, 3),
        (8, 0, 2, 2, 4),
        (9, 0, 1, 0, 1),
        (11, 0, 1, 0, 0),
        (14, 2, 1, 0, 0),
        (250, 3, 1, 0, 0),
    )
]

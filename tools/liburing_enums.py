#!/usr/bin/env python3
"""Write uringloop/liburing/enums.py: io_uring's numbers as enums, each with the Linux version that added it.

    python tools/liburing_enums.py > uringloop/liburing/enums.py
    python tools/liburing_enums.py numbers > uringloop/liburing/numbers.pxd    # the same for Cython

The table below is the source.  A section is one enum: its kind, the prefix of the names in C, and its use.  A line
is a member: its name, its value, "since Linux", and the name in C if that is not prefix and name.  The numbers are
the kernel's ABI and never change; a test compares them with the header's, and the written files with the table.
To add a number, look up include/uapi/linux/io_uring.h of the first kernel that has it.
"""

import re
import sys

TABLE = """
[Op] Enum IORING_OP_
The operation of a request: `sqe.opcode`.
NOP 0 5.1
READV 1 5.1
WRITEV 2 5.1
FSYNC 3 5.1
READ_FIXED 4 5.1
WRITE_FIXED 5 5.1
POLL_ADD 6 5.1
POLL_REMOVE 7 5.1
SYNC_FILE_RANGE 8 5.2
SENDMSG 9 5.3
RECVMSG 10 5.3
TIMEOUT 11 5.4
TIMEOUT_REMOVE 12 5.5
ACCEPT 13 5.5
ASYNC_CANCEL 14 5.5
LINK_TIMEOUT 15 5.5
CONNECT 16 5.5
FALLOCATE 17 5.6
OPENAT 18 5.6
CLOSE 19 5.6
FILES_UPDATE 20 5.6
STATX 21 5.6
READ 22 5.6
WRITE 23 5.6
FADVISE 24 5.6
MADVISE 25 5.6
SEND 26 5.6
RECV 27 5.6
OPENAT2 28 5.6
EPOLL_CTL 29 5.6
SPLICE 30 5.7
PROVIDE_BUFFERS 31 5.7
REMOVE_BUFFERS 32 5.7
TEE 33 5.8
SHUTDOWN 34 5.11
RENAMEAT 35 5.11
UNLINKAT 36 5.11
MKDIRAT 37 5.15
SYMLINKAT 38 5.15
LINKAT 39 5.15
MSG_RING 40 5.18
FSETXATTR 41 5.19
SETXATTR 42 5.19
FGETXATTR 43 5.19
GETXATTR 44 5.19
SOCKET 45 5.19
URING_CMD 46 5.19
SEND_ZC 47 6.0
SENDMSG_ZC 48 6.1
READ_MULTISHOT 49 6.7
WAITID 50 6.7
FUTEX_WAIT 51 6.7
FUTEX_WAKE 52 6.7
FUTEX_WAITV 53 6.7
FIXED_FD_INSTALL 54 6.8
FTRUNCATE 55 6.9
BIND 56 6.11
LISTEN 57 6.11
RECV_ZC 58 6.15
EPOLL_WAIT 59 6.15
READV_FIXED 60 6.15
WRITEV_FIXED 61 6.15
PIPE 62 6.16
NOP128 63 6.19
URING_CMD128 64 6.19

[SqeFlag] Flag IOSQE_
How it is carried out, whatever the operation: `sqe.flags`.
FIXED_FILE 1<<0 5.1
IO_DRAIN 1<<1 5.2
IO_LINK 1<<2 5.3
IO_HARDLINK 1<<3 5.5
ASYNC 1<<4 5.6
BUFFER_SELECT 1<<5 5.7
CQE_SKIP_SUCCESS 1<<6 5.17

[CqeFlag] Flag IORING_CQE_F_
What a completion says besides its result: `cqe.flags`, below the buffer's id.
BUFFER 1<<0 5.7
MORE 1<<1 5.13
SOCK_NONEMPTY 1<<2 5.19
NOTIF 1<<3 6.0
BUF_MORE 1<<4 6.12
SKIP 1<<5 6.18
F_32 1<<15 6.18 IORING_CQE_F_32

[FsyncFlag] Flag IORING_FSYNC_
For `Op.FSYNC`: `sqe.fsync_flags`.
DATASYNC 1<<0 5.1

[TimeoutFlag] Flag IORING_TIMEOUT_
For `Op.TIMEOUT`, `TIMEOUT_REMOVE` and `LINK_TIMEOUT`: `sqe.timeout_flags`.
ABS 1<<0 5.5
UPDATE 1<<1 5.11
BOOTTIME 1<<2 5.15
REALTIME 1<<3 5.15
LINK_UPDATE 1<<4 5.15 IORING_LINK_TIMEOUT_UPDATE
ETIME_SUCCESS 1<<5 5.16
MULTISHOT 1<<6 6.4
IMMEDIATE_ARG 1<<7 7.1

[PollFlag] Flag IORING_POLL_
For `Op.POLL_ADD` and `POLL_REMOVE`: `sqe.len`.
ADD_MULTI 1<<0 5.13
UPDATE_EVENTS 1<<1 5.13
UPDATE_USER_DATA 1<<2 5.13
ADD_LEVEL 1<<3 6.0

[CancelFlag] Flag IORING_ASYNC_CANCEL_
For `Op.ASYNC_CANCEL`: `sqe.cancel_flags`.
ALL 1<<0 5.19
FD 1<<1 5.19
ANY 1<<2 5.19
FD_FIXED 1<<3 6.0
USERDATA 1<<4 6.6
OP 1<<5 6.6

[SendRecvFlag] Flag IORING_
For requests that send and receive: `sqe.ioprio`.
RECVSEND_POLL_FIRST 1<<0 5.19
RECV_MULTISHOT 1<<1 6.0
RECVSEND_FIXED_BUF 1<<2 6.0
SEND_ZC_REPORT_USAGE 1<<3 6.2
RECVSEND_BUNDLE 1<<4 6.10
SEND_VECTORIZED 1<<5 6.17

[AcceptFlag] Flag IORING_ACCEPT_
For `Op.ACCEPT`: `sqe.ioprio`.
MULTISHOT 1<<0 5.19
DONTWAIT 1<<1 6.10
POLL_FIRST 1<<2 6.10

[SpliceFlag] Flag SPLICE_F_
For `Op.SPLICE` and `TEE`, beside the `os.SPLICE_F_*`: `sqe.splice_flags`.
FD_IN_FIXED 1<<31 5.7

[MsgRingCommand] Enum IORING_MSG_
What `Op.MSG_RING` sends: `sqe.addr`.
DATA 0 5.18
SEND_FD 1 6.0

[MsgRingFlag] Flag IORING_MSG_RING_
For `Op.MSG_RING`: `sqe.msg_ring_flags`.
CQE_SKIP 1<<0 6.0
FLAGS_PASS 1<<1 6.3

[FutexFlag] Flag FUTEX2_
For `Op.FUTEX_WAIT` and `FUTEX_WAKE`: `sqe.fd`; for `FUTEX_WAITV`: in each waiter.
SIZE_U32 1<<1 6.7
PRIVATE 1<<7 6.7

[FixedFdFlag] Flag IORING_FIXED_FD_
For `Op.FIXED_FD_INSTALL`: `sqe.install_fd_flags`.
NO_CLOEXEC 1<<0 6.8

[NopFlag] Flag IORING_NOP_
For `Op.NOP`: `sqe.nop_flags`.
INJECT_RESULT 1<<0 6.10
FILE 1<<1 6.13
FIXED_FILE 1<<2 6.13
FIXED_BUFFER 1<<3 6.13
TW 1<<4 6.17
CQE32 1<<5 6.18

[UringCmdFlag] Flag IORING_URING_CMD_
For `Op.URING_CMD`: `sqe.uring_cmd_flags`.
FIXED 1<<0 6.1
MULTISHOT 1<<1 6.18

[SocketOp] Enum SOCKET_URING_OP_
What `Op.URING_CMD` asks of a socket: `sqe.cmd_op`.
SIOCINQ 0 6.6
SIOCOUTQ 1 6.6
GETSOCKOPT 2 6.7
SETSOCKOPT 3 6.7
TX_TIMESTAMP 4 6.17
GETSOCKNAME 5 6.19

[SetupFlag] Flag IORING_SETUP_
How a ring is made: io_uring_setup(2).
IOPOLL 1<<0 5.1
SQPOLL 1<<1 5.1
SQ_AFF 1<<2 5.1
CQSIZE 1<<3 5.5
CLAMP 1<<4 5.6
ATTACH_WQ 1<<5 5.6
R_DISABLED 1<<6 5.10
SUBMIT_ALL 1<<7 5.18
COOP_TASKRUN 1<<8 5.19
TASKRUN_FLAG 1<<9 5.19
SQE128 1<<10 5.19
CQE32 1<<11 5.19
SINGLE_ISSUER 1<<12 6.0
DEFER_TASKRUN 1<<13 6.1
NO_MMAP 1<<14 6.5
REGISTERED_FD_ONLY 1<<15 6.5
NO_SQARRAY 1<<16 6.6
HYBRID_IOPOLL 1<<17 6.13
CQE_MIXED 1<<18 6.18
SQE_MIXED 1<<19 6.19
SQ_REWIND 1<<20 7.0

[Feature] Flag IORING_FEAT_
What a kernel says of itself when a ring is made: io_uring_setup(2).
SINGLE_MMAP 1<<0 5.4
NODROP 1<<1 5.5
SUBMIT_STABLE 1<<2 5.5
RW_CUR_POS 1<<3 5.6
CUR_PERSONALITY 1<<4 5.6
FAST_POLL 1<<5 5.7
POLL_32BITS 1<<6 5.9
SQPOLL_NONFIXED 1<<7 5.11
EXT_ARG 1<<8 5.11
NATIVE_WORKERS 1<<9 5.12
RSRC_TAGS 1<<10 5.13
CQE_SKIP 1<<11 5.17
LINKED_FILE 1<<12 5.18
REG_REG_RING 1<<13 6.3
RECVSEND_BUNDLE 1<<14 6.10
MIN_TIMEOUT 1<<15 6.12
RW_ATTR 1<<16 6.14
NO_IOWAIT 1<<17 6.15

[EnterFlag] Flag IORING_ENTER_
For io_uring_enter(2).
GETEVENTS 1<<0 5.1
SQ_WAKEUP 1<<1 5.1
SQ_WAIT 1<<2 5.10
EXT_ARG 1<<3 5.11
REGISTERED_RING 1<<4 5.18
ABS_TIMER 1<<5 6.12
EXT_ARG_REG 1<<6 6.13
NO_IOWAIT 1<<7 6.15

[RegisterOp] Enum IORING_
What io_uring_register(2) does.
REGISTER_BUFFERS 0 5.1
UNREGISTER_BUFFERS 1 5.1
REGISTER_FILES 2 5.1
UNREGISTER_FILES 3 5.1
REGISTER_EVENTFD 4 5.2
UNREGISTER_EVENTFD 5 5.2
REGISTER_FILES_UPDATE 6 5.5
REGISTER_EVENTFD_ASYNC 7 5.6
REGISTER_PROBE 8 5.6
REGISTER_PERSONALITY 9 5.6
UNREGISTER_PERSONALITY 10 5.6
REGISTER_RESTRICTIONS 11 5.10
REGISTER_ENABLE_RINGS 12 5.10
REGISTER_FILES2 13 5.13
REGISTER_FILES_UPDATE2 14 5.13
REGISTER_BUFFERS2 15 5.13
REGISTER_BUFFERS_UPDATE 16 5.13
REGISTER_IOWQ_AFF 17 5.14
UNREGISTER_IOWQ_AFF 18 5.14
REGISTER_IOWQ_MAX_WORKERS 19 5.15
REGISTER_RING_FDS 20 5.18
UNREGISTER_RING_FDS 21 5.18
REGISTER_PBUF_RING 22 5.19
UNREGISTER_PBUF_RING 23 5.19
REGISTER_SYNC_CANCEL 24 6.0
REGISTER_FILE_ALLOC_RANGE 25 6.0
REGISTER_PBUF_STATUS 26 6.8
REGISTER_NAPI 27 6.9
UNREGISTER_NAPI 28 6.9
REGISTER_CLOCK 29 6.12
REGISTER_CLONE_BUFFERS 30 6.12
REGISTER_SEND_MSG_RING 31 6.13
REGISTER_ZCRX_IFQ 32 6.15
REGISTER_RESIZE_RINGS 33 6.13
REGISTER_MEM_REGION 34 6.13
REGISTER_QUERY 35 6.18
REGISTER_ZCRX_CTRL 36 6.19
REGISTER_BPF_FILTER 37 7.0

[BufferRingFlag] Flag IOU_PBUF_RING_
For `RegisterOp.REGISTER_PBUF_RING`.
MMAP 1<<0 6.4
INC 1<<1 6.12

[SqRingFlag] Flag IORING_SQ_
What the kernel says in the memory of the submission ring.
NEED_WAKEUP 1<<0 5.1
CQ_OVERFLOW 1<<1 5.8
TASKRUN 1<<2 5.19

[CqRingFlag] Flag IORING_CQ_
What user space sets for the kernel in the memory of the completion ring.
EVENTFD_DISABLED 1<<0 5.8
"""

HEAD = '''\
"""io_uring's numbers as enums: what the kernel's ABI says, on every build and whatever header it had.

    from uringloop.liburing import Op, SetupFlag

    Op.WAITID               # 50
    Op.WAITID.since         # "6.7": the Linux that brought it
    Op.WAITID.c_name        # "IORING_OP_WAITID", its name in `lib`
    SetupFlag(params.flags)

Generated by tools/liburing_enums.py; do not edit.
"""

from enum import IntEnum, IntFlag
from typing import Self

__all__ = [
{names}]


def version(since: str) -> tuple[int, ...]:
    """(6, 7) of "6.7"."""
    return tuple(map(int, since.split(".")))


class KernelEnum(IntEnum):
    """A number; `since` is the Linux that brought it, `c_name` what C calls it."""

    since: str
    c_name: str

    def __new__(cls, value: int, since: str, c_name: str) -> Self:
        member = int.__new__(cls, value)
        member._value_ = value
        member.since = since
        member.c_name = c_name
        return member


class KernelFlag(IntFlag):
    """Flags; of several, `since` is the newest one's, and `c_name` is as C would write it."""

    _since: str
    _c_name: str

    def __new__(cls, value: int, since: str = "", c_name: str = "") -> Self:
        member = int.__new__(cls, value)
        member._value_ = value
        member._since = since
        member._c_name = c_name
        return member

    @property
    def since(self) -> str:
        return max((one._since for one in self), key=version, default="")

    @property
    def c_name(self) -> str:
        return " | ".join(one._c_name for one in self)
'''


def sections() -> list[tuple[str, str, str, str, list[tuple[str, str, str, str]]]]:
    """[(enum, kind, prefix, about, [(member, value, since, name in C)])]"""
    found = []
    for block in re.split(r"\n(?=\[)", TABLE.strip()):
        head, about, *lines = block.splitlines()
        name, kind, prefix = head.replace("[", "").replace("]", "").split()
        members = []
        for line in filter(None, lines):
            member, value, since, *c_name = line.split()
            members.append((member, value.replace("<<", " << "), since, *(c_name or [prefix + member])))
        found.append((name, kind, prefix, about, members))
    return found


def generate() -> str:
    """enums.py."""
    everything = sections()
    names = sorted(name for name, *_ in everything)
    parts = [HEAD.replace("{names}", "".join(f'    "{name}",\n' for name in names))]
    for name, kind, _, about, members in everything:
        parts.append(f'\n\nclass {name}(Kernel{kind}):\n    """{about}"""\n\n')
        parts += [
            f'    {member} = {value}, "{since}", "{c_name}"\n' for member, value, since, c_name in members
        ]
    return "".join(parts)


def generate_numbers() -> str:
    """numbers.pxd: the names in C without IORING_."""
    parts = [
        "# io_uring's numbers: what the kernel's ABI says, whatever header the build has.\n"
        "# Generated by tools/liburing_enums.py; do not edit.\n"
    ]
    for name, _, _, about, members in sections():
        parts.append(f"\n# {name}: {about}\ncdef enum:\n")
        parts += [f"    {c_name.removeprefix('IORING_')} = {value}\n" for _, value, _, c_name in members]
    return "".join(parts)


if __name__ == "__main__":
    sys.stdout.write(generate_numbers() if sys.argv[1:] == ["numbers"] else generate())

"""The request that each prep helper makes, ours and liburing's alike, on a ring of its own."""

import contextlib
import errno
import os
import select
import socket
import struct

import pytest
from support.helpers import LINUX

liburing = pytest.importorskip("uringloop.liburing._ffi", reason="this build has no liburing")
ffi, lib = liburing.ffi, liburing.lib

MARK = 0xFEED_0000_0000_BEEF
NULL = ffi.NULL


class PlainRing:
    """A ring of liburing's, and one request at a time."""

    def __init__(self, flags=0):
        self.ring = ffi.new("struct io_uring *")
        error = lib.io_uring_queue_init(8, self.ring, flags)
        if error < 0:
            pytest.skip(f"io_uring: {errno.errorcode[-error]}")

    def sqe(self, prep, *args):
        sqe = lib.io_uring_get_sqe(self.ring)
        sqe.user_data = MARK
        prep(sqe, *args)
        return sqe

    def harvest(self):
        """(res, flags) of the next completion."""
        assert lib.io_uring_submit_and_wait(self.ring, 1) >= 0
        cqe = ffi.new("struct io_uring_cqe **")
        assert lib.io_uring_peek_cqe(self.ring, cqe) == 0
        found = cqe[0].res, cqe[0].flags
        assert cqe[0].user_data == MARK
        lib.io_uring_cqe_seen(self.ring, cqe[0])
        return found

    def do(self, prep, *args):
        """The result of one request; skips where the kernel has no such operation."""
        sqe = self.sqe(prep, *args)
        opcode = sqe.opcode
        res, _ = self.harvest()
        if res in (-errno.EINVAL, -errno.EOPNOTSUPP) and not self.supports(opcode):
            pytest.skip(f"this kernel has no operation {opcode}")
        return res

    def supports(self, opcode):
        answer = lib.io_uring_get_probe_ring(self.ring)
        try:
            return bool(lib.io_uring_opcode_supported(answer, opcode))
        finally:
            lib.io_uring_free_probe(answer)


@pytest.fixture
def ring():
    one = PlainRing()
    yield one
    lib.io_uring_queue_exit(one.ring)


@contextlib.contextmanager
def sockets(*args):
    left, right = socket.socketpair(*args)
    with left, right:
        yield left, right


def test_ftruncate(ring, tmp_path):
    path = tmp_path / "one"
    path.write_bytes(b"0123456789")
    with path.open("r+b") as file:
        assert ring.do(lib.io_uring_prep_ftruncate, file.fileno(), 4) == 0
        assert path.read_bytes() == b"0123"
        assert ring.do(lib.io_uring_prep_ftruncate, file.fileno(), 5 << 32) == 0
        assert path.stat().st_size == 5 << 32


def test_open(ring, tmp_path):
    path = tmp_path / "new"
    fd = ring.do(lib.io_uring_prep_open, ffi.from_buffer(bytes(path) + b"\0"), os.O_CREAT | os.O_RDWR, 0o640)
    os.close(fd)
    assert path.stat().st_mode & 0o777 == 0o640


def test_fadvise64_and_madvise64(ring, tmp_path):
    path = tmp_path / "one"
    path.write_bytes(bytes(8192))
    with path.open("rb") as file:
        res = ring.do(lib.io_uring_prep_fadvise64, file.fileno(), 0, 8192, lib.POSIX_FADV_DONTNEED)
        if res == -errno.EINVAL:
            pytest.skip("64-bit lengths of advice need a newer Linux than 6.1")
        assert res == 0
    memory = lib.io_uring_setup_buf_ring(ring.ring, 256, 7, 0, ffi.new("int *"))  # page-aligned memory
    assert ring.do(lib.io_uring_prep_madvise64, memory, 4096, 3) == 0  # MADV_WILLNEED
    assert lib.io_uring_free_buf_ring(ring.ring, memory, 256, 7) == 0


def test_pipe(ring):
    fds = ffi.new("int[2]")
    assert ring.do(lib.io_uring_prep_pipe, fds, os.O_NONBLOCK) == 0
    try:
        os.write(fds[1], b"through")
        assert os.read(fds[0], 10) == b"through"
        assert not os.get_blocking(fds[0])
    finally:
        os.close(fds[0])
        os.close(fds[1])


def test_direct_descriptors(ring, tmp_path):
    """Open into a given slot of the table of registered files, and into any slot; then make an ordinary fd."""
    assert lib.io_uring_register_files_sparse(ring.ring, 4) == 0
    path = tmp_path / "one"
    path.write_bytes(b"content")
    name = ffi.from_buffer(bytes(path) + b"\0")
    assert ring.do(lib.io_uring_prep_open_direct, name, os.O_RDONLY, 0, 2) == 0
    fd = ring.do(lib.io_uring_prep_fixed_fd_install, 2, 0)
    assert os.read(fd, 10) == b"content"
    assert not os.get_inheritable(fd)
    os.close(fd)
    slot = ring.do(lib.io_uring_prep_open_direct, name, os.O_RDONLY, 0, lib.IORING_FILE_INDEX_ALLOC)
    assert slot in (0, 1, 3)
    fds = ffi.new("int[2]")
    assert ring.do(lib.io_uring_prep_pipe_direct, fds, 0, lib.IORING_FILE_INDEX_ALLOC) == 0
    assert sorted([slot, *fds]) == [0, 1, 3]
    assert [ring.do(lib.io_uring_prep_close_direct, slot) for slot in range(4)] == [0] * 4


def test_each_helper_that_opens_finds_a_free_slot(ring, tmp_path):
    """liburing 2.3 opens an ordinary fd when any slot is requested."""
    assert lib.io_uring_register_files_sparse(ring.ring, 4) == 0
    name = ffi.from_buffer(bytes(tmp_path) + b"\0")
    how = ffi.new("struct open_how *")
    anywhere = lib.IORING_FILE_INDEX_ALLOC
    before = os.listdir("/proc/self/fd")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind("")  # a free abstract address
        listener.listen()
        client.connect(listener.getsockname())
        slots = [
            ring.do(lib.io_uring_prep_openat_direct, lib.AT_FDCWD, name, os.O_RDONLY, 0, anywhere),
            ring.do(lib.io_uring_prep_openat2_direct, lib.AT_FDCWD, name, how, anywhere),
            ring.do(lib.io_uring_prep_socket_direct, socket.AF_UNIX, socket.SOCK_STREAM, 0, anywhere, 0),
            ring.do(lib.io_uring_prep_accept_direct, listener.fileno(), NULL, NULL, 0, anywhere),
        ]
    assert os.listdir("/proc/self/fd") == before
    assert sorted(slots) == [0, 1, 2, 3]


def test_read_multishot(ring):
    problem, page = ffi.new("int *"), ffi.new("char[]", 64)
    buffers = lib.io_uring_setup_buf_ring(ring.ring, 4, 3, 0, problem)
    assert buffers != NULL, problem[0]
    assert lib.io_uring_buf_ring_available(ring.ring, buffers, 3) in (0, -errno.EINVAL)  # since Linux 6.8
    lib.io_uring_buf_ring_add(buffers, page, 64, 9, lib.io_uring_buf_ring_mask(4), 0)
    lib.io_uring_buf_ring_advance(buffers, 1)
    assert lib.io_uring_buf_ring_available(ring.ring, buffers, 3) in (1, -errno.EINVAL)
    reading, writing = os.pipe()
    try:
        ring.sqe(lib.io_uring_prep_read_multishot, reading, 0, 0, 3)
        os.write(writing, b"some")
        res, flags = ring.harvest()
        if res == -errno.EINVAL:
            pytest.skip("this kernel has no multishot read")
        assert (res, ffi.string(page), flags >> lib.IORING_CQE_BUFFER_SHIFT) == (4, b"some", 9)
        assert flags & lib.IORING_CQE_F_MORE
        assert lib.io_uring_buf_ring_available(ring.ring, buffers, 3) == 0
        os.close(writing)
        writing = -1
        res, flags = ring.harvest()
        assert res in (0, -errno.ENOBUFS)  # at the end of file a kernel may want a buffer first
        assert not flags & lib.IORING_CQE_F_MORE
    finally:
        os.close(reading)
        if writing >= 0:
            os.close(writing)
    assert lib.io_uring_free_buf_ring(ring.ring, buffers, 4, 3) == 0


def test_readv_and_writev_with_registered_buffers(ring, tmp_path):
    memory = ffi.new("char[]", b"abcdefgh")
    vector = ffi.new("struct iovec[2]", [(memory, 2), (memory + 4, 2)])
    whole = ffi.new("struct iovec *", (memory, 8))
    assert lib.io_uring_register_buffers(ring.ring, whole, 1) == 0
    with (tmp_path / "one").open("w+b") as file:
        assert ring.do(lib.io_uring_prep_writev_fixed, file.fileno(), vector, 2, 0, 0, 0) == 4
        assert ring.do(lib.io_uring_prep_readv_fixed, file.fileno(), vector, 2, 2, 0, 0) == 2
    assert ffi.buffer(memory, 8)[:] == b"efcdefgh"
    assert lib.io_uring_unregister_buffers(ring.ring) == 0


def test_bind_and_listen(ring):
    with socket.socket() as listener, socket.socket() as client:
        packed = struct.pack("=H", socket.AF_INET) + struct.pack(">H4s8x", 0, socket.inet_aton("127.0.0.1"))
        address = ffi.from_buffer("struct sockaddr *", packed, require_writable=False)
        assert ring.do(lib.io_uring_prep_bind, listener.fileno(), address, len(packed)) == 0
        assert ring.do(lib.io_uring_prep_listen, listener.fileno(), 3) == 0
        client.connect(listener.getsockname())


def test_sendto(ring):
    with (
        socket.socket(type=socket.SOCK_DGRAM) as receiver,
        socket.socket(type=socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(("127.0.0.1", 0))
        port = receiver.getsockname()[1]
        packed = struct.pack("=H", socket.AF_INET) + struct.pack(
            ">H4s8x", port, socket.inet_aton("127.0.0.1")
        )
        address = ffi.from_buffer("struct sockaddr *", packed, require_writable=False)
        data = ffi.from_buffer(b"datagram")
        if not ring.supports(lib.IORING_OP_SEND_ZC):
            pytest.skip("IORING_OP_SEND takes an address since Linux 6.0")
        assert ring.do(lib.io_uring_prep_sendto, sender.fileno(), data, 8, 0, address, len(packed)) == 8
        assert receiver.recv(20) == b"datagram"


def test_send_bundle(ring):
    """Both buffers of the group go out in one request."""
    if LINUX < (6, 10):  # 6.1 takes the flag for nothing, and sends nothing
        pytest.skip("bundles need Linux 6.10")
    page, problem = ffi.new("char[]", b"firstsecond"), ffi.new("int *")
    buffers = lib.io_uring_setup_buf_ring(ring.ring, 2, 5, 0, problem)
    assert buffers != NULL, problem[0]
    lib.io_uring_buf_ring_add(buffers, page, 5, 0, 1, 0)
    lib.io_uring_buf_ring_add(buffers, page + 5, 6, 1, 1, 1)
    lib.io_uring_buf_ring_advance(buffers, 2)
    with sockets() as (left, right):
        sqe = ring.sqe(lib.io_uring_prep_send_bundle, left.fileno(), 0, 0)
        sqe.flags |= lib.IOSQE_BUFFER_SELECT
        lib.io_uring_sqe_set_buf_group(sqe, 5)
        res, _ = ring.harvest()
        assert (res, right.recv(20)) == (11, b"firstsecond")
    assert lib.io_uring_free_buf_ring(ring.ring, buffers, 2, 5) == 0


def test_sendmsg_zc_fixed(ring):
    memory = ffi.new("char[]", b"registered")
    vector = ffi.new("struct iovec *", (memory, 10))
    message = ffi.new("struct msghdr *", {"msg_iov": vector, "msg_iovlen": 1})
    assert lib.io_uring_register_buffers(ring.ring, vector, 1) == 0
    with socket.socket() as listener, socket.socket() as client:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client.connect(listener.getsockname())
        peer, _ = listener.accept()
        with peer:
            ring.sqe(lib.io_uring_prep_sendmsg_zc_fixed, client.fileno(), message, 0, 0)
            res, flags = ring.harvest()
            if res == -errno.EINVAL:
                pytest.skip("vectored registered sends need Linux 6.15")
            assert (res, peer.recv(20)) == (10, b"registered")
            if flags & lib.IORING_CQE_F_MORE:
                assert ring.harvest()[1] & lib.IORING_CQE_F_NOTIF
    assert lib.io_uring_unregister_buffers(ring.ring) == 0


def test_socket_commands(ring):
    value = ffi.new("int *")
    with sockets() as (left, _):
        # SOCKET_URING_OP_GETSOCKOPT: the length is the result
        args = (left.fileno(), socket.SOL_SOCKET, socket.SO_TYPE, value, 4)
        res = ring.do(lib.io_uring_prep_cmd_sock, 2, *args)
        if res == -errno.EOPNOTSUPP:
            pytest.skip("socket options need Linux 6.7")
        assert (res, value[0]) == (4, socket.SOCK_STREAM)


def test_getsockname(ring):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address, length = ffi.new("struct sockaddr_in *"), ffi.new("socklen_t *", 16)
        args = (listener.fileno(), ffi.cast("struct sockaddr *", address), length, 0)
        res = ring.do(lib.io_uring_prep_cmd_getsockname, *args)
        if res in (-errno.EOPNOTSUPP, -errno.EINVAL):
            pytest.skip("getsockname needs Linux 6.19")
        assert res == 0
        assert socket.ntohs(address.sin_port) == listener.getsockname()[1]


def test_epoll_wait(ring):
    reading, writing = os.pipe()
    with select.epoll() as epoll:
        epoll.register(reading, select.EPOLLIN)
        os.write(writing, b"x")
        events = ffi.new("struct epoll_event[4]")
        assert ring.do(lib.io_uring_prep_epoll_wait, epoll.fileno(), events, 4, 0) == 1
        assert events[0].events == select.EPOLLIN
    os.close(reading)
    os.close(writing)


def test_waitid(ring):
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 3"], os.environ)
    info = ffi.new("siginfo_t *")
    assert ring.do(lib.io_uring_prep_waitid, os.P_PID, pid, info, os.WEXITED, 0) == 0
    assert (info.si_pid, info.si_status, info.si_code) == (pid, 3, os.CLD_EXITED)
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, 0)  # it was reaped


def test_futex(ring):
    """A wait for another value fails at once; a wake ends a wait in flight."""
    word = ffi.new("uint32_t *", 5)
    private_u32 = 0x02 | 0x80  # FUTEX2_SIZE_U32 | FUTEX2_PRIVATE
    anyone = 0xFFFFFFFF
    assert ring.do(lib.io_uring_prep_futex_wait, word, 4, anyone, private_u32, 0) == -errno.EAGAIN
    ring.sqe(lib.io_uring_prep_futex_wait, word, 5, anyone, private_u32, 0)
    ring.sqe(lib.io_uring_prep_futex_wake, word, 1, anyone, private_u32, 0)
    assert sorted([ring.harvest()[0], ring.harvest()[0]]) == [0, 1]


def test_futex_waitv(ring):
    words = ffi.new("uint32_t[2]", [1, 2])
    vector = ffi.new("struct futex_waitv[2]")
    for at in range(2):
        vector[at].uaddr = int(ffi.cast("uintptr_t", words + at))
        vector[at].val = words[at]
        vector[at].flags = 0x02 | 0x80
    ring.sqe(lib.io_uring_prep_futex_waitv, vector, 2, 0)
    assert lib.io_uring_submit(ring.ring) == 1
    if ring.supports(53):  # FUTEX_WAITV
        assert ring.do(lib.io_uring_prep_futex_wake, words + 1, 1, 0xFFFFFFFF, 0x82, 0) == 1
        assert ring.harvest() == (1, 0)  # the index of the word


def test_messages_between_rings(ring):
    other = PlainRing()
    try:
        args = (other.ring.ring_fd, 42, MARK, 0, 1 << 20)
        assert ring.do(lib.io_uring_prep_msg_ring_cqe_flags, *args) in (0, -errno.EINVAL)
        if ring.supports(49):  # anything newer than Linux 6.3, which brought the flags
            assert other.harvest() == (42, 1 << 20)
        assert lib.io_uring_register_files_sparse(other.ring, 3) == 0
        with open(os.devnull) as file:
            files = ffi.new("int[]", [file.fileno()])
            assert lib.io_uring_register_files(ring.ring, files, 1) == 0
        assert ring.do(lib.io_uring_prep_msg_ring_fd, other.ring.ring_fd, 0, 2, MARK, 0) == 0
        assert other.harvest()[0] == 0
        assert other.do(lib.io_uring_prep_close_direct, 2) == 0
        slot = ring.do(lib.io_uring_prep_msg_ring_fd_alloc, other.ring.ring_fd, 0, MARK, 0)
        assert other.harvest()[0] == slot
        assert other.do(lib.io_uring_prep_close_direct, slot) == 0
    finally:
        lib.io_uring_queue_exit(other.ring)


@pytest.mark.parametrize(
    ("name", "opcode"), [("nop128", 63), ("uring_cmd", 46), ("uring_cmd128", 64), ("cmd_discard", 46)]
)
def test_helpers_for_devices_fill_the_sqe(name, opcode):
    args = {"nop128": (), "cmd_discard": (5, 1 << 40, 4096)}.get(name, (17, 5))
    sqe = ffi.new("struct io_uring_sqe *", {"user_data": MARK})
    getattr(lib, "io_uring_prep_" + name)(sqe, *args)
    assert (sqe.opcode, sqe.user_data, sqe.len) == (opcode, MARK, 0)
    if name.startswith("uring_cmd"):
        assert (sqe.cmd_op, sqe.fd) == (17, 5)
    if name == "cmd_discard":
        assert (sqe.cmd_op, sqe.addr, sqe.addr3) == (0x1200, 1 << 40, 4096)


def test_a_length_that_does_not_fit_is_refused():
    """The kernel has 32 bits for it; liburing would send the truncated length."""
    sqe = ffi.new("struct io_uring_sqe *")
    with pytest.raises(OverflowError):
        lib.io_uring_prep_send(sqe, 0, NULL, 1 << 32, 0)


def test_a_ring_grows_and_keeps_its_completions():
    one = PlainRing(lib.IORING_SETUP_SINGLE_ISSUER | lib.IORING_SETUP_DEFER_TASKRUN)
    try:
        fd = one.ring.ring_fd
        one.sqe(lib.io_uring_prep_nop)
        assert lib.io_uring_submit(one.ring) == 1
        params = ffi.new("struct io_uring_params *")
        params.sq_entries, params.cq_entries, params.flags = 64, 512, lib.IORING_SETUP_CQSIZE
        error = lib.io_uring_resize_rings(one.ring, params)
        if error == -errno.EINVAL:
            pytest.skip("rings can be resized since Linux 6.13")
        assert error == 0
        assert one.ring.ring_fd == fd
        assert one.harvest()[0] == 0
        assert lib.io_uring_sq_space_left(one.ring) == 64
        for number in range(64):
            one.sqe(lib.io_uring_prep_nop).user_data = number
        assert lib.io_uring_submit_and_wait(one.ring, 64) == 64
        cqes = ffi.new("struct io_uring_cqe *[64]")
        assert lib.io_uring_peek_batch_cqe(one.ring, cqes, 64) == 64
        assert [cqe.user_data for cqe in cqes] == list(range(64))
    finally:
        lib.io_uring_queue_exit(one.ring)

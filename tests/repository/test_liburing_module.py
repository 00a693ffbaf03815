"""uringloop.liburing.ffi and lib say what the header and the kernel's ABI say."""

import errno
import pathlib
import re
import subprocess
import sys

import pytest

liburing = pytest.importorskip("uringloop.liburing._ffi", reason="this build has no liburing")
ffi, lib = liburing.ffi, liburing.lib

ROOT = pathlib.Path(__file__).parents[2]
HEADER = pathlib.Path("/usr/include/liburing.h")


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("io_uring_sqe", 64),
        ("io_uring_cqe", 16),
        ("io_uring_params", 120),
        ("io_uring_buf", 16),
        ("io_uring_buf_reg", 40),
        ("__kernel_timespec", 16),
        ("open_how", 24),
        ("statx", 256),
    ],
)
def test_a_struct_has_the_size_of_the_abi(name, size):
    assert ffi.sizeof(f"struct {name}") == size


@pytest.mark.parametrize(
    ("field", "offset"),
    [
        ("opcode", 0),
        ("flags", 1),
        ("fd", 4),
        ("off", 8),
        ("addr2", 8),
        ("addr", 16),
        ("len", 24),
        ("msg_flags", 28),
        ("user_data", 32),
        ("buf_group", 40),
        ("file_index", 44),
        ("addr3", 48),
    ],
)
def test_an_sqe_field_is_where_the_abi_has_it(field, offset):
    assert ffi.offsetof("struct io_uring_sqe", field) == offset


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("IORING_OP_NOP", 0),
        ("IORING_OP_SEND_ZC", 47),
        ("IOSQE_CQE_SKIP_SUCCESS", 1 << 6),
        ("IORING_SETUP_DEFER_TASKRUN", 1 << 13),
        ("IORING_CQE_F_MORE", 1 << 1),
        ("IORING_CQE_BUFFER_SHIFT", 16),
        ("IORING_FEAT_NO_IOWAIT", 1 << 17),
        ("AT_FDCWD", -100),
        ("STATX_BASIC_STATS", 0x7FF),
    ],
)
def test_a_constant_has_the_value_of_the_abi(name, value):
    assert getattr(lib, name) == value


def test_a_prep_helper_fills_an_sqe():
    sqe = ffi.new("struct io_uring_sqe *")
    buffer = ffi.new("char[]", 10)
    lib.io_uring_prep_read(sqe, 7, buffer, 10, 4096)
    assert (sqe.opcode, sqe.fd, sqe.len, sqe.off) == (lib.IORING_OP_READ, 7, 10, 4096)
    assert sqe.addr == int(ffi.cast("uintptr_t", buffer))


def test_every_prep_helper_of_the_floor_is_there():
    """Of the header that this was built against, as far as liburing 2.3 has them."""
    if ffi.string(lib.ul_liburing_version) != b"2.3" or not HEADER.exists():
        pytest.skip("not built against liburing 2.3")
    names = set(re.findall(r"^static inline void (io_uring_prep_\w+)\(", HEADER.read_text(), re.MULTILINE))
    assert len(names) > 60
    assert sorted(name for name in names if not hasattr(lib, name)) == []


def test_a_request_goes_through_a_ring():
    ring = ffi.new("struct io_uring *")
    error = lib.io_uring_queue_init(4, ring, 0)
    if error:
        pytest.skip(f"io_uring: {errno.errorcode[-error]}")
    try:
        sqe = lib.io_uring_get_sqe(ring)
        lib.io_uring_prep_nop(sqe)
        sqe.user_data = 77
        assert lib.io_uring_submit_and_wait(ring, 1) == 1
        cqe = ffi.new("struct io_uring_cqe **")
        assert lib.io_uring_peek_cqe(ring, cqe) == 0
        assert (cqe[0].user_data, cqe[0].res) == (77, 0)
        lib.io_uring_cqe_seen(ring, cqe[0])
    finally:
        lib.io_uring_queue_exit(ring)


def test_the_package_exports_them_lazily():
    script = (
        "import sys, uringloop.liburing as package\n"
        "assert 'uringloop.liburing._ffi' not in sys.modules\n"
        "from uringloop.liburing import ffi, lib\n"
        "assert package.lib is lib and ffi.sizeof('struct io_uring_sqe') == 64\n"
        "assert {'ffi', 'lib'} <= set(dir(package))\n"
        "assert not hasattr(package, 'nothing')\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def test_a_build_without_liburing_explains_itself():
    script = (
        "import sys\n"
        "import uringloop.liburing as package\n"
        "sys.modules['uringloop.liburing._ffi'] = None\n"  # importing it raises ModuleNotFoundError
        "try:\n"
        "    package.lib\n"
        "except ImportError as error:\n"
        "    assert 'liburing-dev' in str(error), error\n"
        "else:\n"
        "    raise SystemExit('no error')\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)

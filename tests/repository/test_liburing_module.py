"""uringloop.liburing.ffi and lib agree with the header and the kernel's ABI."""

import errno
import os
import pathlib
import re
import runpy
import shutil
import subprocess
import sys

import pytest
from cffi import FFI

liburing = pytest.importorskip("uringloop.liburing._ffi", reason="this build has no liburing")
ffi, lib = liburing.ffi, liburing.lib

ROOT = pathlib.Path(__file__).parents[2]


def build_ffi():
    """The names of build_ffi.py, which the package does not import."""
    return runpy.run_path(str(ROOT / "uringloop" / "liburing" / "build_ffi.py"))


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
def test_an_sqe_field_has_the_offset_of_the_abi(field, offset):
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


def unsigned_parameters():
    """(name of a function, position, bits) of each unsigned parameter of a prep helper."""
    found = []
    for name in sorted(vars_of_lib("io_uring_prep_")):
        for position, kind in enumerate(ffi.typeof(getattr(lib, name)).args):
            if kind.kind == "primitive" and int(ffi.cast(kind, -1)) > 0:
                found.append((name, position, 8 * ffi.sizeof(kind)))
    return found


def vars_of_lib(prefix):
    return [name for name in dir(lib) if name.startswith(prefix)]


def filled_by(name, position, value):
    """The bytes of an SQE filled by the helper, with `value` for one of its parameters."""
    sqe = ffi.new("struct io_uring_sqe *")
    kinds = ffi.typeof(getattr(lib, name)).args
    arguments = [ffi.NULL if kind.kind == "pointer" else 0 for kind in kinds]
    arguments[[kind.cname for kind in kinds].index("struct io_uring_sqe *")] = sqe
    arguments[position] = value
    getattr(lib, name)(*arguments)
    return ffi.unpack(ffi.cast("uint64_t *", sqe), 8)


@pytest.mark.parametrize(("name", "position", "bits"), unsigned_parameters())
def test_an_unsigned_parameter_takes_negative_numbers_as_c_does(name, position, bits):
    for value in (-1, -2, -(2 ** (bits - 1))):
        assert filled_by(name, position, value) == filled_by(name, position, value % 2**bits)
    for value in (-(2 ** (bits - 1)) - 1, 2**bits, -(2**64), 2**70):
        with pytest.raises(OverflowError):
            filled_by(name, position, value)


def test_there_are_unsigned_parameters():
    assert len(unsigned_parameters()) > 100
    assert ("io_uring_prep_read", 4, 64) in unsigned_parameters()


@pytest.mark.parametrize("value", ["-1", -1.0, None, b"x"], ids=repr)
def test_an_unsigned_parameter_takes_integers_only(value):
    with pytest.raises(TypeError):
        filled_by("io_uring_prep_read", 4, value)


def test_an_unsigned_parameter_takes_integer_like_objects():
    class Index:
        def __index__(self):
            return -1

        __int__ = __index__

    expected = filled_by("io_uring_prep_read", 4, -1)
    for value in (Index(), ffi.cast("int", -1), ffi.cast("int64_t", -1), 2**64 - 1):
        assert filled_by("io_uring_prep_read", 4, value) == expected
    assert filled_by("io_uring_prep_read", 4, True) == filled_by("io_uring_prep_read", 4, 1)


def built_against():
    """The header of this build; skips if another version, or none, is installed."""
    pkg_config = shutil.which(os.environ.get("PKG_CONFIG", "pkg-config"))
    if pkg_config is None:
        pytest.skip("no pkg-config")
    version, folder = [
        subprocess.run(
            [pkg_config, *what, "liburing"], capture_output=True, text=True, check=False
        ).stdout.strip()
        for what in (["--modversion"], ["--variable=includedir"])
    ]
    header = pathlib.Path(folder or "/usr/include") / "liburing.h"
    if version != ffi.string(lib.ul_liburing_version).decode() or not header.exists():
        pytest.skip("built against another liburing than the installed one")
    return header


def test_every_prep_helper_of_the_installed_header_exists():
    names = set(re.findall(r"\b(io_uring_prep_\w+)\(", built_against().read_text()))
    assert len(names) > 70
    assert sorted(name for name in names if not hasattr(lib, name)) == []


def test_every_build_has_the_prep_helpers_of_our_table():
    """Those of liburing 2.15, whatever the header has; missing ones are implemented here, by the ABI."""
    names = [name for name in build_ffi()["declared"]() if name.startswith("io_uring_prep_")]
    assert len(names) == 103
    assert sorted(name for name in names if not hasattr(lib, name)) == []


def test_a_helper_of_a_newer_header_is_declared_as_in_that_header():
    """An invented header: a known helper, an unknown one, and one with a parameter of an unknown type."""
    builder, builders = FFI(), build_ffi()
    builder.cdef(builders["base_declarations"]())
    text = """
        static inline void io_uring_prep_nop(struct io_uring_sqe *sqe) { }
        static inline void io_uring_prep_dream(struct io_uring_sqe *sqe, int fd,
                                               const struct dream *what) { io_uring_prep_rw(1, sqe, fd); }
        static inline void io_uring_prep_odd(struct io_uring_sqe *sqe, __odd_t what) { }
    """
    builders["unknown_to_us"](builder, text)
    found = [name for name in builder._parser._declarations if "io_uring_prep" in name]
    assert found == ["function io_uring_prep_dream"]


def test_helpers_that_a_header_lacks_or_gets_wrong_are_replaced():
    builders = build_ffi()
    everything = " ".join([*builders["declared"](), *builders["numbers"]()])
    wrong = [f"#define UL_LACKS_{name} 1" for name in builders["WRONG_BEFORE"]]
    substitutes = builders["substitutes"]
    assert [line for line in substitutes(everything, "2.3") if "LACKS" in line] == wrong
    assert substitutes(everything, "2.15") == substitutes(everything, "2.8") == []
    assert substitutes(everything, "2.7") == [
        "#define UL_LACKS_io_uring_prep_read_multishot 1",
        "#define io_uring_prep_read_multishot ul_io_uring_prep_read_multishot",
    ]
    less = everything.replace("io_uring_prep_nop ", "").replace("IORING_OP_PIPE ", "")
    assert substitutes(less, "2.15") == ["#define UL_LACKS_io_uring_prep_nop 1", "#define IORING_OP_PIPE 62U"]


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


def test_the_package_exports_ffi_and_lib_lazily():
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

"""uringloop.liburing.ffi and lib agree with the header and the kernel's ABI."""

import errno
import pathlib
import re
import subprocess
import sys

import pytest
from cffi import FFI

liburing = pytest.importorskip("uringloop.liburing._ffi", reason="this build has no liburing")
ffi, lib = liburing.ffi, liburing.lib

ROOT = pathlib.Path(__file__).parents[2]
sys.path.append(str(ROOT))

from building import ffi as build
from building import liburing as copy


def header():
    """The text of the copy's header, as the compiler sees it."""
    return build.header_text(copy.flags().extra_compile_args)


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


def test_every_prep_helper_of_the_header_exists():
    names = set(re.findall(r"\b(io_uring_prep_\w+)\(", (copy.COPY / "src/include/liburing.h").read_text()))
    assert len(names) == 103
    assert sorted(name for name in names if not hasattr(lib, name)) == []


def test_every_declared_function_exists():
    declared = build.declared(header())
    assert len(declared) > 170
    assert sorted(name for name in declared if not hasattr(lib, name)) == []


def test_the_version_is_the_copys():
    if copy.is_system():
        pytest.skip("built with the system's liburing")
    assert ffi.string(lib.ul_liburing_version) == copy.SYSTEM_FLOOR.encode()
    assert lib.UL_LIBURING_IS_STATIC == 1
    assert f"liburing {copy.SYSTEM_FLOOR}" in (ROOT / "third_party/README.md").read_text()


def test_a_helper_of_a_newer_header_is_declared_as_in_that_header(capsys):
    """An invented header: a helper with a parameter of an unknown struct, and one that cffi cannot read."""
    builder = FFI()
    builder.cdef(build.base_declarations())
    text = """
        #define io_uring_prep_macro(sqe) io_uring_prep_nop(sqe);
        static inline void io_uring_prep_dream(struct io_uring_sqe *sqe, int fd,
                                               const struct dream *what, size_t length)
        {
            return io_uring_prep_rw(1, sqe, fd);
        }
        static inline void io_uring_prep_odd(struct io_uring_sqe *sqe, __odd_t what) { }
    """
    found = {name: one for name, one in build.functions(text).items() if name.startswith("io_uring_prep_")}
    assert found["io_uring_prep_dream"] == (
        "void io_uring_prep_dream(struct io_uring_sqe *sqe, int fd, const struct dream *what, __u32 length);"
    )
    build.declare(builder, found)
    names = [name for name in builder._parser._declarations if "io_uring_prep" in name]
    assert names == ["function io_uring_prep_dream"]
    assert "io_uring_prep_odd is new in this liburing and left out" in capsys.readouterr().err


def test_numbers_that_a_header_lacks_are_defined():
    text = " ".join(build.numbers())
    assert build.missing_numbers(text) == ""
    assert build.missing_numbers(text.replace("IORING_OP_PIPE ", "")) == "#define IORING_OP_PIPE 62U\n"


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
        "    assert 'URINGLOOP_WITHOUT_LIBURING' in str(error), error\n"
        "else:\n"
        "    raise SystemExit('no error')\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)

"""The enums: generated, in agreement with the header, and the same on every build."""

import ast
import copy
import pathlib
import pickle
import re
import runpy

import pytest

import uringloop.liburing as package
from uringloop.liburing import CqeFlag, Feature, Op, SetupFlag, SqeFlag, TimeoutFlag, enums

ROOT = pathlib.Path(__file__).parents[2]
ALL = [getattr(enums, name) for name in enums.__all__]
MEMBERS = [member for enum in ALL for member in enum]


def same_code(path, generator):
    """Whether the file is what its generator writes, apart from formatting."""
    written = runpy.run_path(str(ROOT / "tools" / generator))["generate"]()
    return ast.dump(ast.parse((ROOT / path).read_text())) == ast.dump(ast.parse(written))


def test_the_enums_are_what_their_generator_writes():
    assert same_code("uringloop/liburing/enums.py", "liburing_enums.py"), (
        "python tools/liburing_enums.py > uringloop/liburing/enums.py && ruff format uringloop"
    )


def test_the_numbers_of_compiled_modules_are_what_their_generator_writes():
    written = runpy.run_path(str(ROOT / "tools" / "liburing_enums.py"))["generate_numbers"]()
    assert (ROOT / "uringloop/liburing/numbers.pxd").read_text() == written, (
        "python tools/liburing_enums.py numbers > uringloop/liburing/numbers.pxd"
    )


def test_no_module_has_numbers_of_its_own():
    """No line such as `OP_READ = 22`; numbers that are not the kernel's have other names, or are 255."""
    numbers = (ROOT / "uringloop/liburing/numbers.pxd").read_text()
    names = {line.split()[0] for line in numbers.splitlines() if " = " in line}
    found = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in (ROOT / "uringloop").rglob("*.p[yx][xd]")
        if path.name != "numbers.pxd"
        for name in re.findall(r"^\s+(?:IORING_)?(\w+) = [\d<x ]+", path.read_text(), re.MULTILINE)
        if name in names
    ]
    assert not found


def test_the_stub_is_what_its_generator_writes():
    assert same_code("uringloop/liburing/_ffi.pyi", "liburing_stub.py"), (
        "python tools/liburing_stub.py > uringloop/liburing/_ffi.pyi"
    )


def test_the_package_exports_all_enums():
    assert set(package.__all__) == {*enums.__all__, "Probe", "probe", "ffi", "lib"}
    assert all(getattr(package, name) is getattr(enums, name) for name in enums.__all__)
    stub = ast.parse((ROOT / "uringloop" / "liburing" / "__init__.pyi").read_text())
    assert {alias.name for node in stub.body[:-1] for alias in node.names} == set(package.__all__)


def test_each_member_has_the_number_of_the_header():
    """The header of this build; where it lacks a number, cffi has the table's."""
    lib = pytest.importorskip("uringloop.liburing._ffi", reason="this build has no liburing").lib
    assert {member.c_name: int(member) for member in MEMBERS} == {
        member.c_name: getattr(lib, member.c_name) for member in MEMBERS
    }


def test_no_number_of_the_header_is_missing():
    """All its IORING_OP_*, IOSQE_*, IORING_SETUP_*, IORING_FEAT_* and so on that are for users."""
    text = (ROOT / "third_party/liburing/src/include/liburing/io_uring.h").read_text()
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    names = re.findall(r"^#\s*define\s+(IO\w+)\s+\S", text, re.MULTILINE)
    names += re.findall(r"^\s*(IO\w+|SOCKET_URING_OP_\w+)\s*(?:=[^,\n]*)?,\s*$", text, re.MULTILINE)
    internal = (
        r"_(BIT|LAST|MASK|SHIFT)$|^IORING_(OFF|MEM_REGION|REG_WAIT|RESTRICTION|ZCRX|RSRC|NOTIF|RW_ATTR)_"
    )
    internal += r"|^IORING_(FILE_INDEX_ALLOC|CQE_F_TSTAMP_HW|REGISTER_(SRC|DST|USE)_\w+|REGISTER_FILES_SKIP)$"
    internal += r"|^IO_(WQ|URING)_"
    known = {member.c_name for member in MEMBERS}
    assert len(names) > 150
    assert [name for name in names if name not in known and not re.search(internal, name)] == []


def test_the_text_of_the_table_is_well_formed():
    assert len(Op) >= 65
    assert [int(op) for op in Op] == list(range(len(Op)))
    for member in MEMBERS:
        assert re.fullmatch(r"[5-9]\.\d+", member.since), member
    names = [member.c_name for member in MEMBERS]
    assert len(set(names)) == len(names)
    assert [int(op) for op in sorted(Op, key=lambda op: (enums.version(op.since), op))] == list(
        range(len(Op))
    )


@pytest.mark.parametrize(
    ("member", "number", "since"),
    [
        (Op.NOP, 0, "5.1"),
        (Op.SENDMSG_ZC, 48, "6.1"),
        (Op.WAITID, 50, "6.7"),
        (Op.FTRUNCATE, 55, "6.9"),
        (Op.PIPE, 62, "6.16"),
        (SqeFlag.CQE_SKIP_SUCCESS, 1 << 6, "5.17"),
        (SetupFlag.DEFER_TASKRUN, 1 << 13, "6.1"),
        (Feature.NO_IOWAIT, 1 << 17, "6.15"),
        (CqeFlag.BUF_MORE, 1 << 4, "6.12"),
        (TimeoutFlag.LINK_UPDATE, 1 << 4, "5.15"),
    ],
)
def test_a_member_has_its_number_and_its_kernel(member, number, since):
    assert (int(member), member.since) == (number, since)


def test_combined_flags_are_as_new_as_the_newest():
    both = SetupFlag.SINGLE_ISSUER | SetupFlag.TASKRUN_FLAG
    assert both.since == "6.0"
    assert both.c_name == "IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SINGLE_ISSUER"
    assert SetupFlag(0).since == ""


def test_unknown_flags_are_kept():
    unknown = Feature(1 << 30 | Feature.NODROP)
    assert int(unknown) == 1 << 30 | 2
    assert Feature.NODROP in unknown
    assert unknown.since == "5.5"


def test_members_can_be_copied_and_pickled():
    for member in (Op.WAITID, SetupFlag.SQPOLL | SetupFlag.SQ_AFF):
        assert pickle.loads(pickle.dumps(member)) is member
        assert copy.deepcopy(member) is member

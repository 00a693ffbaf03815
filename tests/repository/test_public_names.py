"""What `import uringloop` offers: these names, all of them documented, and nothing by accident."""

import inspect
import subprocess
import sys

import pytest

import uringloop

ALWAYS = {"Loop", "MonitorUnavailable", "SqeNotSupported", "UringLoopError", "__version__"}
ALWAYS |= {"allow_nested", "disallow_nested", "new_event_loop", "run"}
WHILE_THERE_ARE_POLICIES = {"EventLoopPolicy", "install"}
EXPECTED = ALWAYS | (WHILE_THERE_ARE_POLICIES if sys.version_info < (3, 16) else set())

# What a Loop has beyond asyncio.AbstractEventLoop.
OF_A_LOOP = {"fdmon", "fdmon_reason", "statistics", "aio_context"}
OF_A_LOOP |= {"add_sqe", "add_sqes", "supports_sqe", "register_buffers", "register_files"}


def test_the_public_names_are_these():
    assert set(uringloop.__all__) == EXPECTED
    assert len(uringloop.__all__) == len(EXPECTED)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_public_name_is_there_and_documented(name):
    value = getattr(uringloop, name)
    if name != "__version__":
        assert inspect.getdoc(value)


LAZY = {"AioContext", "BottomHalf", "EventNotifier", "PollHandler", "Statistics", "files", "open"}
LAZY |= {"ContextRequest", "Cqe", "FIRST_RESERVED_GROUP", "RawRequest"}


def test_dir_shows_what_is_made_on_first_use():
    script = f"import uringloop; assert {EXPECTED | LAZY!r} <= set(dir(uringloop))"
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)


@pytest.mark.parametrize("name", sorted(LAZY))
def test_what_is_made_on_first_use_is_there(name):
    assert getattr(uringloop, name) is not None


def test_what_a_build_has_not_is_an_attribute_error():
    """inspect.getmembers() and others read each name of dir()."""
    script = (
        "import sys, uringloop\n"
        "sys.modules['uringloop.requests.awaiting'] = None\n"
        "try:\n"
        "    uringloop.RawRequest\n"
        "except AttributeError as error:\n"
        "    assert 'no liburing' in str(error)\n"
        "else:\n"
        "    raise AssertionError\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)


def test_star_import_gives_exactly_them():
    names = {}
    exec("from uringloop import *", names)
    assert set(names) - {"__builtins__"} == EXPECTED


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        uringloop.nothing  # noqa: B018


@pytest.mark.parametrize("name", sorted(OF_A_LOOP))
def test_a_loop_has_what_asyncio_has_not(name):
    assert hasattr(uringloop.Loop, name)


def test_importing_changes_nothing():
    """No patching, no policy, no ring, no cffi."""
    script = (
        "import asyncio, os, sys\n"
        "fds = os.listdir('/proc/self/fd')\n"
        "before = {name: id(value) for name, value in vars(asyncio).items()}\n"
        "import uringloop\n"
        "after = {name: id(value) for name, value in vars(asyncio).items() if name in before}\n"
        "assert before == after\n"
        "assert os.listdir('/proc/self/fd') == fds\n"
        "assert not {'uringloop.liburing._ffi', 'cffi', '_cffi_backend'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)


def test_files_are_there_on_first_use():
    assert uringloop.open is uringloop.files.open
    assert "open" not in uringloop.__all__  # `import *` would hide the builtin
    for name in uringloop.files.__all__:
        assert inspect.getdoc(getattr(uringloop.files, name))

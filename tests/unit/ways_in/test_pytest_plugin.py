"""`pytest -p uringloop.pytest` runs any asyncio test suite on uringloop."""

import re
import sys

import pytest

SUITE = """
import asyncio, os, unittest
import pytest

def check():
    loop = asyncio.get_running_loop()
    assert type(loop).__module__ == "uringloop.eventloop.loop"
    assert os.environ.get("URINGLOOP_FDMON") in (None, loop.fdmon)

async def checking():
    check()

def test_a_run():
    asyncio.run(checking())

@pytest.mark.asyncio
async def test_of_pytest_asyncio():
    check()

@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_of_anyio():
    check()

class Case(unittest.IsolatedAsyncioTestCase):
    async def test_of_unittest(self):
        check()
"""

NAMES = ["test_a_run", "test_of_pytest_asyncio", "test_of_anyio[asyncio]", "Case::test_of_unittest"]
SCOPE = (
    "asyncio_default_fixture_loop_scope=function"  # without it pytest-asyncio warns, which is an error here
)
TEST = ("-m", "pytest", "-p", "no:cacheprovider", "-v", "-o", SCOPE, "test_suite.py")
PLUGIN = (*TEST, "-p", "uringloop.pytest")


@pytest.fixture
def suite(python):
    python.write("test_suite.py", SUITE)
    return python


def header(done):
    return re.search(r"^uringloop: (.*)$", done.stdout, re.MULTILINE)[1]


def test_without_the_plugin_the_suite_fails(suite):
    done = suite.run(*TEST)
    assert done.returncode == 1
    assert "4 failed" in done.stdout
    assert "uringloop: " not in done.stdout


def test_every_kind_of_test_runs_on_uringloop(suite):
    done = suite.run(*PLUGIN)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert re.findall(r"^test_suite\.py::(\S+) PASSED", done.stdout, re.MULTILINE) == NAMES


@pytest.mark.parametrize("fdmon", ["epoll", "poll"])
def test_the_monitor_can_be_chosen_and_is_in_the_header(suite, fdmon):
    done = suite.run(*PLUGIN, f"--uringloop-fdmon={fdmon}")
    assert "4 passed" in done.stdout
    assert header(done).endswith(f", {fdmon} ({fdmon} was requested by URINGLOOP_FDMON={fdmon})")


def test_processes_of_xdist_are_on_uringloop(suite):
    pytest.importorskip("xdist")
    assert "4 passed" in suite.run(*PLUGIN, "-n", "1", "--uringloop-fdmon=poll").stdout


def test_an_unknown_monitor_is_a_usage_error(suite):
    done = suite.run(*PLUGIN, "--uringloop-fdmon=select")
    assert done.returncode == 4
    assert "argument --uringloop-fdmon: invalid choice: 'select'" in done.stderr
    done = suite.run(*PLUGIN, URINGLOOP_FDMON="select")
    assert done.returncode == 4
    assert done.stderr.startswith("ERROR: uringloop: URINGLOOP_FDMON must be one of")


def test_a_loop_that_conftest_makes_is_uringloops(suite):
    source = "import asyncio\nloop = asyncio.new_event_loop()\nloop.close()\n"
    suite.write("conftest.py", source + "assert type(loop).__module__ == 'uringloop.eventloop.loop'\n")
    assert "4 passed" in suite.run(*PLUGIN).stdout


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="asyncio.DefaultEventLoopPolicy warns")
def test_a_policy_that_hides_uringloop_is_in_the_header(suite):
    suite.write(
        "early.py",
        "import asyncio\n"
        "class Own(asyncio.DefaultEventLoopPolicy):\n"
        "    _loop_factory = asyncio.SelectorEventLoop\n"
        "asyncio.set_event_loop_policy(Own())\n",
    )
    done = suite.run(*TEST, "-p", "early", "-p", "uringloop.pytest")
    assert header(done).endswith(", not the default: the event-loop policy makes _UnixSelectorEventLoop")


def test_conftest_may_name_the_plugin(suite):
    suite.write("conftest.py", "pytest_plugins = ['uringloop.pytest']\n")
    done = suite.run(*TEST)
    assert "4 passed" in done.stdout
    assert header(done)


def test_a_suite_that_chooses_a_loop_keeps_it(suite):
    suite.write(
        "conftest.py",
        "import asyncio\n"
        "def pytest_asyncio_loop_factories(config, item):\n"
        "    return {'own': asyncio.SelectorEventLoop}\n",
    )
    done = suite.run(*PLUGIN, "-k", "pytest_asyncio")
    assert "1 failed" in done.stdout

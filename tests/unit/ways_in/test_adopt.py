"""uringloop as asyncio's default, and as what `import uvloop` finds (uringloop.adopt, URINGLOOP_AS, the .pth)."""

import subprocess
import sys
import textwrap

import pytest

WAYS = {
    "function": ("from _uringloop_startup import make_default, provide_uvloop\n{call}()\n", {}),
    "variable": ("", {"URINGLOOP_AS": "{name}"}),
}

KIND = """
async def kind():
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]
"""


@pytest.fixture(params=WAYS)
def adopted(request, python):
    """adopted("asyncio", source): what a process prints that has called the function, or has the variable."""

    def run(name, source):
        prelude, variables = WAYS[request.param]
        calls = {"asyncio": "make_default", "uvloop": "provide_uvloop"}
        variables = {key: value.format(name=name) for key, value in variables.items()}
        return python.script(prelude.format(call=calls[name]) + source, **variables).split()

    return run


# asyncio's default


def test_asyncio_makes_uringloops_loops(adopted):
    source = (
        "import asyncio\n"
        + KIND
        + """
print(asyncio.run(kind()))
with asyncio.Runner() as runner:
    print(runner.run(kind()))
for new in (asyncio.new_event_loop, asyncio.events.new_event_loop):
    loop = new()
    print(loop.run_until_complete(kind()))
    loop.close()
"""
    )
    assert adopted("asyncio", source) == ["uringloop"] * 4


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="get_event_loop() makes no loop there")
def test_get_event_loop_makes_one(adopted):
    source = """
import asyncio, warnings
warnings.simplefilter("ignore", DeprecationWarning)
loop = asyncio.get_event_loop()
print(type(loop).__module__)
loop.close()
"""
    assert adopted("asyncio", source) == ["uringloop.eventloop.loop"]


def test_uringloop_is_imported_with_the_first_loop(adopted):
    source = """
import sys
print("asyncio" in sys.modules)
import asyncio
print("uringloop" in sys.modules, asyncio.__loader__ is asyncio.__spec__.loader, type(asyncio.__loader__).__name__)
asyncio.new_event_loop().close()
print("uringloop" in sys.modules)
"""
    assert adopted("asyncio", source) == ["False", "False", "True", "SourceFileLoader", "True"]


def test_an_imported_asyncio_is_changed_at_once(python):
    source = (
        "import asyncio, uringloop.adopt\nuringloop.adopt.make_default()\n"
        + KIND
        + "print(asyncio.run(kind()))"
    )
    assert python.script(source) == "uringloop\n"


@pytest.mark.skipif(sys.version_info >= (3, 16), reason="no policies")
def test_policies_that_derive_from_asyncios_default_follow(adopted):
    source = (
        "import asyncio, warnings\nwarnings.simplefilter('ignore', DeprecationWarning)\n"
        + KIND
        + """
class Own(asyncio.DefaultEventLoopPolicy):
    pass

asyncio.set_event_loop_policy(Own())
print(asyncio.run(kind()))
asyncio.set_event_loop_policy(None)
print(asyncio.run(kind()))
print(type(asyncio.get_event_loop_policy()).__module__)
"""
    )
    assert adopted("asyncio", source) == ["uringloop", "uringloop", "asyncio.unix_events"]


def test_what_a_program_chooses_is_not_changed(adopted):
    source = (
        "import asyncio\n"
        + KIND
        + """
with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
    print(runner.run(kind()))
if hasattr(asyncio.events, "_BaseDefaultEventLoopPolicy"):
    base, install = asyncio.events._BaseDefaultEventLoopPolicy, asyncio.events._set_event_loop_policy
elif hasattr(asyncio.events, "BaseDefaultEventLoopPolicy"):
    base, install = asyncio.events.BaseDefaultEventLoopPolicy, asyncio.set_event_loop_policy
else:
    print("asyncio")
    raise SystemExit

class Own(base):
    _loop_factory = asyncio.SelectorEventLoop

install(Own())
print(asyncio.run(kind()))
"""
    )
    assert adopted("asyncio", source) == ["asyncio", "asyncio"]


def test_without_policies_the_function_is_replaced(python):
    """As in Python 3.16, where asyncio.Runner calls asyncio.events.new_event_loop(), too."""
    source = (
        "import asyncio\nfrom asyncio import unix_events\ndel unix_events._UnixDefaultEventLoopPolicy\n"
        "from _uringloop_startup import make_default\nmake_default()\n"
        + KIND
        + "print(asyncio.run(kind()))\nloop = asyncio.new_event_loop()\nprint(type(loop).__name__)\nloop.close()"
    )
    assert python.script(source).split() == ["uringloop", "Loop"]


# uvloop


def test_the_names_of_uvloop(adopted):
    source = """
import uringloop, uvloop
print(uvloop.Loop is uringloop.Loop, uvloop.run is uringloop.run, uvloop.new_event_loop is uringloop.new_event_loop)
print(*uvloop.__all__, uvloop.loop.Loop is uringloop.Loop, hasattr(uvloop, "nothing"))
from uvloop.loop import Loop
"""
    assert adopted("uvloop", source) == ["True"] * 3 + ["new_event_loop", "run", "True", "False"]


@pytest.mark.skipif(sys.version_info >= (3, 16), reason="no policies")
def test_install_sets_the_policy(adopted):
    source = (
        "import asyncio, uvloop, warnings\nwarnings.simplefilter('ignore', DeprecationWarning)\n"
        + KIND
        + "uvloop.install()\npolicy = asyncio.get_event_loop_policy()\n"
        + "print(asyncio.run(kind()), type(policy) is uvloop.EventLoopPolicy)"
    )
    assert adopted("uvloop", source) == ["uringloop", "True"]


def test_a_program_that_checks_for_uvloop_finds_it(adopted):
    """Without an import of anything; the version compares as numbers do, and is one that uvloop has had."""
    source = """
import importlib.util, sys
spec = importlib.util.find_spec("uvloop")
print(spec.name, spec.origin, "uringloop" in sys.modules)
import uvloop
print(uvloop.__spec__.name, importlib.util.find_spec("uvloop") is uvloop.__spec__)
print(tuple(map(int, uvloop.__version__.split("."))) >= (0, 21, 0))
"""
    assert adopted("uvloop", source) == ["uvloop", "uringloop", "False", "uvloop", "True", "True"]


def test_asyncios_default_is_not_changed(adopted):
    source = "import asyncio, uvloop\n" + KIND + "print(asyncio.run(kind()))"
    assert adopted("uvloop", source) == ["asyncio"]


def test_an_installed_uvloop_is_hidden(adopted, python):
    python.write("uvloop/__init__.py", "Loop = None\n")
    assert adopted("uvloop", "import uvloop; print(uvloop.Loop.__module__)") == ["uringloop.eventloop.loop"]


def test_an_imported_uvloop_is_refused(python):
    python.write("uvloop.py", "Loop = None\n")
    done = python.run("-c", "import uvloop, uringloop.adopt as adopt; adopt.provide_uvloop()")
    assert "RuntimeError: uvloop is imported already" in done.stderr
    again = "import uringloop.adopt as adopt; adopt.provide_uvloop(); import uvloop; adopt.provide_uvloop()"
    assert python.script(again) == ""


def test_a_failed_import_of_uringloop_is_reported(python):
    """Most programs take an ImportError for an uvloop that is not installed."""
    source = (
        "import sys\nsys.modules['uringloop'] = None\n"
        "try:\n    import uvloop\nexcept ImportError:\n    print('went on')"
    )
    done = python.run("-c", source, URINGLOOP_AS="uvloop")
    assert done.stdout == "went on\n"
    assert done.stderr.startswith("uringloop: `import uvloop` fails: ")
    assert done.stderr.count("\n") == 1


# The variable


def test_both(python):
    source = "import asyncio, uvloop\n" + KIND + "print(asyncio.run(kind()), uvloop.Loop.__module__)"
    assert python.script(source, URINGLOOP_AS=" uvloop, asyncio,") == "uringloop uringloop.eventloop.loop\n"


@pytest.mark.parametrize("variables", [{}, {"URINGLOOP_AS": ""}])
def test_without_the_variable_nothing_is_imported(python, variables):
    source = """
        import importlib.machinery, sys
        print([name for name in sys.modules if "uringloop" in name and "editable" not in name])
        print([finder for finder in sys.meta_path if "_uringloop_startup" in type(finder).__module__])
    """
    assert python.script(source, **variables).split() == ["[]", "[]"]


def test_with_the_variable_hardly_anything_is_imported(python):
    """Each process of that environment pays for it."""
    source = "import sys; print(*sys.modules)"
    before = set(python.script(source).split())
    after = set(python.script(source, URINGLOOP_AS="asyncio,uvloop").split())
    more = {name for name in after - before if name.partition(".")[0] != "importlib"}
    assert "_uringloop_startup" in more
    assert more <= {"_uringloop_startup", "__future__", "warnings"}


def test_an_unknown_value_is_one_line_and_the_process_goes_on(python):
    source = "import asyncio\n" + KIND + "print(asyncio.run(kind()))"
    done = python.run("-c", source, URINGLOOP_AS="trio,asyncio")
    assert (
        done.stderr
        == "uringloop: URINGLOOP_AS=trio is ignored: it must be asyncio or uvloop, or both with a comma\n"
    )
    assert (done.returncode, done.stdout) == (0, "uringloop\n")


def test_a_value_with_control_characters_is_one_line(python):
    done = python.run("-c", "pass", URINGLOOP_AS="a\nb\x1b[2J")
    assert done.stderr.startswith("uringloop: URINGLOOP_AS=a\\nb\\x1b[2J is ignored")
    assert done.stderr.count("\n") == 1


def test_an_unknown_value_ends_no_process_that_cannot_write_it(python):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-c", "print('goes on')"]
        environment = {**python.environment, "URINGLOOP_AS": "trio"}
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=full, text=True, check=False
        )
    assert done.stdout == "goes on\n"


def test_a_finder_that_asks_all_the_others(python):
    source = """
        import sys

        class Asking:
            def find_spec(self, name, path=None, target=None):
                for finder in sys.meta_path:
                    if finder is not self and (spec := finder.find_spec(name, path, target)):
                        return spec
                return None

        sys.meta_path.insert(0, Asking())
        import asyncio
    """
    source = textwrap.dedent(source) + KIND + "print(asyncio.run(kind()))"
    assert python.out("-c", source, URINGLOOP_AS="asyncio") == "uringloop\n"


def test_an_unexpected_error_is_one_line_and_the_process_goes_on(python):
    """An error in a .pth would be a traceback, in each process of that environment."""
    python.write("uvloop.py", "")
    source = "import uvloop\nfrom _uringloop_startup import start; start()\nprint('went on')"
    done = python.run("-S", "-c", f"import sys; sys.path += {sys.path!r}\n" + source, URINGLOOP_AS="uvloop")
    assert done.stderr.startswith("uringloop: URINGLOOP_AS=uvloop is ignored: uvloop is imported already")
    assert done.stderr.count("\n") == 1
    assert done.stdout == "went on\n"


def test_spawned_processes_inherit_it(python):
    path = python.write(
        "spawning.py",
        "import asyncio, multiprocessing, subprocess, sys\n"
        + KIND
        + """
def child():
    print(asyncio.run(kind()), flush=True)

if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=child)
    process.start()
    process.join()
    code = "import asyncio; loop = asyncio.new_event_loop(); print(type(loop).__module__); loop.close()"
    subprocess.run([sys.executable, "-c", code], check=True)
""",
    )
    expected = ["uringloop", "uringloop.eventloop.loop"]
    assert python.out(str(path), URINGLOOP_AS="asyncio").split() == expected

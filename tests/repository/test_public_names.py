"""Public names, those without an underscore, are listed in public_names.toml, and a document names each of them."""

import asyncio
import importlib
import inspect
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import tomllib
import types

import pytest

import uringloop
import uringloop.files
import uringloop.liburing
from repository.documents import ROOT

NAMES = tomllib.loads((pathlib.Path(__file__).parent / "public_names.toml").read_text())
MODULES, CLASSES = NAMES["modules"], NAMES["classes"]

ALWAYS = {"Loop", "MemberEnded", "MonitorUnavailable", "SqeNotSupported", "UringLoopError", "__version__"}
ALWAYS |= {"allow_nested", "disallow_nested", "get_running_loop", "new_event_loop", "run"}
WHILE_THERE_ARE_POLICIES = {"EventLoopPolicy", "install"}
EXPECTED = ALWAYS | (WHILE_THERE_ARE_POLICIES if sys.version_info < (3, 16) else set())

# Names that `import *` leaves out: `open` would hide the builtin; the others are made, or loaded, on first access.
LAZY = {*MODULES["uringloop"]["docs/add-sqe.md"], *MODULES["uringloop"]["docs/aio-context.md"]} - {
    "SqeNotSupported"
}
LAZY |= {*MODULES["uringloop"]["docs/garbage-collection.md"], "Statistics", "files", "open"}
LAZY |= {"Recording", "Snapshot", "Summaries", "log_summaries", "record"}
LAZY |= {"Stall", "StallFrame", "StallWatch", "watch_stalls"}


def find(dotted):
    """The class of "module:Name"; skips without PyGObject."""
    module, _, name = dotted.partition(":")
    if module == "uringloop.glib":
        pytest.importorskip("gi", reason="PyGObject is not installed")
    if module == "uringloop.prometheus":
        pytest.importorskip("prometheus_client")
    if module == "uringloop.opentelemetry":
        pytest.importorskip("opentelemetry.metrics")
    return getattr(importlib.import_module(module), name)


def public(owner):
    return {name for name in dir(owner) if not name.startswith("_")}


def listed(entry):
    """{name: document} of a table of public_names.toml."""
    return {name: document for document, names in entry.items() if document.endswith(".md") for name in names}


def code_of(document):
    """The words in all `code`, indented and fenced blocks of a document."""
    text = (ROOT / document).read_text()
    blocks = re.findall(r"^```.*?^```|^ {4}.*$", text, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return set(re.findall(r"\w+", " ".join([*blocks, *re.findall(r"`[^`]+`", rest)])))


@pytest.fixture(scope="module")
def subjects():
    """{name: object} of classes whose objects get more attributes in Python code."""
    return dict(make_objects())


def make_objects():
    loop = uringloop.new_event_loop(fdmon="poll")
    yield "uringloop:Loop", loop
    with uringloop.gc_policy(loop, freeze=False) as policy:
        yield "uringloop:GcPolicy", policy
    yield "uringloop:GcStatistics", policy.statistics()
    yield "uringloop:GcPauses", policy.statistics().idle
    with uringloop.record(loop) as recording:
        yield "uringloop:Recording", recording
    yield "uringloop:Snapshot", recording.snapshot()
    with uringloop.watch_stalls(loop) as watch:
        yield "uringloop:StallWatch", watch
    frame = uringloop.StallFrame(file="file", line=1, function="function")
    yield "uringloop:StallFrame", frame
    values = {"kind": "task", "name": "name", "where": "", "task": None, "thread": "", "frames": (frame,)}
    yield "uringloop:Stall", uringloop.Stall(began=0.0, seconds=1.0, is_over=True, **values)
    with uringloop.log_summaries(loop=loop) as summaries:
        yield "uringloop:Summaries", summaries
    loop.close()
    with tempfile.TemporaryDirectory() as folder, uringloop.serve_view(f"{folder}/view") as view:
        yield "uringloop:View", view
    context = uringloop.AioContext("poll")
    yield "uringloop:AioContext", context
    yield "uringloop:Statistics", context.statistics()
    context.close()
    probe = uringloop.liburing.Probe(frozenset(), uringloop.liburing.Feature(0), frozenset())
    yield "uringloop.liburing:Probe", probe
    notifier = uringloop.EventNotifier()
    yield "uringloop:EventNotifier", notifier
    notifier.close()
    yield "uringloop:MonitorUnavailable", uringloop.MonitorUnavailable("epoll", 1, "none")
    yield "uringloop:SqeNotSupported", uringloop.SqeNotSupported("epoll", "none")
    yield from uringloop.run(files(), loop_factory=lambda: uringloop.new_event_loop(fdmon="poll"))


async def files():
    found = []
    for kind, mode, buffering in (("RawFile", "rb", 0), ("BufferedFile", "rb", -1), ("TextFile", "r", -1)):
        async with uringloop.open(os.devnull, mode, buffering) as file:
            found.append((f"uringloop.files:{kind}", file))
    scanning = uringloop.files.scandir("/")
    found.append(("uringloop.files:Scanning", scanning))
    await scanning.close()
    folder = uringloop.files.TemporaryDirectory()
    async with folder:
        found.append(("uringloop.files:TemporaryDirectory", folder))
    return found


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_has_the_names_of_asyncios_class_and_the_listed_ones(name, subjects):
    entry = CLASSES[name]
    of_stock = public(find(entry["like"])) if "like" in entry else set()
    ours, names = public(subjects.get(name, find(name))), listed(entry).keys()
    assert ours - of_stock == names - of_stock
    if sys.version_info < (3, 12):  # newer versions of asyncio have some of them
        assert not names & of_stock, "the stock class has these, too"
    assert of_stock - ours == set(entry.get("lacks", ()))
    assert ("lacks" in entry) == ("why" in entry)


def test_a_server_is_asyncios():
    async def kind():
        server = await asyncio.start_server(print, "127.0.0.1", 0)
        server.close()
        return type(server)

    assert uringloop.run(kind()) is asyncio.base_events.Server


@pytest.mark.parametrize("name", MODULES)
def test_a_module_shows_the_listed_names(name):
    if name == "uringloop.glib":
        pytest.importorskip("gi", reason="PyGObject is not installed")
    if name == "uringloop.prometheus":
        pytest.importorskip("prometheus_client")
    if name == "uringloop.opentelemetry":
        pytest.importorskip("opentelemetry.metrics")
    module = importlib.import_module(name)
    names = listed(MODULES[name]).keys()
    if sys.version_info >= (3, 16):
        names -= WHILE_THERE_ARE_POLICIES
    assert public(module) - {"glib", "liburing"} == names - {"glib", "liburing"}
    # modules are attributes of their package as soon as they are imported
    assert {key for key, value in vars(module).items() if key[0] != "_" and not is_ours(value)} <= names


def is_ours(value):
    return isinstance(value, types.ModuleType) and value.__name__.startswith("uringloop.")


@pytest.mark.parametrize(
    ("owner", "name", "document"),
    [
        (owner.rpartition(":")[2], name, document)
        for owner, entry in (MODULES | CLASSES).items()
        for name, document in listed(entry).items()
    ],
)
def test_a_document_names_it(owner, name, document):
    assert name in code_of(document), f"{document} does not name {name} of {owner}"


def test_the_public_names_of_the_package():
    assert set(uringloop.__all__) == EXPECTED
    assert len(uringloop.__all__) == len(EXPECTED)
    assert uringloop.exceptions.__all__ == sorted(listed(MODULES["uringloop.exceptions"]))
    assert set(uringloop.files.__all__) == listed(MODULES["uringloop.files"]).keys()
    assert set(uringloop.liburing.__all__) == listed(MODULES["uringloop.liburing"]).keys()


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_public_name_exists_and_is_documented(name):
    value = getattr(uringloop, name)
    if name != "__version__":
        assert inspect.getdoc(value)


def test_dir_shows_lazy_names():
    script = f"import uringloop; assert {EXPECTED | LAZY!r} <= set(dir(uringloop))"
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)


@pytest.mark.parametrize("name", sorted(LAZY))
def test_lazy_names_exist(name):
    assert getattr(uringloop, name) is not None


def test_names_that_a_build_lacks_raise_attribute_error():
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


def test_star_import_gives_exactly_the_public_names():
    names = {}
    exec("from uringloop import *", names)
    assert set(names) - {"__builtins__"} == EXPECTED


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        uringloop.nothing  # noqa: B018


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


def test_files_are_loaded_on_first_use():
    assert uringloop.open is uringloop.files.open
    assert "open" not in uringloop.__all__  # `import *` would hide the builtin
    for name in uringloop.files.__all__:
        assert inspect.getdoc(getattr(uringloop.files, name))

"""The folders of the package are layers: imports and includes only go down."""

import pathlib
import re
from graphlib import CycleError, TopologicalSorter

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = ROOT / "uringloop"

# Lowest first; a file may import from its own layer and from those below.
LAYERS = {
    "_version": -1,
    "exceptions": -1,
    "support": 0,
    "liburing": 0,
    "uring": 1,
    "fdmon": 2,
    "aio": 3,
    "requests": 4,
    "transports": 5,
    "aiocontext": 5,
    "eventloop": 6,
    "files": 7,
    "glib": 7,
    "policy": 8,
    "gcpolicy": 9,
    "adopt": 8,
    "group": 9,
    "observing": 9,
    "gunicorn": 8,
    "_frozen": 10,  # names all of them, and runs nothing
    "__init__": 10,
    "opentelemetry": 10,
    "prometheus": 10,
    "pytest": 10,
    "command": 11,
    "__main__": 12,
}

# Intended exceptions, and the reasons.
ALLOWED = {
    ("uringloop/policy.py", "uringloop"): "inside a function, for the lazily made policy class",
}

STATEMENT = re.compile(
    r"^\s*(?:from\s+(?P<source>[.\w]+)\s+c?import\s+(?P<names>\([^)]*\)|[^\n#]+)|c?import\s+(?P<whole>[\w.]+))",
    re.MULTILINE,
)

FILES = sorted(
    path
    for path in PACKAGE.rglob("*")
    if path.suffix in (".py", ".pyi", ".pyx", ".pxd", ".h") and path.is_file()
)

# The name of a header is relative to the file that includes it.
HEADER = re.compile(r'^\s*(?:cdef extern from|#\s*include)\s+"(?P<header>[\w./]+)"', re.MULTILINE)


def name(path):
    return str(path.relative_to(ROOT))


def module_of(path):
    """("uringloop", "fdmon", "base") of uringloop/fdmon/base.pyx; a package ends with "__init__"."""
    return path.relative_to(ROOT).with_suffix("").parts


def resolve(path, source):
    """The absolute module name for `from source import ...` in this file; None outside of the package."""
    dots = len(source) - len(source.lstrip("."))
    if dots == 0:
        return source if source.split(".")[0] == "uringloop" else None
    parts = module_of(path)[:-1]
    base = parts[: len(parts) - (dots - 1)]
    return ".".join([*base, *filter(None, source[dots:].split("."))])


def imports(path, text=None):
    """All modules of the package that the file imports, at any depth of indentation."""
    text = re.sub(r'""".*?"""', "", path.read_text() if text is None else text, flags=re.DOTALL)
    for found in STATEMENT.finditer(text):
        target = resolve(path, found["source"] or found["whole"])
        if target is None:
            continue
        imported = re.findall(r"\w+", re.sub(r"\bas\s+\w+|#[^\n]*", "", found["names"] or ""))
        submodules = [name for name in imported if is_module(f"{target}.{name}")]
        yield from (f"{target}.{name}" for name in submodules)
        if len(submodules) < len(imported) or not imported:
            yield target


def headers(path, text=None):
    """The layers' names of all headers of the package that the file includes."""
    for found in HEADER.finditer(path.read_text() if text is None else text):
        header = path.parent.joinpath(found["header"]).resolve()
        if header.is_relative_to(PACKAGE) and header.exists():
            yield ".".join(header.relative_to(ROOT).with_suffix("").parts)


def is_module(dotted):
    path = ROOT.joinpath(*dotted.split("."))
    return path.is_dir() or any(path.with_suffix(end).exists() for end in (".py", ".pyx", ".pxd"))


def layer(dotted):
    parts = dotted.split(".")
    return LAYERS[parts[1] if len(parts) > 1 else "__init__"]


def test_every_folder_has_a_layer():
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix in (".py", ".pyx")}
    rooms |= {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert sorted(rooms - LAYERS.keys()) == []


def test_imports_go_only_down():
    up = [
        f"{name(path)}: {target}"
        for path in FILES
        for target in sorted({*imports(path), *headers(path)})
        if layer(target) > LAYERS[module_of(path)[1]]
        and (name(path).removesuffix("i"), target) not in ALLOWED
    ]
    assert up == []


def refuse_circles(graph):
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_modules_have_no_import_cycles():
    """A cycle of extension modules only shows when they are imported in the wrong order."""
    graph = {}
    for path in FILES:
        module = ".".join(module_of(path))
        graph.setdefault(module, set()).update(
            target
            for target in imports(path)
            if target != module and (name(path).removesuffix("i"), target) not in ALLOWED
        )
    assert "uringloop.fdmon.base" in refuse_circles(graph)


def test_folders_have_no_import_cycles():
    """A folder's own files are above its sub-folders or below them, not both."""

    def folder(dotted):
        above = dotted if ROOT.joinpath(*dotted.split(".")).is_dir() else dotted.rpartition(".")[0]
        return dotted if above == PACKAGE.name else above  # each file at the top is a layer of its own

    graph = {}
    for path in FILES:
        own = folder(".".join(module_of(path)))
        graph.setdefault(own, set()).update(
            folder(target)
            for target in [*imports(path), *headers(path)]
            if folder(target) != own and (name(path).removesuffix("i"), target) not in ALLOWED
        )
    assert "uringloop.fdmon" in refuse_circles(graph)


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("from .base cimport FDMonitor, FdHandler", ["uringloop.fdmon.base"]),
        ("from ..aio.ready import (\n    ReadyQueue,\n)", ["uringloop.aio.ready"]),
        ("    from ..uring import ring as _ring  # lazily", ["uringloop.uring.ring"]),
        ("from .. import exceptions, run", ["uringloop.exceptions", "uringloop"]),
        ("import uringloop.aio.timers", ["uringloop.aio.timers"]),
        ("from libc.errno cimport EINTR\nimport os", []),
        ('"""\nfrom ..aio.ready import ReadyQueue\n"""', []),
    ],
)
def test_imports_are_found(statement, found):
    assert list(imports(PACKAGE / "fdmon" / "imagined.pyx", statement + "\n")) == found


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ('cdef extern from "../aio/audit.h":', ["uringloop.aio.audit"]),
        ('    """\n    #include "../support/clock.h"\n    """', ["uringloop.support.clock"]),
        ('cdef extern from "Python.h":', []),
        ("#include <poll.h>", []),
    ],
)
def test_included_headers_are_found(statement, found):
    assert list(headers(PACKAGE / "fdmon" / "imagined.pyx", statement + "\n")) == found

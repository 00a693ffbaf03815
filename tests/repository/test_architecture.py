"""docs/architecture.md names files and functions that exist, and every module of the package."""

import re

import pytest

from .documents import ROOT
from .test_layers import LAYERS

DOCUMENT = ROOT / "docs" / "architecture.md"
PACKAGE = ROOT / "uringloop"
TEXT = DOCUMENT.read_text() if DOCUMENT.exists() else ""

# `aio/ready.pyx` or `aio/ready.pyx: ReadyQueue.push`; below uringloop/, else from the root of the repository.
NAMED = re.compile(r"`([\w./]+\.(?:pyx|pxd|py|h|toml|md))(?:: ([\w.]+))?`")


def section(text, title):
    """The text below the heading, up to the next heading of its level."""
    return re.split(r"^## ", text.split(f"\n## {title}\n", 1)[1], flags=re.MULTILINE)[0]


def named_in(text):
    """{(path, name or "")} of everything the text names."""
    return set(NAMED.findall(text))


def path_of(named):
    return next((base / named for base in (PACKAGE, ROOT) if (base / named).is_file()), None)


def body_of_class(source, name):
    """The indented lines below `class NAME`; None if there is no such class."""
    found = re.search(
        rf"^(?:cdef )?class {name}\b[^\n]*(?:\n\):)?((?:\n(?:[ \t][^\n]*|#[^\n]*|\)[^\n]*)?)*)",
        source,
        re.MULTILINE,
    )
    return None if found is None else found[1]


def is_defined(source, name):
    """Whether there is a function, method, class or variable of this name, in Python, Cython or C."""
    owner, _, rest = name.rpartition(".")
    if owner:
        body = body_of_class(source, owner)
        return body is not None and is_defined(body, rest)
    name = re.escape(name)
    return any(
        re.search(pattern, source, re.MULTILINE)
        for pattern in (
            rf"^\s*(?:async )?def {name}\(",  # Python
            rf"^\s*(?:cdef|cpdef) [^(=\n]*\b{name}\(",
            rf"^\s*(?:cdef )?class {name}\b",
            rf"^\s*(?:cdef|static) [^(=\n]*\b{name}\b *(?:[=;\[,]|#|$)",  # variables
            rf"^\s*(?:static (?:inline )?[^(=\n]*|#define ){name}\(",  # functions of C
            rf"^{name}\b[^=\n]*= ",
            rf"^static [^(=\n]*\(\*{name}\)\(",  # a pointer to a function
            rf"^\}} {name};",
        )
    )


def missing_in(text):
    missing = []
    for path, name in sorted(named_in(text)):
        found = path_of(path)
        if found is None or (name and not is_defined(found.read_text(), name)):
            missing.append(f"{path}: {name}" if name else path)
    return missing


def unknown_methods_in(text):
    """Each `Class.method` without a path, as in the drawing, must be a method of a class of the package."""
    sources = [path.read_text() for path in PACKAGE.rglob("*") if path.suffix in (".py", ".pyx")]
    named = set(re.findall(r"(?<![\w.:/])([A-Z]\w+\.[a-z_]\w*)(?!\.)\b", NAMED.sub("", text)))
    return sorted(name for name in named if not any(is_defined(source, name) for source in sources))


def modules():
    """One file for each module: a header (.pxd) and a stub (.pyi) belong to their module; empty files do not count."""
    for path in sorted(PACKAGE.rglob("*")):
        if path.suffix not in (".py", ".pyx", ".pxd", ".h") or not path.read_text().strip():
            continue
        if path.suffix == ".pxd" and path.with_suffix(".pyx").exists():
            continue
        yield str(path.relative_to(PACKAGE))


def test_everything_the_document_names_exists():
    assert named_in(TEXT)
    assert missing_in(TEXT) == []
    assert unknown_methods_in(TEXT) == []


def test_every_module_is_in_the_table_of_files():
    named = {path for path, _ in named_in(section(TEXT, "Files"))}
    assert sorted(set(modules()) - named) == []


def test_the_table_of_layers_matches_test_layers():
    """Lowest first; layers of the same height in any order."""
    rows = re.findall(r"^\| `(\w+)(?:/|\.py)`", section(TEXT, "Layers"), re.MULTILINE)
    assert sorted(rows) == sorted(LAYERS)
    assert [LAYERS[row] for row in rows] == sorted(LAYERS.values())


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("`aio/context_core.pyx: ContextCore.turn`", []),
        ("`aio/context_core.pyx: turn`, `aio/context_core.pyx`", []),
        ("`aio/context_core.pyx: ReadyQueue.turn`", ["aio/context_core.pyx: ReadyQueue.turn"]),
        ("`aio/context_core.pyx: turned`", ["aio/context_core.pyx: turned"]),
        ("`aio/contexts.pyx`", ["aio/contexts.pyx"]),
        ("`eventloop/loop.py: Loop.close`", []),
        ("`transports/datagram/packets.pyx: ul_receive`", []),
        ("`uring/ring.pyx: spare_rings`", []),
        ("`tests/support/helpers.py: make_loop`", []),
    ],
)
def test_missing_names_are_found(text, missing):
    assert missing_in(text) == missing


def test_missing_methods_without_a_path_are_found():
    assert unknown_methods_in("`Ring.enter`, -> Handle.run, `asyncio.Protocol.data_received`") == []
    assert unknown_methods_in("`Ring.entered` and -> Handle.runs") == ["Handle.runs", "Ring.entered"]

"""Trace points: all of those that docs/observing.md lists are in the modules, or none is."""

import re
from pathlib import Path

import uringloop

ROOT = Path(uringloop.__file__).parent
HEADER = ROOT / "support" / "probes.h"


def names_in_the_modules():
    """As a note says them: the provider, a zero, the name, a zero."""
    found = set()
    for path in ROOT.rglob("*.so"):
        data = path.read_bytes()
        if b"stapsdt" in data:
            found |= set(re.findall(rb"\0uringloop\0(\w+)\0", data))
    return {name.decode() for name in found}


def test_all_are_there_or_none_is():
    defined = set(re.findall(r"UL_PROBE\d\((\w+), \w", HEADER.read_text())) - {"name"}
    assert len(defined) == 10
    in_use = names_in_the_modules()
    if "submit" not in in_use:
        defined -= {"submit", "complete"}  # a build without liburing
    assert in_use in (set(), defined)


def test_the_document_lists_them():
    document = Path(__file__).parents[3] / "docs" / "observing.md"
    section = document.read_text().partition("## Trace points")[2]
    rows = [row.split("|")[1] for row in section.splitlines() if row.startswith("| `")]
    defined = set(re.findall(r"UL_PROBE\d\((\w+), \w", HEADER.read_text())) - {"name"}
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == defined

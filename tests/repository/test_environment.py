"""docs/environment.md lists every environment variable that the source reads, and no other."""

import re

from .documents import ROOT

READ = re.compile(r"""["'](URINGLOOP_[A-Z_]+)["']""")


def sources():
    for folder in ("uringloop", "benchmarks", "building", "tools"):
        for suffix in (".py", ".pyx"):
            yield from (ROOT / folder).rglob(f"*{suffix}")
    yield ROOT / "setup.py"
    yield ROOT / "_uringloop_startup.py"


def names_in_the_source():
    found = set()
    for path in sources():
        found.update(READ.findall(path.read_text()))
    return found


def test_the_document_lists_all_variables_and_no_other():
    text = (ROOT / "docs" / "environment.md").read_text()
    documented = re.findall(r"^\| `(URINGLOOP_\w+)` \|", text, re.MULTILINE)
    assert len(documented) == len(set(documented))
    assert set(documented) == names_in_the_source()

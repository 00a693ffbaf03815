"""Documents, docstrings, comments and error texts use the words of the field, in plain English.

What another word says better (docs/glossary.md has the field's own):
    hear, tell, say: is notified, notify, report, return; "the user can tell" stays
    somebody, nobody, whoever: the caller, the user, another thread; or the passive
    limbo: leaked to the kernel
"""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]

REFUSED = re.compile(r"\b(?:somebody|nobody|whoever|anybody|limbo|hears?|heard)\b", re.IGNORECASE)

FOLDERS = ("uringloop", "docs", "examples", "benchmarks", "changes", "tests", "tools")
SUFFIXES = (".py", ".pyx", ".pxd", ".pyi", ".h", ".c", ".sh", ".md", ".toml")


def sources():
    yield from (ROOT / name for name in ("README.md", "CONTRIBUTING.md", "setup.py"))
    for folder in FOLDERS:
        yield from (
            path
            for path in sorted((ROOT / folder).rglob("*"))
            if path.suffix in SUFFIXES and path != pathlib.Path(__file__)
        )


def refused_in(text):
    """(number of the line, word) of each word that is refused."""
    for number, line in enumerate(text.splitlines(), 1):
        for found in REFUSED.finditer(line):
            yield number, found[0]


def test_no_word_of_the_list_is_used():
    assert [
        f"{path.relative_to(ROOT)}:{number}: {word}"
        for path in sources()
        for number, word in refused_in(path.read_text())
    ] == []


def test_a_word_of_the_list_is_found():
    assert list(refused_in("the loop\n# Nobody reads it, and somebody's cat\nheard_of = 1")) == [
        (2, "Nobody"),
        (2, "somebody"),
    ]

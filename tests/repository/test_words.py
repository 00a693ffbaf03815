"""Documents, docstrings, comments, error texts and names use the words of the field, in plain English.

Words with a better alternative (docs/glossary.md has the field's own):
    hear, tell (of code): is notified, notify, report, return
    look at memory: poll
    news: event
    somebody, nobody, whoever: the caller, the user, another thread; or the passive
    limbo: leaked to the kernel
    let go: release
    asked for (of an option): enabled, requested

"say" is not refused: documents and error texts do say things.
"""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]

# Also as part of a name, such as `is_told`.
REFUSED = re.compile(
    r"(?<![a-z])(?:somebody|nobody|whoever|anybody|limbo|hears?|heard|hearing|tells?|told|telling|untold|news"
    r"|(?:lets?|letting)[ _]go|asked[ _]for|look(?:s|ed|ing)?[ _]at[ _]memory)(?![a-z])",
    re.IGNORECASE,
)

# Removed before the check, with the reasons.
ALLOWED = (
    (
        re.compile(r"\.tell\b|\b_?tell\(|[\"']tell[\"']"),
        "the method of files that returns the position",
    ),
    (re.compile(r"\bnews fragment", re.IGNORECASE), "towncrier's term"),
)

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
    """(line number, word) of each word that is refused."""
    for number, line in enumerate(text.splitlines(), 1):
        for allowed, _ in ALLOWED:
            line = allowed.sub(" ", line)
        for found in REFUSED.finditer(line):
            yield number, found[0]


def test_no_word_of_the_list_is_used():
    assert [
        f"{path.relative_to(ROOT)}:{number}: {word}"
        for path in sources()
        for number, word in refused_in(path.read_text())
    ] == []


def test_a_word_of_the_list_is_found():
    text = "the loop\n# Nobody reads it, and somebody's cat\nheard_of = 1\ndef test_it_lets_go(): looks at memory"
    assert list(refused_in(text)) == [
        (2, "Nobody"),
        (2, "somebody"),
        (3, "heard"),
        (4, "lets_go"),
        (4, "looks at memory"),
    ]


def test_allowed_words_are_not_found():
    assert list(refused_in('file.tell()\n("tell",)\ndef _tell(self): News fragments')) == []

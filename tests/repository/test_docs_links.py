"""The targets of links between documents, and the files that the text names, exist."""

import re

from .documents import LINKED, ROOT, anchors, without_code

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
# `path/to/file.py` of this repository, in the text.
NAMED = re.compile(
    r"`((?:uringloop|tests|docs|examples|benchmarks|tools)/[\w./-]*\.(?:pyx|pyi|py|pxd|h|md))`"
)


def name(path):
    return str(path.relative_to(ROOT))


def leads_somewhere(path, target):
    if re.match(r"[a-z]+:", target):
        return True  # another site
    file, _, anchor = target.partition("#")
    goal = (path.parent / file).resolve() if file else path
    return goal.exists() and goal.is_relative_to(ROOT) and (not anchor or anchor in anchors(goal))


def test_link_targets_exist():
    broken = [
        f"{name(path)}: {target}"
        for path in LINKED
        for target in LINK.findall(without_code(path.read_text()))
        if not leads_somewhere(path, target)
    ]
    assert broken == []


def test_named_files_exist():
    missing = [
        f"{name(path)}: {named}"
        for path in LINKED
        for named in NAMED.findall(path.read_text())
        if not (ROOT / named).exists()
    ]
    assert missing == []

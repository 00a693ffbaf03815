"""Links between documents lead somewhere, and files that the text names exist."""

import re

import pytest

from .documents import LINKED, ROOT, anchors, without_code

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
# `path/to/file.py` of this repository, in the text.
NAMED = re.compile(
    r"`((?:uringloop|tests|docs|examples|benchmarks|tools)/[\w./-]*\.(?:pyx|pyi|py|pxd|h|md))`"
)


def name(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", LINKED, ids=name)
def test_links_lead_somewhere(path):
    broken = []
    for target in LINK.findall(without_code(path.read_text())):
        if re.match(r"[a-z]+:", target):
            continue  # another site
        file, _, anchor = target.partition("#")
        goal = (path.parent / file).resolve() if file else path
        if not goal.exists() or not goal.is_relative_to(ROOT) or (anchor and anchor not in anchors(goal)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("path", LINKED, ids=name)
def test_named_files_exist(path):
    missing = [named for named in NAMED.findall(path.read_text()) if not (ROOT / named).exists()]
    assert missing == []

"""News fragments: each file in changes/ has a type that towncrier knows, and a text."""

import re
import tomllib

from .documents import ROOT

CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["towncrier"]
TYPES = [kind["directory"] for kind in CONFIG["type"]]
NAME = re.compile(rf"(?:\d+|\+[a-z0-9-]+)\.(?:{'|'.join(TYPES)})\.md")


def wrong_fragments(folder):
    for path in sorted(folder.iterdir()):
        if path.name == "README.md":
            continue
        if not NAME.fullmatch(path.name):
            yield f"{path.name}: is not called NUMBER.TYPE.md or +WORDS.TYPE.md; types: {', '.join(TYPES)}"
        elif not path.read_text().strip():
            yield f"{path.name}: is empty"


def test_fragments_have_a_type_and_a_text():
    assert list(wrong_fragments(ROOT / CONFIG["directory"])) == []


def test_wrong_fragments_are_found(tmp_path):
    for name, text in [("15.fixed.md", "x"), ("+a-b.added.md", "x"), ("a.fixed.md", "x"), ("1.new.md", "x")]:
        (tmp_path / name).write_text(text)
    (tmp_path / "2.removed.md").write_text("\n")
    found = [line.split(":")[0] for line in wrong_fragments(tmp_path)]
    assert found == ["1.new.md", "2.removed.md", "a.fixed.md"]


def test_the_changelog_has_towncriers_marker():
    assert (ROOT / CONFIG["filename"]).read_text().count(CONFIG["start_string"]) == 1

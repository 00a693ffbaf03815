"""The pictures of the live view can be made again, and show what docs/observing.md says of them."""

import os
import re
import subprocess
import sys

import pytest

from .documents import ROOT

pytest.importorskip("rich", reason="it draws them")

WORDS = {
    "live-view-healthy.svg": [
        "python server.py",
        "waiting",
        "task handle",
        "tasks: 82",
        "price import waiting",
    ],
    "live-view-blocked.svg": [
        "loop 1 is BLOCKED",
        "in the task price import",
        "download",
        "price import running",
    ],
}


def text_of(path):
    """What is drawn; a line at a time."""
    return re.sub(r"<[^>]*>", "", path.read_text()).replace("&#160;", " ")


@pytest.mark.slow
def test_the_pictures_can_be_made_again(tmp_path):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("URINGLOOP_")}
    subprocess.run(
        [sys.executable, ROOT / "tools" / "live_view_pictures.py", tmp_path],
        env={**environment, "PYTHONPATH": str(ROOT)}, timeout=120, check=True,
    )  # fmt: skip
    for name, words in WORDS.items():
        assert [word for word in words if word not in text_of(tmp_path / name)] == []


@pytest.mark.parametrize("name", WORDS)
def test_the_pictures_of_the_document_are_these(name):
    text = (ROOT / "docs" / name).read_text()
    assert [word for word in WORDS[name] if word not in text_of(ROOT / "docs" / name)] == []
    assert re.findall(r"\burl\(\"?http[^)]*", text) == []  # nothing of another site
    assert "/tmp" not in text

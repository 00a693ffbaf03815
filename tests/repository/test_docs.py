"""Every code sample of the documents runs, and every document is in the index."""

import ast
import importlib.util
import re
import subprocess
import sys
import textwrap

import pytest

import uringloop
from uringloop.liburing.features import liburing_build

from .documents import DOCUMENTS, ROOT, python_samples, runnable_samples

# Its files and commands belong together: test_tutorial.py follows it.
TUTORIAL = ROOT / "docs" / "tutorial.md"
# A sample's output, with a sentence before it.
OUTPUT = re.compile(r"^```\n\n[^\n]*\bprints\b[^\n]*:\n\n```text\n(.*?)^```", re.MULTILINE | re.DOTALL)
WITH_SAMPLES = [path for path in DOCUMENTS if python_samples(path) and path != TUTORIAL]

# The names that samples use without defining them.
PRELUDE = """
import asyncio

async def main():
    await asyncio.sleep(0)
"""


def name(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", WITH_SAMPLES, ids=name)
def test_the_samples_of_a_document_run(path):
    """They run one after the other in one process, as a reader would try them."""
    if "uringloop.liburing import" in path.read_text() and liburing_build() is None:
        pytest.skip("this build has no liburing")
    if "gi.repository" in path.read_text() and importlib.util.find_spec("gi") is None:
        pytest.skip("PyGObject is not installed for this Python")
    script = PRELUDE
    for line, source in runnable_samples(path):
        ast.parse(source, f"{name(path)}:{line}")
        script += f"\n# {name(path)}:{line}\n{source}\n"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    if has_io_uring():
        shown = without_numbers("".join(OUTPUT.findall(path.read_text())))
        printed = iter(without_numbers(done.stdout))
        assert all(line in printed for line in shown), f"{shown} is not what was printed:\n{done.stdout}"


def has_io_uring():
    loop = uringloop.new_event_loop()
    loop.close()
    return loop.fdmon == "io_uring"


def without_numbers(text):
    """Lines; sizes and times, and the name of the system, differ from machine to machine."""
    return re.sub(r'\d+|(?<=PRETTY_NAME=")[^"]*', "N", text).splitlines()


def test_outputs_are_found():
    """Otherwise the test above would compare nothing."""
    found = {path.name for path in WITH_SAMPLES if OUTPUT.search(path.read_text())}
    assert found >= {"add-sqe.md", "observing.md", "files.md", "aio-context.md"}


def test_samples_are_found():
    """Otherwise the test above would pass without running any."""
    assert {name(path) for path in WITH_SAMPLES} >= {"README.md", "docs/monitors.md", "docs/differences.md"}


def test_indented_and_fenced_blocks_are_distinguished(tmp_path):
    path = tmp_path / "one.md"
    path.write_text(
        textwrap.dedent("""\
        text

            make test

            import asyncio

            asyncio.run(main())

        * a list
          that goes on

        ```sh
        ls
        ```

        ```python
        x = 1
        ```
        """)
    )
    assert python_samples(path) == [
        (17, "x = 1")
    ]  # an indented block is one block, and this one is for a shell
    path.write_text("text\n\n    import asyncio\n\n    x = 2\n")
    assert python_samples(path) == [(3, "import asyncio\n\nx = 2")]


def test_every_document_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text()
    missing = [
        name(path)
        for path in sorted((ROOT / "docs").rglob("*.md"))
        if path.name != "README.md" and f"({path.relative_to(ROOT / 'docs')})" not in index
    ]
    assert missing == []


def has_the_form_of_a_decision(path):
    lines = path.read_text().splitlines()
    headings = [line[3:] for line in lines if line.startswith("## ")]
    return (
        lines[0].startswith(f"# {path.name[:4]} ")
        and len(lines) <= 60
        and headings[:2] == ["Context", "Decision"]
        and headings[-2:] == ["Alternatives", "Consequences"]
    )


def test_a_decision_has_the_agreed_form():
    """The number in the title; Context, Decision, anything, Alternatives, Consequences; at most 60 lines."""
    decisions = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [name(path) for path in decisions if not has_the_form_of_a_decision(path)] == []

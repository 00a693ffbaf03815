"""The files by which people and tools find their way: they name each other's versions, and nothing that is untrue."""

import re
import tomllib

import pytest

import uringloop

from .documents import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def classified_versions():
    found = (
        re.fullmatch(r"Programming Language :: Python :: 3\.(\d+)", line) for line in PROJECT["classifiers"]
    )
    return {int(match[1]) for match in found if match}


def test_the_citation_has_the_version_of_the_package():
    assert f"\nversion: {uringloop.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_documents_and_workflows_name_each_supported_python():
    wanted = classified_versions()
    assert min(wanted) == int(PROJECT["requires-python"].removeprefix(">=3."))
    table = (ROOT / "docs" / "supported-versions.md").read_text()
    row = re.search(r"^\| Python \| CPython (.*?) \|", table, re.MULTILINE)[1]
    assert {int(minor) for minor in re.findall(r"3\.(\d+)", row)} == wanted
    tests = (ROOT / ".github" / "workflows" / "tests.yml").read_text()
    assert {int(minor) for minor in re.findall(r'"3\.(\d+)"', tests)} == wanted


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_calls_only_what_exists(path):
    text = path.read_text()
    makefile = (ROOT / "Makefile").read_text()
    for script in re.findall(r"run: (\.\S+)", text):
        assert (ROOT / script).exists()
    for target in re.findall(r"run: make (\S+)", text):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    assert not re.search(r"uses: (?!actions/|\./)", text), (
        "an action of another owner has to be pinned by its hash"
    )


def test_no_address_is_invented():
    """docs/releasing.md says what to add when the project has an address."""
    assert "urls" not in PROJECT
    assert "urls = {" in (ROOT / "docs" / "releasing.md").read_text()

"""The table of planted bugs fits the sources and the tests."""

import re

import pytest

from .table import ROOT, read

MUTANTS = read()
AT_LEAST = 40


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_bug_can_be_planted(mutant):
    assert mutant.problem() is None
    assert mutant.file.startswith("uringloop/")
    assert mutant.file.endswith((".py", ".pyx"))  # many modules include the others


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_its_tests_exist(mutant):
    assert mutant.tests
    for one in mutant.tests:
        path, _, test = one.partition("::")
        assert (ROOT / path).exists(), one
        if test:
            function = re.escape(test.partition("[")[0])
            assert re.search(rf"^(async )?def {function}\(", (ROOT / path).read_text(), re.MULTILINE), one


def test_there_are_many_and_each_has_a_name_of_its_own():
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= AT_LEAST


def test_they_are_planted_file_by_file():
    files = [mutant.file for mutant in MUTANTS]
    assert len(set(files)) == sum(
        1 for one, before in zip(files, ["", *files], strict=False) if one != before
    )

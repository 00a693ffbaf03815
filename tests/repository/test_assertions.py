"""Assertions: there are enough of them, and nothing is evaluated where they are compiled out."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = ROOT / "uringloop"
FOLDERS = ("uring", "fdmon", "aio", "requests", "transports")
PER_FILE = 2  # on average

ASSERTION = re.compile(
    r"^ +(?:must|must_not|must_if)\((?P<conditions>.*?),\s*(?P<invariant>\"[^\"\n]*\")\)$", re.M | re.S
)

# For these Cython uses temporary variables, which are computed before the call.
OPERATORS = re.compile(r"\b(?:and|or|in|is|if|lambda|await|yield)\b")

# Macros, and C functions that raise nothing.
CALLED = {
    "PyBytes_GET_SIZE",
    "PyTuple_CheckExact",
    "UL_IS_OURS_ALONE",
    "has_undispatched",
    "has_unsubmitted",
    "is_before",
    "is_elsewhere",
    "is_mine",
    "is_none",
    "is_with_kernel",
    "length_of_list",
    "references_of",
    "sizeof",
}


def assertions(path):
    return list(ASSERTION.finditer(path.read_text()))


@pytest.mark.parametrize("folder", FOLDERS)
def test_each_folder_has_enough_assertions(folder):
    counts = {path.relative_to(PACKAGE): len(assertions(path)) for path in (PACKAGE / folder).rglob("*.pyx")}
    assert sum(counts.values()) >= PER_FILE * len(counts), counts


def test_all_assertions_are_parsed_here():
    for path in PACKAGE.rglob("*.pyx"):
        begun = re.findall(r"^ +(?:must|must_not|must_if)\(", path.read_text(), re.M)
        assert len(begun) == len(assertions(path)), path.name


def test_conditions_are_plain_c():
    for path in PACKAGE.rglob("*.pyx"):
        for found in assertions(path):
            conditions = found["conditions"]
            assert not OPERATORS.search(conditions), f"{path.name}: {conditions}"
            called = set(re.findall(r"(\w+)\(", conditions))
            assert called <= CALLED, f"{path.name}: {conditions}"


def built():
    """The C sources built in this tree that are up to date with their .pyx files."""
    for folder in (ROOT / "build").glob("cython*/uringloop"):
        for source in folder.rglob("*.c"):
            pyx = (PACKAGE / source.relative_to(folder)).with_suffix(".pyx")
            if pyx.exists() and source.stat().st_mtime >= pyx.stat().st_mtime:
                yield source


def test_nothing_is_evaluated_before_the_macro():
    n_seen = 0
    for source in built():
        for call in re.findall(r"^ *ul_must\w*\(.*", source.read_text(), re.M):
            assert "__pyx_t_" not in call, f"{source.name}: {call}"
            n_seen += 1
    if not n_seen:
        pytest.skip("no build in this tree")

"""Files and functions stay short, nothing names a machine, and no TODO is without an issue."""

import ast
import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = ROOT / "uringloop"

MOST_LINES_OF_A_FUNCTION = 70
MOST_LINES_OF_A_HEADER = 40
SOURCES = (".py", ".pyi", ".pyx", ".pxd", ".h")
TEXTS = (*SOURCES, ".c", ".md", ".toml", ".sh", ".txt", ".ini")


def tracked():
    """What belongs to the repository: what git knows, or without git what lies there."""
    try:
        done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
        paths = [ROOT / one for one in done.stdout.split("\0") if one]
    except (OSError, subprocess.CalledProcessError):
        paths = [path for folder in ("uringloop", "tests", "docs") for path in (ROOT / folder).rglob("*")]
    return sorted(path for path in paths if path.is_file())


TRACKED = tracked()
PACKAGE_FILES = [path for path in TRACKED if PACKAGE in path.parents and path.suffix in SOURCES]
PYTHON_FILES = [path for path in PACKAGE_FILES if path.suffix == ".py"]
TEXT_FILES = [path for path in TRACKED if path.suffix in TEXTS or path.name in ("Makefile", "run")]


def name(path):
    return str(path.relative_to(ROOT))


def hits(pattern, paths):
    """file:line of each line that matches; this file is left out, since it has the patterns."""
    found = []
    for path in paths:
        if path == pathlib.Path(__file__):
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if pattern.search(line):
                found.append(f"{name(path)}:{number}: {line.strip()[:100]}")
    return found


@pytest.mark.parametrize("path", PYTHON_FILES, ids=name)
def test_functions_are_short(path):
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno + 1 > MOST_LINES_OF_A_FUNCTION
    ]
    assert long == []


@pytest.mark.parametrize("path", [path for path in PACKAGE_FILES if path.suffix in (".py", ".pyx")], ids=name)
def test_a_file_begins_with_what_it_is_for(path):
    text = path.read_text()
    if not text:
        return  # the __init__ of a folder
    header = re.match(r'(?:#[^\n]*\n)*\s*"""(.*?)"""', text, re.DOTALL)
    assert header, "no docstring at its top"
    assert len(header[1].splitlines()) <= MOST_LINES_OF_A_HEADER


def test_no_todo_without_a_number():
    assert hits(re.compile(r"\b(TODO|FIXME|XXX|HACK)\b(?!.*#\d+)"), TEXT_FILES) == []


def test_nothing_names_a_machine():
    """Paths and addresses that hold on somebody's computer only."""
    paths = r"/(?:home|root|Users|work|opt)/\w|\.pyenv|/tmp/\w+/\w"
    addresses = r"\b(?:10\.\d+\.\d+\.\d+|192\.168\.\d+\.\d+)\b|https?://localhost"
    assert hits(re.compile(f"{paths}|{addresses}"), TEXT_FILES) == []


def test_no_blank_ends():
    assert hits(re.compile(r"[ \t]+$"), TEXT_FILES) == []


@pytest.mark.parametrize("path", TEXT_FILES, ids=name)
def test_a_file_ends_with_one_newline(path):
    text = path.read_text()
    assert not text or (text.endswith("\n") and not text.endswith("\n\n"))

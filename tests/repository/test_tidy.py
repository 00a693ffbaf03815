"""Files and functions stay short, nothing names a machine, and no TODO is without an issue."""

import ast
import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = ROOT / "uringloop"

MOST_LINES_OF_A_FUNCTION = 70
MOST_LINES_OF_A_HEADER = 40
MOST_COLUMNS = 120
SOURCES = (".py", ".pyi", ".pyx", ".pxd", ".h")
TEXTS = (*SOURCES, ".c", ".md", ".toml", ".sh", ".txt", ".ini")


def tracked():
    """The files of the repository without third_party/: those in git, or without git all files in the folder."""
    try:
        done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
        paths = [
            ROOT / file for file in done.stdout.split("\0") if file and not file.startswith("third_party/")
        ]
    except (OSError, subprocess.CalledProcessError):
        paths = [path for folder in ("uringloop", "tests", "docs") for path in (ROOT / folder).rglob("*")]
    return sorted(path for path in paths if path.is_file())


# Other people's code keeps its form.
TRACKED = [path for path in tracked() if ROOT / "third_party" / "liburing" not in path.parents]
PACKAGE_FILES = [path for path in TRACKED if PACKAGE in path.parents and path.suffix in SOURCES]
PYTHON_FILES = [path for path in PACKAGE_FILES if path.suffix == ".py"]
TEXT_FILES = [path for path in TRACKED if path.suffix in TEXTS or path.name in ("Makefile", "run")]


def name(path):
    return str(path.relative_to(ROOT))


def hits(pattern, paths):
    """file:line of each line that matches; this file is left out, since it contains the patterns."""
    found = []
    for path in paths:
        if path == pathlib.Path(__file__):
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if pattern.search(line):
                found.append(f"{name(path)}:{number}: {line.strip()[:100]}")
    return found


def test_texts_are_wrapped():
    """Except tables, addresses, and reports that a tool has written."""
    long = []
    for path in TEXT_FILES:
        if (path.suffix == ".md" and path.name != "RESULTS.md") or path.name == "public_names.toml":
            most = MOST_COLUMNS - (2 if path.parent.name == "changes" else 0)  # towncrier indents it
            for number, line in enumerate(path.read_text().splitlines(), 1):
                if len(line) > most and not line.lstrip().startswith("|") and "://" not in line:
                    long.append(f"{name(path)}:{number}: {len(line)}")
    assert long == []


def test_functions_are_short():
    long = [
        f"{name(path)}: {node.name}: {node.end_lineno - node.lineno + 1}"
        for path in PYTHON_FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno + 1 > MOST_LINES_OF_A_FUNCTION
    ]
    assert long == []


def test_a_file_begins_with_its_purpose():
    wrong = []
    for path in PACKAGE_FILES:
        text = path.read_text()
        if path.suffix not in (".py", ".pyx") or not text:
            continue  # the __init__ of a folder is empty
        header = re.match(r'(?:#[^\n]*\n)*\s*"""(.*?)"""', text, re.DOTALL)
        if header is None:
            wrong.append(f"{name(path)}: no docstring at its top")
        elif len(header[1].splitlines()) > MOST_LINES_OF_A_HEADER:
            wrong.append(f"{name(path)}: its docstring has {len(header[1].splitlines())} lines")
    assert wrong == []


def test_no_todo_without_a_number():
    assert hits(re.compile(r"\b(TODO|FIXME|XXX|HACK)\b(?!.*#\d+)"), TEXT_FILES) == []


def test_nothing_names_a_machine():
    """No paths or addresses that exist on one computer only."""
    paths = r"/(?:home|root|Users|work|opt)/\w|\.pyenv|/tmp/\w+/\w"
    addresses = r"\b(?:10\.\d+\.\d+\.\d+|192\.168\.\d+\.\d+)\b|https?://localhost"
    assert hits(re.compile(f"{paths}|{addresses}"), TEXT_FILES) == []


def test_no_trailing_blanks():
    assert hits(re.compile(r"[ \t]+$"), TEXT_FILES) == []


def test_a_file_ends_with_one_newline():
    texts = {name(path): path.read_text() for path in TEXT_FILES}
    wrong = [
        file for file, text in texts.items() if text and (not text.endswith("\n") or text.endswith("\n\n"))
    ]
    assert wrong == []

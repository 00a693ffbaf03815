"""Type checkers: the samples pass `mypy --strict`, and the stubs agree with the modules."""

import ast
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest
from repository.documents import DOCUMENTS, runnable_samples
from repository.test_tutorial import blocks

USES_A_LOOP = "uringloop.get_running_loop()"
# What is checked inside of functions without annotations; and two idioms that mypy finds strange. Several samples of a
# document may have a main().
UNANNOTATED = ("--allow-untyped-defs", "--allow-incomplete-defs", "--allow-untyped-calls")
UNANNOTATED += ("--disable-error-code=comparison-overlap", "--disable-error-code=func-returns-value")
UNANNOTATED += ("--disable-error-code=no-redef",)

ROOT = pathlib.Path(__file__).parents[2]
HERE = pathlib.Path(__file__).parent
SAMPLES = sorted(HERE.glob("sample_*.py"))
STUBS = sorted((ROOT / "uringloop").rglob("*.pyi"))

_NAMES = tomllib.loads((ROOT / "tests" / "repository" / "public_names.toml").read_text())
PUBLIC = {name for entry in _NAMES["modules"].values() for names in entry.values() for name in names}
PUBLIC |= {
    name.partition(":")[2] for name in _NAMES["classes"] if name.startswith(("uringloop:", "uringloop.glib:"))
}


def run(*arguments):
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=280, check=False
    )
    assert done.returncode == 0, f"{' '.join(arguments)}\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
def test_strict_mypy_accepts_the_samples():
    pytest.importorskip("mypy", reason="mypy is not installed")
    run("-m", "mypy", "--config-file=", "--strict", "--follow-imports=silent", *map(str, SAMPLES))


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in DOCUMENTS if USES_A_LOOP in path.read_text()], ids=str)
def test_strict_mypy_accepts_the_samples_of_a_document(path, tmp_path):
    """Those that use the running loop; their functions need no annotations, except in the README."""
    pytest.importorskip("mypy", reason="mypy is not installed")
    script = "\n\n".join(source for _, source in runnable_samples(path))
    if "def main(" not in script:
        script = "import asyncio\n\nasync def main() -> None: ...\n\n" + script
    sample = tmp_path / "sample.py"
    sample.write_text(script)
    for name, language, source in blocks(path):  # files that others of the document import
        if language == "python" and name:
            (tmp_path / name).write_text(source)
    options = [] if path.name == "README.md" else UNANNOTATED
    run("-m", "mypy", "--config-file=", "--strict", "--follow-imports=silent", *options, str(sample))


def test_samples_use_the_running_loop():
    """Otherwise the test above would pass without reading any."""
    names = {path.name for path in DOCUMENTS if USES_A_LOOP in path.read_text()}
    assert names >= {"README.md", "add-sqe.md", "observing.md", "adaptive-polling.md"}


@pytest.mark.slow
def test_the_stubs_agree_with_the_modules():
    pytest.importorskip("mypy", reason="mypy is not installed")
    lists = ("--allowlist", str(HERE / "stubtest-allowlist.txt"), "--ignore-unused-allowlist")
    config = ("--mypy-config-file", str(HERE / "stubtest.ini"))
    run("-m", "mypy.stubtest", "uringloop", "--ignore-disjoint-bases", *lists, *config)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_a_sample_runs(sample):
    run("-X", "dev", "-c", f"import runpy; runpy.run_path({str(sample)!r}, run_name='__main__')")


def test_a_stub_has_only_public_names():
    """The names in tests/repository/public_names.toml; other compiled modules are Any for our own Python code."""
    surplus = [
        f"{stub.relative_to(ROOT)}: {node.name}"
        for stub in STUBS
        for node in ast.parse(stub.read_text()).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
        and not node.name.startswith("_")
        and node.name not in PUBLIC
    ]
    assert surplus == []


def test_a_compiled_public_class_has_a_stub():
    defined = {
        node.name
        for stub in STUBS
        for node in ast.walk(ast.parse(stub.read_text()))
        if isinstance(node, ast.ClassDef)
    }
    compiled = {
        name
        for source in (ROOT / "uringloop").rglob("*.pyx")
        for name in re.findall(r"^(?:cdef )?class (\w+)", source.read_text(), re.MULTILINE)
    }
    assert sorted(compiled & PUBLIC - defined) == []


def test_modules_skipped_by_stubtest_have_no_stub():
    patterns = re.findall(r"^uringloop.*", (HERE / "stubtest-allowlist.txt").read_text(), re.MULTILINE)
    modules = [".".join(stub.relative_to(ROOT).with_suffix("").parts) for stub in STUBS]
    assert [name for name in modules for pattern in patterns if re.fullmatch(pattern, name)] == []

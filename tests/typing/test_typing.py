"""What type checkers see: samples pass `mypy --strict`, and the stubs say what the modules have."""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
HERE = pathlib.Path(__file__).parent
SAMPLES = sorted(HERE.glob("sample_*.py"))


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
def test_the_stubs_agree_with_the_modules():
    pytest.importorskip("mypy", reason="mypy is not installed")
    lists = ("--allowlist", str(HERE / "stubtest-allowlist.txt"), "--ignore-unused-allowlist")
    config = ("--mypy-config-file", str(HERE / "stubtest.ini"))
    run("-m", "mypy.stubtest", "uringloop", "--ignore-disjoint-bases", *lists, *config)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_a_sample_runs(sample):
    run("-X", "dev", "-c", f"import runpy; runpy.run_path({str(sample)!r}, run_name='__main__')")


def test_every_compiled_module_has_a_stub():
    missing = [
        str(source.relative_to(ROOT))
        for source in sorted((ROOT / "uringloop").rglob("*.pyx"))
        if not source.with_suffix(".pyi").exists()
    ]
    assert missing == []

"""The released sources of other projects, and virtual environments with the dependencies of their suites.

All of this is in the user's cache folder, is made at the first use, and belongs to one interpreter.  No loop is
installed in an environment: loops are put on PYTHONPATH (targets.py), so that a suite that imports uvloop
finds it only if that is the loop under test.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

from .targets import Unavailable, cache_folder

#: uringloop's own dependency at run time; the only package in an environment that no suite requires.
NEEDED_BY_THE_LOOP = "cffi>=2"
INSTALL_SECONDS = 900.0


@contextlib.contextmanager
def _lock(name: str) -> Iterator[None]:
    """Allow one run at a time: several may need the same environment."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f".{name}.lock", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _say(text: str) -> None:
    print(f"  {text} ...", file=sys.stderr, flush=True)


def _run(command: list[str], what: str) -> str:
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=INSTALL_SECONDS,
            check=False,
            env=env,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{what}: no end within {INSTALL_SECONDS:.0f} s") from None
    if done.returncode:
        raise Unavailable(f"{what}: " + " / ".join(done.stdout.strip().splitlines()[-4:]))
    return done.stdout


class Environment:
    """A virtual environment; `frozen` lists the versions that pip chose."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.python = folder / "bin" / "python"
        self._list = folder / "frozen.txt"

    @property
    def frozen(self) -> str:
        return self._list.read_text()

    @classmethod
    def of(cls, name: str, requirements: tuple[str, ...]) -> "Environment":
        """The environment for a suite, made now if it does not exist.  Raises Unavailable."""
        wanted = (*requirements, NEEDED_BY_THE_LOOP)
        key = hashlib.sha256(repr((sys.version, sys.executable, wanted)).encode()).hexdigest()[:12]
        python = f"{sys.version_info[0]}.{sys.version_info[1]}"
        found = cls(cache_folder() / "environments" / f"{name}-{python}-{key}")
        with _lock(f"environment-{name}"):
            if not found._list.exists():
                found._make(wanted)
        return found

    def _make(self, requirements: tuple[str, ...]) -> None:
        _say(f"making the environment {self.folder.name}")
        shutil.rmtree(self.folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(self.folder)], "venv")
        pip = [str(self.python), "-m", "pip", "--disable-pip-version-check"]
        _run([*pip, "install", "-q", *requirements], "pip install")
        # Some projects install uvloop, as an extra or as a test requirement.
        _run([*pip, "uninstall", "-q", "-y", "uvloop"], "pip uninstall")
        self._list.write_text(_run([*pip, "freeze"], "pip freeze"))


def source(project: str, version: str) -> Path:
    """The unpacked source distribution of a released version, from PyPI by pip.  Raises Unavailable."""
    folder = cache_folder() / "sources" / f"{project}-{version}"
    with _lock(f"source-{project}"):
        if not folder.exists():
            _fetch(project, version, folder)
    return folder


def _fetch(project: str, version: str, folder: Path) -> None:
    _say(f"downloading {project} {version}")
    fresh = folder.with_name(f"{folder.name}.{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        what = [f"--no-binary={project}", "--no-deps", f"--dest={fresh}", f"{project}=={version}"]
        tool = Environment.of(
            "download", ()
        )  # pip builds metadata, which fails with interpreters without pip
        _run([str(tool.python), "-m", "pip", "-q", "download", *what], f"the source of {project} {version}")
        (archive,) = fresh.glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(fresh, filter="data")
        archive.unlink()
        (inner,) = fresh.iterdir()
        inner.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def copy_of_tests(name: str, tree: Path, parts: tuple[str, ...], pytest_ini: str = "") -> Path:
    """A folder with only the `parts` of a source tree, its tests, so that they import the installed package."""
    facts = repr((str(tree), parts, pytest_ini, sys.version_info[:2]))
    folder = cache_folder() / "tests" / f"{name}-{hashlib.sha256(facts.encode()).hexdigest()[:12]}"
    with _lock(f"tests-{name}"):
        if folder.exists():
            return folder
        fresh = folder.with_name(f"{folder.name}.{os.getpid()}")
        shutil.rmtree(fresh, ignore_errors=True)
        for part in parts:
            if (tree / part).is_dir():
                shutil.copytree(tree / part, fresh / part, symlinks=True)
            else:
                (fresh / part).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(tree / part, fresh / part)
        (fresh / "pytest.ini").write_text(f"[pytest]\n{pytest_ini}")
        fresh.rename(folder)
    return folder

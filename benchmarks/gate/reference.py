"""The reference: counts with a fingerprint and a commit; and how that commit is built where the fingerprint differs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.gate import fingerprint
from benchmarks.gate.counting import FOLDER, CannotMeasure
from benchmarks.machine import REPOSITORY, say

FILE = Path(__file__).with_name("reference.json")
# What the code of the package is made of.
SOURCES = ("uringloop", "building", "third_party", "setup.py")  # _shared() reads the second and third whole
SHARED_SUFFIXES = (".pxd", ".pxi", ".h")
RECORD = "python -m benchmarks gate --record"
BUILD_LIMIT_S = 1800


def load() -> dict[str, Any]:
    try:
        return json.loads(FILE.read_text())
    except (OSError, ValueError) as error:
        raise CannotMeasure(f"there is no reference ({error}); write one: {RECORD}") from error


def _git(*arguments: str) -> str:
    """The output of git in the repository. Raises CannotMeasure."""
    try:
        done = subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True)
    except OSError as error:
        raise CannotMeasure(f"git does not run: {error}") from error
    if done.returncode:
        raise CannotMeasure(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def sources_of(commit: str) -> str:
    """A digest of the sources at *commit*, which a rebase does not change."""
    return fingerprint.digest(_git("ls-tree", commit, *SOURCES).encode())


def clean_commit() -> str | None:
    """The newest commit that touched the sources; None if they have changes that are in no commit."""
    if _git("status", "--porcelain", "--", *SOURCES).strip():
        return None
    return _git("log", "-1", "--format=%H", "--", *SOURCES).strip()


def commit_of(name: str) -> str:
    return _git("rev-parse", "--verify", f"{name}^{{commit}}").strip()


def is_present(reference: dict[str, Any]) -> bool:
    """Whether the checkout has the reference's very sources."""
    try:
        return clean_commit() is not None and sources_of("HEAD") == reference["sources"]
    except CannotMeasure:
        return False  # no git


def find_commit(reference: dict[str, Any]) -> str:
    """The reference's commit, or after a rebase another with the same sources."""
    wanted = reference["sources"]
    candidates = [reference["commit"]]
    try:
        candidates += _git("log", "-500", "--format=%H", "--", *SOURCES).split()
        for commit in candidates:
            try:
                if sources_of(commit) == wanted:
                    return commit
            except CannotMeasure:
                continue  # not in this clone
    except CannotMeasure as error:
        raise CannotMeasure(f"the reference cannot be built: {error}") from error
    raise CannotMeasure(
        f"the reference was counted with other tools, and its commit {reference['commit'][:12]} is not in this clone, "
        f"so it cannot be built here. Fetch the history (git fetch --unshallow), or, if the change of tools is "
        f"deliberate, count anew: {RECORD}"
    )


def check_built(tree: Path) -> None:
    """The package in *tree* is built, from its present sources. Raises CannotMeasure."""
    made = {path.name.split(".")[0]: path for path in fingerprint.modules(tree)}
    if not made:
        raise CannotMeasure("the package is not built in place: make build")
    for source in (tree / "uringloop").rglob("*.pyx"):
        built = next(iter(source.parent.glob(f"{source.stem}.*.so")), None)
        if built is None:
            raise CannotMeasure(f"{source.relative_to(tree)} is not built: make build")
        if built.stat().st_mtime < source.stat().st_mtime:
            raise CannotMeasure(f"{source.relative_to(tree)} is newer than its module: make build")


def _shared(tree: Path) -> dict[str, bytes]:
    """The inputs of more than one module, by their names."""
    package = tree / "uringloop"
    files = [path for name in SOURCES[1:3] for path in (tree / name).rglob("*")]
    files += [path for suffix in SHARED_SUFFIXES for path in package.rglob(f"*{suffix}")]
    files += [*(package / "liburing").glob("*.py"), tree / "setup.py"]
    return {
        str(path.relative_to(tree)): path.read_bytes()
        for path in files
        if path.is_file() and "__pycache__" not in path.parts
    }


def seed(folder: Path, tree: Path) -> int:
    """Copy to *folder* the modules of *tree* whose sources are the same in both; returns how many.

    None, unless all that modules share is the same: then only the others have to be built.
    """
    if _shared(folder) != _shared(tree):
        return 0
    n_copied = 0
    for built in fingerprint.modules(tree):
        name = built.relative_to(tree)
        source = tree / name.parent / (built.name.split(".")[0] + ".pyx")
        own = folder / source.relative_to(tree)
        if source.exists() and source.read_bytes() != own.read_bytes():
            continue
        shutil.copyfile(built, folder / name)  # newer than its source, so that it is not built again
        c_source = Path("build/cython") / source.relative_to(tree).with_suffix(".c")
        if source.exists() and (tree / c_source).exists():
            (folder / c_source).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(tree / c_source, folder / c_source)
            os.utime(folder / name)  # newer than that, too
        n_copied += 1
    return n_copied


def build_in(folder: Path) -> None:
    """Compile the package in *folder* in place, with this interpreter and the default flags."""
    say(f"building in {folder} (log: {folder}/build.log)")
    environment = {name: text for name, text in os.environ.items() if not name.startswith("URINGLOOP_")}
    with open(folder / "build.log", "w") as log:
        done = subprocess.run(
            [sys.executable, "setup.py", "build_ext", "--inplace"],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=BUILD_LIMIT_S,
            env=environment,
        )
    if done.returncode:
        end = (folder / "build.log").read_text()[-2000:]
        raise CannotMeasure(
            f"{folder} does not build (are the build's requirements installed? make drivers):\n{end}"
        )


def extract(commit: str, folder: Path) -> None:
    """The sources at *commit*, into an empty *folder*."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    names = [name for name in (*SOURCES, "pyproject.toml", "README.md") if _git("ls-tree", commit, name)]
    names += [name for name in ("uringloop.pth", "_uringloop_startup.py") if _git("ls-tree", commit, name)]
    archive = subprocess.run(
        ["git", "archive", commit, *names], cwd=REPOSITORY, capture_output=True, check=True
    ).stdout
    subprocess.run(["tar", "-xmf", "-"], cwd=folder, input=archive, check=True)


def build_commit(commit: str, present: dict[str, object]) -> Path:
    """The package at *commit*, built with what the present one is built with; kept for the next time.

    present: the fingerprint of the package in the repository, which the result must have, too.
    """
    key = fingerprint.digest(json.dumps(present, sort_keys=True).encode())
    folder = FOLDER / f"{commit[:12]}-{key}"
    complete = folder / "complete"
    if not complete.exists():
        extract(commit, folder)
        n_copied = seed(folder, REPOSITORY)
        say(f"the reference {commit[:12]}: {n_copied} modules are the same, the others are built")
        build_in(folder)
        complete.touch()
    different = fingerprint.differences(present, fingerprint.take(folder))
    if different:
        shutil.rmtree(folder)
        raise CannotMeasure(
            "the reference was built in another way than the package here; build that with the default flags and the "
            "tools of this environment (make build):\n  " + "\n  ".join(different)
        )
    return folder


def save(commit: str, counts: dict[str, Any], present: dict[str, object]) -> None:
    document = {"commit": commit, "sources": sources_of(commit), "fingerprint": present, "counts": counts}
    FILE.write_text(json.dumps(document, indent=2) + "\n")

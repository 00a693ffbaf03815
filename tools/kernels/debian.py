"""Debian's archive: the newest kernel of a series, checked against the signed index, and a minimal root file system."""

from __future__ import annotations

import hashlib
import lzma
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import NamedTuple

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
TIMEOUT_S = 60
# Where a series is released; others are looked for in those that follow upstream.
SUITES = {"5.10": ["bullseye"], "6.1": ["bookworm"], "6.12": ["trixie"]}
MOVING = ["trixie-backports", "sid"]
NEWEST = "newest"
# From Linux 6.17 or so on, linux-binary-* has what linux-image-* had.
NAME = r"linux-(image|binary)-\d[^ ]*-{}"
OTHER_FLAVOURS = r"-(cloud|rt)-{}$"


class Package(NamedTuple):
    name: str
    version: str
    filename: str
    sha256: str

    @property
    def order(self) -> tuple[int, ...]:
        """Upstream's version, then Debian's own numbers; a release candidate comes before its release."""
        upstream = re.match(r"[\d.]*", self.version)[0]
        numbers = [*(int(part) for part in upstream.split(".") if part), 0, 0]
        return (*numbers[:3], "~rc" not in self.version, self.name.startswith("linux-binary"))

    def is_of(self, series: str) -> bool:
        return series == NEWEST or re.match(rf"{re.escape(series)}[.~-]", self.version) is not None


class Archive:
    """A mirror, the folder that keeps what came from it, and Debian's name of an architecture."""

    def __init__(self, mirror: str, cache: Path, architecture: str) -> None:
        self.mirror, self.cache, self.architecture = mirror.rstrip("/"), cache, architecture

    def fetch(self, path: str) -> bytes:
        with urllib.request.urlopen(f"{self.mirror}/{path}", timeout=TIMEOUT_S) as answer:
            return answer.read()

    def index(self, suite: str) -> list[Package]:
        """The kernels that a suite has, from its index, whose digest is in the signed release file."""
        path = f"main/binary-{self.architecture}/Packages.xz"
        release = self.cache / f"InRelease-{suite}"
        release.write_bytes(self.fetch(f"dists/{suite}/InRelease"))
        check_signature(release)
        compressed = self.fetch(f"dists/{suite}/{path}")
        digest = hashlib.sha256(compressed).hexdigest()
        if f" {digest} " not in release.read_text() or f" {path}\n" not in release.read_text():
            raise SystemExit(f"{self.mirror}: the index of {suite} is not the one that was signed")
        return kernels_in(lzma.decompress(compressed).decode(), self.architecture)

    def newest(self, series: str) -> Package:
        """The newest kernel of a series, such as "6.12", or of all."""
        suites = SUITES.get(series, MOVING)
        found = [one for suite in suites for one in self.index(suite) if one.is_of(series)]
        if not found:
            raise SystemExit(f"no Linux {series} in {', '.join(suites)}")
        return max(found, key=lambda one: one.order)

    def kernel(self, series: str) -> tuple[Package, Path]:
        """The package, and the image that it contains, unpacked once."""
        package = self.newest(series)
        folder = self.cache / f"{package.name}_{package.version}"
        if not folder.is_dir():
            content = self.fetch(package.filename)
            if hashlib.sha256(content).hexdigest() != package.sha256:
                raise SystemExit(f"{package.filename} is not what the index says")
            archive, unpacked = folder.with_suffix(".deb"), folder.with_suffix(".new")
            archive.write_bytes(content)
            shutil.rmtree(unpacked, ignore_errors=True)
            subprocess.run(["dpkg-deb", "-x", archive, unpacked], check=True)
            archive.unlink()
            shutil.rmtree(unpacked / "lib" / "modules", ignore_errors=True)  # nothing needs a module
            unpacked.rename(folder)
        return package, next(folder.rglob("vmlinuz*"))


def kernels_in(index: str, architecture: str) -> list[Package]:
    """The signed kernels of the usual flavour."""
    found = []
    for block in index.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version|Filename|SHA256): (.*)$", block, re.MULTILINE))
        name = fields.get("Package", "")
        is_other = re.search(OTHER_FLAVOURS.format(architecture), name)
        if re.fullmatch(NAME.format(architecture), name) and not is_other and "-unsigned" not in name:
            found.append(Package(name, fields["Version"], fields["Filename"], fields["SHA256"]))
    return found


def check_signature(release: Path) -> None:
    """One good signature is enough: a release file has those of keys that are newer than the keyring, too."""
    command = ["gpgv", "--status-fd", "1", "--keyring", str(KEYRING), str(release)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not re.search(r"^\[GNUPG:\] VALIDSIG ", done.stdout, re.MULTILINE):
        raise SystemExit(f"no valid signature of {release.name}:\n{done.stderr}")

"""What counts depend on besides our sources: counts with different fingerprints are not compared."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import ssl
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
LIBRARIES = ("libpython", "libc", "libcrypto", "libssl")
# Of those that valgrind passes on: by these, libc and OpenSSL choose their variants of a function.
CPU_FLAGS = (
    "aes",
    "avx",
    "avx2",
    "bmi2",
    "erms",
    "f16c",
    "fma",
    "lzcnt",
    "pclmulqdq",
    "popcnt",
    "rdrand",
    "sse4_2",
)
# Flags that change code; the others name folders and warnings.
_FLAG = re.compile(r"-(?:O\S*|m\S+|std=\S+|f(?!record|diagnostics|\S+-prefix-map)\S+)")
_CYTHON = re.compile(rb"_cython_(\d+_\d+\w*)")


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""


def loaded_libraries(maps: str) -> dict[str, Path]:
    """The files of LIBRARIES in the text of /proc/self/maps, by their names without version."""
    found = {}
    for line in maps.splitlines():
        path = line.split(maxsplit=5)[5] if line.count("/") else ""
        name = os.path.basename(path).partition(".so")[0]
        name = "libpython" if name.startswith("libpython") else name
        if name in LIBRARIES and ".so" in path:
            found[name] = Path(path)
    return found


def compiler_and_flags(strings: str) -> list[str]:
    """From the sections .comment and .GCC.command.line, as `readelf -p` prints them."""
    found = set()
    for line in strings.splitlines():
        text = re.sub(r"^\s*\[\s*[0-9a-f]+\]\s*", "", line).strip()
        if text.startswith("GNU C"):
            flags = [word for word in text.split() if _FLAG.fullmatch(word)]
            found.add("flags: " + " ".join(dict.fromkeys(flags)))
        elif re.search(r"\bGCC:|clang", text):
            found.add(text)
    return sorted(found)


def modules(tree: Path) -> list[Path]:
    """The compiled modules of the package in *tree*."""
    return sorted((tree / "uringloop").rglob("*.so"))


def take(tree: Path) -> dict[str, object]:
    """The fingerprint of the package in *tree*, run by this interpreter on this machine."""
    built = modules(tree)
    ssl.OPENSSL_VERSION, ctypes.CDLL(None)  # loads the libraries that are looked up below
    libraries = loaded_libraries(Path("/proc/self/maps").read_text())
    cpu = Path("/proc/cpuinfo").read_text()
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", cpu, re.MULTILINE)
    strings = _output("readelf", "-p", ".comment", "-p", ".GCC.command.line", *map(str, built))
    cython = {found.decode() for path in built for found in _CYTHON.findall(path.read_bytes())}
    return {
        "python": sys.version,
        "executable": digest(Path(os.path.realpath(sys.executable)).read_bytes()),
        "libraries": {name: digest(path.read_bytes()) for name, path in sorted(libraries.items())},
        "compiler": compiler_and_flags(strings),
        "cython": sorted(cython),
        "valgrind": _output("valgrind", "--version").strip(),
        "machine": platform.machine(),
        "cpu": sorted(set(flags.group(1).split() if flags else []) & set(CPU_FLAGS)),
        "kernel": ".".join(platform.release().split(".")[:2]),
        "paths": digest((HERE / "paths.py").read_bytes() + (HERE / "requests.c").read_bytes()),
    }


def differences(reference: dict[str, object], present: dict[str, object]) -> list[str]:
    """One line for each part that differs."""
    return [
        f"{name}: {reference.get(name)} in the reference, {present.get(name)} here"
        for name in sorted(reference.keys() | present.keys())
        if reference.get(name) != present.get(name)
    ]

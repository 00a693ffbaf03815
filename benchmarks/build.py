"""Compiles the C programs of the benchmarks at first use."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmarks.machine import PACKAGE, say

COMPILER_FLAGS = ("-O2", "-std=gnu11", "-Wall", "-Wextra")


def library_flags(library: str, macro: str) -> list[str]:
    """The compiler flags that link an installed library, or none."""
    program = shutil.which("pkg-config")
    if program is None:
        return []
    done = subprocess.run(
        [program, "--cflags", "--libs", library], capture_output=True, text=True, check=False
    )
    return [f"-D{macro}", *done.stdout.split()] if done.returncode == 0 else []


def liburing_flags() -> list[str]:
    """Those for the checkout's copy of liburing."""
    source = PACKAGE.parent / "third_party" / "liburing" / "src"
    names = ("queue.c", "register.c", "setup.c", "syscall.c", "version.c")
    return [
        "-DWITH_LIBURING",
        "-D_GNU_SOURCE",
        "-DLIBURING_INTERNAL",
        "-Wno-unused-parameter",
        f"-I{PACKAGE.parent / 'third_party' / 'liburing-config'}",
        f"-I{source / 'include'}",
        *(str(source / name) for name in names),
    ]


def build(name: str, source: Path, headers: Sequence[Path], flags: Sequence[str]) -> Path:
    """The program; its name contains a hash of sources and flags, so changes rebuild it."""
    content = b"".join(path.read_bytes() for path in (source, *headers)) + " ".join(flags).encode()
    digest = hashlib.sha256(content).hexdigest()[:12]
    program = PACKAGE / ".build" / f"{name}-{digest}"
    if program.exists():
        return program
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler:
        raise SystemExit(f"benchmarks: no C compiler found (cc, gcc or clang), needed for {name}")
    program.parent.mkdir(exist_ok=True)
    unfinished = program.with_suffix(f".{os.getpid()}")
    say(f"building {program.name}")
    subprocess.run(
        [*compiler.split(), *COMPILER_FLAGS, "-o", unfinished, source, *flags], check=True, timeout=120
    )
    unfinished.replace(program)
    return program

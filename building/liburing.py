"""Where liburing comes from: the copy in third_party/, compiled into the modules, or the system's.

The copy is the default: it is the newest, so every build of uringloop has the same requests, and a wheel depends on no
library of the system.  Distributors, who want one liburing for all packages, set URINGLOOP_SYSTEM_LIBURING=1; then
pkg-config finds the library, which is linked dynamically and must be as new as the copy.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
COPY = ROOT / "third_party" / "liburing"
CONFIG = ROOT / "third_party" / "liburing-config"
SYSTEM_FLOOR = "2.15"

SOURCES = ("queue.c", "register.c", "setup.c", "syscall.c", "version.c")
# Where liburing makes its system calls without libc, as its own build does by default.
WITHOUT_LIBC = ("x86_64", "aarch64", "riscv64")


class Flags(NamedTuple):
    """What an extension needs for liburing, in setuptools' words."""

    extra_compile_args: list[str]
    extra_link_args: list[str]
    is_static: bool


def is_system() -> bool:
    return os.environ.get("URINGLOOP_SYSTEM_LIBURING", "") not in ("", "0")


def flags() -> Flags:
    """Compiler and linker flags; the copy's archive is added by the command that makes it."""
    if is_system():
        return _system()
    return Flags([f"-I{CONFIG}", f"-I{COPY / 'src' / 'include'}"], [], is_static=True)


def _system() -> Flags:
    program = shutil.which(os.environ.get("PKG_CONFIG", "pkg-config"))
    if program is None:
        sys.exit(
            "URINGLOOP_SYSTEM_LIBURING=1 needs pkg-config; without that variable uringloop brings its own liburing"
        )

    def ask(*words: str) -> str | None:
        done = subprocess.run([program, *words, "liburing"], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    if ask(f"--atleast-version={SYSTEM_FLOOR}") is None:
        sys.exit(
            f"URINGLOOP_SYSTEM_LIBURING=1 needs liburing {SYSTEM_FLOOR} or newer with its headers, and pkg-config "
            f"finds {ask('--modversion') or 'none'}; without that variable uringloop builds its own"
        )
    return Flags((ask("--cflags") or "").split(), (ask("--libs") or "-luring").split(), is_static=False)


def compile_copy(compiler: Any, folder: str) -> str:
    """Compile the copy with a compiler of setuptools.

    Returns: the path of the static library, in the folder.
    """
    macros = [("_GNU_SOURCE", None), ("LIBURING_INTERNAL", None), ("_FILE_OFFSET_BITS", "64")]
    options = ["-O3", "-g0", "-fPIC", "-fvisibility=hidden", "-Wno-unused-parameter", "-fno-stack-protector"]
    sources = SOURCES
    if sysconfig.get_platform().rpartition("-")[2] in WITHOUT_LIBC:  # of the target, when cross-compiling
        macros.append(("CONFIG_NOLIBC", None))
        options += ["-ffreestanding", "-fno-builtin"]
        sources += ("nolibc.c",)
    objects = compiler.compile(
        [os.path.relpath(COPY / "src" / name) for name in sources],
        output_dir=folder,
        macros=macros,
        include_dirs=[str(CONFIG), str(COPY / "src" / "include")],
        extra_postargs=options,
    )
    compiler.create_static_lib(objects, "uring-copy", output_dir=folder)
    return os.path.join(folder, compiler.library_filename("uring-copy"))

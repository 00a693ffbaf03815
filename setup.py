"""Build the compiled modules; everything else about the package stands in pyproject.toml.

Environment:
  URINGLOOP_WITHOUT_LIBURING=1   build epoll and poll only, no liburing needed
  URINGLOOP_DEBUG=1              compile assertions and counters in
  URINGLOOP_SANITIZE=1           AddressSanitizer and UBSan (run with LD_PRELOAD of libasan)
"""

import os
import shutil
import subprocess
import sys

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

LIBURING_FLOOR = "2.3"
WITHOUT_LIBURING = os.environ.get("URINGLOOP_WITHOUT_LIBURING", "") not in ("", "0")
DEBUG = os.environ.get("URINGLOOP_DEBUG", "") not in ("", "0")
SANITIZE = os.environ.get("URINGLOOP_SANITIZE", "") not in ("", "0")

# Modules that need no liburing; the others do.
PLAIN = [
    "fdmon.base",
    "fdmon.poll",
    "fdmon.epoll",
    "aio.handles",
    "aio.ready",
    "aio.timers",
    "aio.notifier",
    "aio.context",
    "transports.stream",
    "transports.wire",
    "eventloop.core",
]
RING = [
    "uring.ring",
    "uring.request",
    "uring.buffers",
    "uring.sendprobe",
    "fdmon.io_uring",
    "transports.ring_wire",
    "transports.accept",
]
HEADERS = ["uringloop/liburing/compat.h", "uringloop/aio/clock.h"]

CFFI_MODULES = []


def pkg_config(*args: str) -> str | None:
    """What pkg-config answers, None where it or liburing is not there."""
    program = shutil.which(os.environ.get("PKG_CONFIG", "pkg-config"))
    if program is None:
        return None
    done = subprocess.run([program, *args, "liburing"], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def liburing_flags() -> dict[str, list[str]]:
    """Compiler and linker flags for liburing; the static library where there is one.

    A static liburing makes a wheel self-contained: the shared one has another soname on each distribution.
    """
    if pkg_config("--exists", f"--atleast-version={LIBURING_FLOOR}") is None:
        sys.exit(
            f"uringloop needs the headers of liburing >= {LIBURING_FLOOR} and pkg-config: "
            "on Debian and Ubuntu `apt-get install liburing-dev pkg-config`, on Fedora `dnf install "
            "liburing-devel pkgconf`; or set URINGLOOP_WITHOUT_LIBURING=1 for a loop on epoll and poll only."
        )
    flags = {"extra_compile_args": (pkg_config("--cflags") or "").split()}
    archive = os.path.join(pkg_config("--variable=libdir") or "", "liburing.a")
    if os.path.exists(archive) and not os.environ.get("URINGLOOP_SHARED_LIBURING"):
        flags["extra_objects"] = [archive]
    else:
        flags["extra_link_args"] = (pkg_config("--libs") or "-luring").split()
    return flags


def extensions() -> list[Extension]:
    """One Extension per .pyx file."""
    compile_args = ["-O3", "-fno-semantic-interposition", "-Wall", "-Wno-unused-function", "-Wno-cpp"]
    link_args: list[str] = []
    if SANITIZE:
        sanitize = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-g"]
        compile_args += sanitize
        link_args += sanitize
    macros = [("URINGLOOP_DEBUG", "1" if DEBUG else "0")]
    if WITHOUT_LIBURING:
        macros.append(("URINGLOOP_WITHOUT_LIBURING", "1"))
    ring_flags = {} if WITHOUT_LIBURING else liburing_flags()
    made = []
    for name in PLAIN + ([] if WITHOUT_LIBURING else RING):
        flags = {"extra_compile_args": list(compile_args), "extra_link_args": list(link_args)}
        if name in RING:
            for key, value in ring_flags.items():
                flags[key] = flags.get(key, []) + value
        source = "uringloop/" + name.replace(".", "/") + ".pyx"
        made.append(
            Extension(f"uringloop.{name}", [source], define_macros=macros, depends=HEADERS, **flags)
        )
    return made


class BuildExt(build_ext):
    """Compile the modules side by side: they are independent, and each takes seconds."""

    def initialize_options(self) -> None:
        super().initialize_options()
        self.parallel = int(os.environ.get("URINGLOOP_BUILD_JOBS", os.cpu_count() or 1))


setup(
    ext_modules=cythonize(
        extensions(),
        build_dir="build/cython",
        compiler_directives={
            "language_level": 3,
            "embedsignature": True,
            "embedsignature.format": "python",
            "binding": True,
            "cdivision": True,
            "initializedcheck": False,
            "freethreading_compatible": False,
        },
        show_all_warnings=False,
    ),
    cffi_modules=[] if WITHOUT_LIBURING else CFFI_MODULES,
    cmdclass={"build_ext": BuildExt},
)

"""Build the compiled modules; everything else about the package stands in pyproject.toml.

Environment:
  URINGLOOP_SYSTEM_LIBURING=1    link the system's liburing instead of the copy in third_party/
  URINGLOOP_WITHOUT_LIBURING=1   build epoll and poll only
  URINGLOOP_DEBUG=1              compile assertions in
  URINGLOOP_SANITIZE=1           AddressSanitizer and UBSan (run with LD_PRELOAD of libasan)
  URINGLOOP_SANITIZE=thread      ThreadSanitizer, for a Python that was compiled with it
  URINGLOOP_SANITIZE=fuzzer      as 1, and counters of coverage for libFuzzer; needs CC=clang
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # pip leaves it out

from building import checks

# Commands that compile nothing (sdist, egg_info, dist_info, --version, ...) need no compiler.
COMPILING = {"build", "build_ext", "bdist_wheel", "install", "develop", "editable_wheel"}
COMPILES = not COMPILING.isdisjoint(sys.argv)
if COMPILES:
    checks.check()

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

from building import interpreters, liburing, sbom
from building.pth import Build, BuildPth

WITHOUT_LIBURING = os.environ.get("URINGLOOP_WITHOUT_LIBURING", "") not in ("", "0")
DEBUG = os.environ.get("URINGLOOP_DEBUG", "") not in ("", "0")
SANITIZE = os.environ.get("URINGLOOP_SANITIZE", "").removesuffix("0")
SANITIZERS = {"1": "address,undefined", "thread": "thread", "fuzzer": "address,undefined,fuzzer-no-link"}

# Modules that need liburing.
RING = [
    "uring.ring",
    "uring.request",
    "uring.completions",
    "uring.buffers",
    "uring.sendprobe",
    "uring.engine",
    "fdmon.io_uring",
    "requests.request",
    "requests.checks",
    "requests.submit",
    "requests.awaiting",
    "transports.stream.ring_wire",
    "transports.stream.accept",
    "files.ring_requests",
    "eventloop.raw",
]
PLAIN = [
    name
    for path in sorted(Path("uringloop").rglob("*.pyx"))
    if (name := ".".join(path.with_suffix("").parts[1:])) not in RING
]
HEADERS = ["uringloop/liburing/compat.h", "uringloop/support/clock.h", "uringloop/support/collect.h"]
HEADERS += ["uringloop/support/assertions.h", "uringloop/support/fastcall.h", "uringloop/support/statx.h"]
HEADERS += ["uringloop/support/preadv2.h", "uringloop/support/openat2.h", "uringloop/support/type_tag.h"]
HEADERS += ["uringloop/support/pause.h"]
HEADERS += ["uringloop/transports/tls/openssl.h", "uringloop/eventloop/base/stock_clock.h"]
HEADERS += ["uringloop/support/interpreters.h", "uringloop/uring/ring_fds.h", "uringloop/aio/audit.h"]
HEADERS += ["uringloop/group/balancer.h", "uringloop/support/guard.h", "uringloop/aio/recorder.h"]
HEADERS += ["uringloop/support/probes.h", "uringloop/observing/watchdog.h", "uringloop/observing/peek.h"]

# Modules of the package that link liburing: those above, and the cffi module for raw requests.
LINKS_LIBURING = {f"uringloop.{name}" for name in RING} | {"uringloop.liburing._ffi"}


def extensions() -> list[Extension]:
    """One Extension per .pyx file."""
    compile_args = [
        "-O1" if DEBUG or SANITIZE else "-O3",  # a build that is not measured compiles in half of the time
        "-fno-semantic-interposition",
        "-fno-plt",
        "-Wall",
        "-Wno-unused-function",
        "-Wno-cpp",
        "-frecord-gcc-switches",  # in a section of its own that is not loaded: the benchmarks' gate compares them
    ]
    if not (DEBUG or "-g" in os.environ.get("CFLAGS", "")):
        compile_args.append("-g0")  # Python's own flags say -g, which makes the modules eight times as large
    link_args: list[str] = []
    if SANITIZE:
        sanitize = [
            f"-fsanitize={SANITIZERS.get(SANITIZE, SANITIZERS['1'])}",
            "-fno-omit-frame-pointer",
            "-g",
        ]
        compile_args += sanitize
        link_args += sanitize
    macros = [("URINGLOOP_DEBUG", "1" if DEBUG else "0")]
    if WITHOUT_LIBURING:
        macros.append(("URINGLOOP_WITHOUT_LIBURING", "1"))
    made = []
    for name in PLAIN + ([] if WITHOUT_LIBURING else RING):
        one = Extension(
            f"uringloop.{name}",
            ["uringloop/" + name.replace(".", "/") + ".pyx"],
            define_macros=macros,
            include_dirs=["uringloop/support"],  # for what is not beside a .pyx: building/interpreters.py
            depends=HEADERS,
            extra_compile_args=list(compile_args),
            extra_link_args=list(link_args),
        )
        if name in RING and COMPILES:
            flags = liburing.flags()
            one.extra_compile_args += flags.extra_compile_args
            one.extra_link_args += flags.extra_link_args
        made.append(one)
    return made


def translated() -> list[Extension]:
    """The extensions with C sources; with Cython sources where nothing is compiled."""
    if not COMPILES:
        return extensions()
    from Cython.Build import cythonize

    made = cythonize(
        extensions(),
        # An assertion that fails names the line of the .pyx; so the C sources of that build are others.
        build_dir="build/cython-debug" if DEBUG else "build/cython",
        emit_linenums=DEBUG,
        compiler_directives={
            "language_level": 3,
            "embedsignature": True,
            "embedsignature.format": "python",
            "binding": True,
            "cdivision": True,
            "initializedcheck": False,
            "freethreading_compatible": True,
        },
        show_all_warnings=False,
    )
    for one in made:
        source, why_not = interpreters.rewrite(Path(one.sources[0]), one.name.partition(".")[2])
        one.sources[0] = str(source)
        if why_not:
            print(f"{one.name}: not for sub-interpreters: {why_not}", file=sys.stderr)
    return made


class BuildExt(build_ext):
    """Compile the modules side by side: they are independent, and each takes seconds."""

    def initialize_options(self) -> None:
        super().initialize_options()
        self.parallel = int(os.environ.get("URINGLOOP_BUILD_JOBS") or os.cpu_count() or 1)

    def build_extensions(self) -> None:
        if not (WITHOUT_LIBURING or liburing.is_system()):
            archive = liburing.compile_copy(self.compiler, self.build_temp)
            for one in self.extensions:
                if one.name in LINKS_LIBURING:
                    one.extra_objects.append(archive)
        super().build_extensions()

    def run(self) -> None:
        super().run()
        if self.inplace or not os.path.isdir(self.build_lib):
            return
        # What an earlier build of another kind left there would go into the wheel, too.
        wanted = {os.path.abspath(path) for path in self.get_outputs()}
        for folder, _, names in os.walk(os.path.join(self.build_lib, "uringloop")):
            for name in names:
                path = os.path.abspath(os.path.join(folder, name))
                if name.endswith(".so") and path not in wanted:
                    os.unlink(path)


class BdistWheel(bdist_wheel):
    """With the list of what is in the modules."""

    def egg2dist(self, egginfo_path: str, distinfo_path: str) -> None:
        super().egg2dist(egginfo_path, distinfo_path)
        has_copy = not (WITHOUT_LIBURING or liburing.is_system())
        sbom.write(
            Path(distinfo_path), self.distribution.get_name(), self.distribution.get_version(), has_copy
        )


setup(
    ext_modules=translated(),
    cffi_modules=["building/ffi.py:ffibuilder"] if COMPILES and not WITHOUT_LIBURING else [],
    cmdclass={"bdist_wheel": BdistWheel, "build": Build, "build_ext": BuildExt, "build_pth": BuildPth},
)

"""Build the compiled drivers of the tests, in place: python tests/drivers/setup.py build_ext --inplace

They are not part of the package: `make test` builds them against the installed package.
"""

import importlib.util
import os
import pathlib
import sys

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HERE = pathlib.Path(__file__).parent
TESTS = HERE.parent


def package_folder() -> pathlib.Path:
    """Where the installed package is, without running it."""
    sys.path = [entry for entry in sys.path if pathlib.Path(entry or ".").resolve() != HERE]
    found = importlib.util.find_spec("uringloop")
    if found is None or found.origin is None:
        sys.exit("uringloop is not installed: make build")
    return pathlib.Path(found.origin).parent


PACKAGE = package_folder()
IS_DEBUG = os.environ.get("URINGLOOP_DEBUG", "") not in ("", "0")
IS_SANITIZED = os.environ.get("URINGLOOP_SANITIZE", "") not in ("", "0")
IS_FOR_FUZZER = os.environ.get("URINGLOOP_SANITIZE", "") == "fuzzer"
HAS_LIBURING = any((PACKAGE / "uring").glob("ring.*.so"))


sys.path.append(str(TESTS.parent))

from building import interpreters, liburing


def extension(name: str, flags: liburing.Flags | None) -> Extension:
    compile_args, link_args, _ = flags or ([], [], None)
    kinds = "address,undefined,fuzzer-no-link" if IS_FOR_FUZZER else "address,undefined"
    sanitize = [f"-fsanitize={kinds}", "-fno-omit-frame-pointer", "-g"] if IS_SANITIZED else []
    return Extension(
        f"drivers.{name}",
        [f"drivers/{name}.pyx"],
        # The package's declarations name headers relative to a folder of it.
        include_dirs=[str(PACKAGE / "support"), str(PACKAGE / "liburing")],
        extra_compile_args=[
            "-O1",
            "-Wno-unused-function",
            "-Wno-cpp",
            *sanitize,
            *compile_args,
        ],
        extra_link_args=[*sanitize, *link_args],
        define_macros=[("URINGLOOP_DEBUG", "1" if IS_DEBUG else "0")],
    )


def extensions() -> list[Extension]:
    made = [extension(name, None) for name in ("core", "parsers", "violations")]
    if HAS_LIBURING:
        made += [extension("ring", liburing.flags()), extension("ring_violations", liburing.flags())]
    return made


def translated() -> list[Extension]:
    """The extensions with C sources, which other interpreters can import, too."""
    made: list[Extension] = cythonize(
        extensions(),
        build_dir="../build/cython-drivers",
        include_path=[str(PACKAGE.parent)],
        compiler_directives={
            "language_level": 3,
            "binding": True,
            "embedsignature": True,
            "cdivision": True,
            "freethreading_compatible": True,
        },
    )
    for one in made:
        source, why_not = interpreters.rewrite(pathlib.Path(one.sources[0]), one.name)
        one.sources[0] = str(source)
        if why_not:
            print(f"{one.name}: not for sub-interpreters: {why_not}", file=sys.stderr)
    return made


class BuildExt(build_ext):
    """With the copy of liburing in those that use it."""

    def build_extensions(self) -> None:
        if HAS_LIBURING and not liburing.is_system():
            archive = liburing.compile_copy(self.compiler, self.build_temp)
            for one in self.extensions:
                if "ring" in one.name:
                    one.extra_objects.append(archive)
        super().build_extensions()


os.chdir(TESTS)  # so that --inplace builds here
setup(
    name="uringloop-test-drivers",
    packages=["drivers"],
    # A debug build does not use the objects of another build.
    options={"build": {"build_base": "../build/drivers-debug" if IS_DEBUG else "../build/drivers"}},
    ext_modules=translated(),
    cmdclass={"build_ext": BuildExt},
)

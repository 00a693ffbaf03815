"""Build the compiled drivers of the tests, in place: python tests/drivers/setup.py build_ext --inplace

They are not part of the package: `make test` builds them against the installed package.
"""

import importlib.util
import os
import pathlib
import runpy
import sys

from Cython.Build import cythonize
from setuptools import Extension, setup

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
HAS_LIBURING = any((PACKAGE / "uring").glob("ring.*.so"))


def extension(name: str, flags: dict[str, list[str]]) -> Extension:
    sanitize = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-g"] if IS_SANITIZED else []
    return Extension(
        f"drivers.{name}",
        [f"drivers/{name}.pyx"],
        # The package's declarations name headers relative to a folder of it.
        include_dirs=[str(PACKAGE / "support"), str(PACKAGE / "liburing")],
        extra_objects=flags.get("extra_objects", []),
        extra_compile_args=[
            "-O1",
            "-Wno-unused-function",
            "-Wno-cpp",
            *sanitize,
            *flags.get("extra_compile_args", []),
        ],
        extra_link_args=[*sanitize, *flags.get("extra_link_args", [])],
        define_macros=[("URINGLOOP_DEBUG", "1" if IS_DEBUG else "0")],
    )


def extensions() -> list[Extension]:
    made = [extension("core", {}), extension("violations", {})]
    if HAS_LIBURING:
        flags = runpy.run_path(str(PACKAGE / "liburing" / "build_ffi.py"))["liburing_flags"]
        made += [extension("ring", flags()), extension("ring_violations", flags())]
    return made


os.chdir(TESTS)  # so that --inplace builds here
setup(
    name="uringloop-test-drivers",
    packages=["drivers"],
    # A debug build does not use the objects of another build.
    options={"build": {"build_base": "../build/drivers-debug" if IS_DEBUG else "../build/drivers"}},
    ext_modules=cythonize(
        extensions(),
        build_dir="../build/cython-drivers",
        include_path=[str(PACKAGE.parent)],
        compiler_directives={"language_level": 3, "binding": True, "embedsignature": True, "cdivision": True},
    ),
)

"""Fail if the build log contains a warning or a performance hint of Cython, or no run of Cython at all.

    python tools/check_build_log.py build/build.log [--c-warnings]

A performance hint usually means a missing `noexcept`: an exception check under the GIL after each call.
"""

import argparse
import re
import sys
from pathlib import Path

CYTHON_RAN = re.compile(r"(Cythonizing|Compiling) \S+\.pyx")
CYTHON_WARNING = re.compile(r"^\s*(warning|performance hint): \S+\.(pyx|pxd|pxi|py):\d+", re.IGNORECASE)
C_WARNING = re.compile(r"^\s*\S+\.(c|h):\d+:\d+: (warning|error): ")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("log", type=Path)
    parser.add_argument("--c-warnings", action="store_true", help="fail on the C compiler's warnings as well")
    args = parser.parse_args()
    try:
        lines = args.log.read_text(errors="replace").splitlines()
    except OSError as error:
        print(f"{args.log}: {error}")
        return 1
    n_modules = sum(bool(CYTHON_RAN.search(line)) for line in lines)
    warnings = [line.strip() for line in lines if CYTHON_WARNING.match(line)]
    c_warnings = [line.strip() for line in lines if C_WARNING.match(line)]
    for line in [*warnings, *c_warnings]:
        print(line)
    print(f"{args.log}: {len(warnings)} warnings of Cython, {len(c_warnings)} of the C compiler")
    if n_modules == 0:
        print("Cython did not run in this build, so the log proves nothing (make clean first)")
        return 1
    return 1 if warnings or (args.c_warnings and c_warnings) else 0


if __name__ == "__main__":
    sys.exit(main())

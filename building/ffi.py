"""Builds `uringloop.liburing._ffi`: liburing for users of raw requests, as a cffi module in API mode.

 1. The declarations of functions come from the header, as the preprocessor prints it, so that a newer liburing's
    io_uring_prep_* are there without a change here.  Which other functions, and the structs, is in declarations.py.
 2. The C compiler checks every declaration against the header and supplies sizes, offsets and values; `...` says
    "whatever the header has".  Numbers that the header does not have yet come from enums.py.
 3. API mode compiles wrappers, so the `static inline` io_uring_prep_* work without liburing-ffi.
 4. Anonymous unions are written flat: each member gets its own offset all the same.
 5. Unsigned parameters take negative numbers as C does (negative.h).

setup.py runs `ffibuilder`.
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import subprocess
import sys
from typing import Any

from building import checks, liburing

HERE = os.path.dirname(os.path.abspath(__file__))
PACKAGE = os.path.join(os.path.dirname(HERE), "uringloop", "liburing")

SOURCE = """
#include "compat.h"
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/epoll.h>
#include "../support/statx.h"
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
"""

SOURCE_END = """
#include "negative.h"
#define UL_TEXT(number) #number
#define UL_VERSION(major, minor) UL_TEXT(major) "." UL_TEXT(minor)
static const char *const ul_liburing_version = UL_VERSION(IO_URING_VERSION_MAJOR, IO_URING_VERSION_MINOR);
#define UL_LIBURING_IS_STATIC {is_static:d}
"""

# Types that cffi is told by another name.  liburing cuts a size_t of a request to the 32 bits that the kernel's
# request has; as a __u32, a larger number raises OverflowError.
OTHER_TYPES = {
    "idtype_t": "int",
    "id_t": "unsigned",
    "loff_t": "int64_t",
    "_Bool": "bool",
    "unsigned int": "unsigned",
}
IN_REQUESTS = {"size_t": "__u32"}


def header_text(options: list[str]) -> str:
    """The header and all that it includes, as the compiler sees it, with the macros and without comments."""
    environment = shlex.split(f"{os.environ.get('CPPFLAGS', '')} {os.environ.get('CFLAGS', '')}")
    command = [
        *checks.compiler_command(),
        "-E",
        "-P",
        "-dD",
        "-x",
        "c",
        f"-I{PACKAGE}",
        *environment,
        *options,
        "-",
    ]
    try:
        done = subprocess.run(command, input=SOURCE, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"{shlex.join(command)} could not read liburing.h: {getattr(error, 'stderr', '') or error}")
    return done.stdout


def _renamed(text: str, names: dict[str, str]) -> str:
    return re.sub("|".join(rf"\b{name}\b" for name in names), lambda match: names[match[0]], text)


def functions(text: str) -> dict[str, str]:
    """{name: C declaration} of all functions of liburing in the header's text."""
    found = {}
    code = re.sub(r"^#.*", "", text, flags=re.MULTILINE)
    pattern = r"\b((?:const |struct |unsigned |\w+ )+\**) ?(io_uring_\w+)\(([^(){};]*)\)\s*(?:;|\{)"
    for result, name, parameters in re.findall(pattern, " ".join(code.split())):
        if result.startswith(("return ", "else ")):
            continue
        result = re.sub(r"^(?:static |inline |extern )+", "", result).strip()
        declaration = _renamed(f"{result} {name}({parameters});", OTHER_TYPES).replace("* io", "*io")
        found[name] = _renamed(declaration, IN_REQUESTS) if name.startswith("io_uring_prep_") else declaration
    return found


def declared(text: str) -> dict[str, str]:
    """{name: C declaration} of the functions of `lib`: every io_uring_prep_*, and those of declarations.py."""
    table = runpy.run_path(os.path.join(HERE, "declarations.py"))
    found = functions(text)
    chosen = {name: found[name] for name in found if name.startswith("io_uring_prep_")}
    chosen.update((name, found[name]) for name in table["FUNCTIONS"].split())
    for declaration in filter(None, map(str.strip, table["ADDITIONS"].split(";"))):
        match = re.search(r"(\w+)\(", declaration)
        assert match, declaration
        chosen[match[1]] = " ".join(declaration.split()) + ";"
    return chosen


def numbers() -> dict[str, int]:
    """{name in C: value} of all members of enums.py."""
    enums = runpy.run_path(os.path.join(PACKAGE, "enums.py"))
    return {member.c_name: int(member) for name in enums["__all__"] for member in enums[name]}


def missing_numbers(text: str) -> str:
    """C definitions of the numbers that the header's text does not have, such as the kernel's newest."""
    has = set(re.findall(r"\w+", text))
    return "".join(f"#define {name} {value}U\n" for name, value in numbers().items() if name not in has)


def base_declarations() -> str:
    """Constants, types and our own additions, for FFI.cdef."""
    table = runpy.run_path(os.path.join(HERE, "declarations.py"))
    constants = [f"#define {name} ..." for name in [*numbers(), *table["CONSTANTS"].split()]]
    return "\n".join([*constants, table["TYPES"], "static const char *const ul_liburing_version;"])


def declare(builder: Any, declarations: dict[str, str]) -> None:
    """Declare functions; what a newer liburing has and cffi cannot read is left out, with a warning."""
    from cffi import CDefError  # type: ignore[import-untyped]

    for name, declaration in declarations.items():
        for struct in re.findall(r"struct (\w+)", declaration):
            if f"struct {struct}" not in builder._parser._declarations:
                builder.cdef(f"struct {struct};")
        try:
            builder.cdef(declaration)
        except CDefError as error:
            print(f"warning: {name} is new in this liburing and left out: {error}", file=sys.stderr)


def ffibuilder() -> Any:
    """The cffi.FFI that setup.py's `cffi_modules` compiles."""
    from cffi import FFI

    flags = liburing.flags()
    builder = FFI()
    builder.cdef(base_declarations())
    text = header_text(flags.extra_compile_args)
    declare(builder, declared(text))
    builder.set_source(
        "uringloop.liburing._ffi",
        SOURCE + missing_numbers(text) + SOURCE_END.format(is_static=flags.is_static),
        include_dirs=["uringloop/liburing", "building"],
        depends=[
            "building/ffi.py",
            "building/declarations.py",
            "building/negative.h",
            "uringloop/liburing/compat.h",
        ],
        extra_compile_args=[*flags.extra_compile_args, "-O2", "-Wall", "-Wno-unused-function", "-Wno-cpp"],
        extra_link_args=flags.extra_link_args,
    )
    return builder

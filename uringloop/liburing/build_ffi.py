"""Builds `uringloop.liburing._ffi`: liburing for users of raw requests, as a cffi module in API mode.

 1. The C compiler checks every declaration (declarations.py) against the header and supplies sizes, offsets
    and values, so nothing can drift from liburing; `...` says "whatever the header has".
 2. API mode compiles wrappers, so the `static inline` io_uring_prep_* work without liburing-ffi, which the
    floor (liburing 2.3) does not have.
 3. Anonymous unions are written flat: each member gets its own offset all the same.
 4. Unsigned parameters take negative numbers as C does (negative.h).
 5. The header is asked what it has, by the preprocessor.  What is declared and missing comes from newer.h; an
    io_uring_prep_* that is there and not declared, because this liburing is newer than we are, is declared as
    the header does.  So every build has at least the same names, and every prep helper of its header.

setup.py runs `ffibuilder`, and takes `liburing_flags` from here, so that the compiled modules and this one
are linked alike.  Nothing here is imported at run time.
"""

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import sysconfig

LIBURING_FLOOR = "2.3"

# Helpers that a header may have and get wrong, and the liburing that mended them; ours are used before it.
WRONG_BEFORE = {
    "io_uring_prep_accept_direct": "2.4",  # IORING_FILE_INDEX_ALLOC opened an ordinary fd, here and below
    "io_uring_prep_openat_direct": "2.4",
    "io_uring_prep_openat2_direct": "2.4",
    "io_uring_prep_socket_direct": "2.4",
    "io_uring_prep_cmd_sock": "2.6",  # ignored level, option and value
    "io_uring_prep_read_multishot": "2.8",  # did not select provided buffers, which it cannot do without
}

HERE = os.path.dirname(os.path.abspath(__file__))

MADE_OF = ("build_ffi.py", "compat.h", "declarations.py", "enums.py", "negative.h", "newer.h")

SOURCE = """
#include "compat.h"
#include <fcntl.h>
#include <linux/futex.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
"""

# Between the two come the `#define UL_LACKS_...` that newer.h looks at, and numbers.
SOURCE_END = """
#include "newer.h"
#include "negative.h"
static const char *const ul_liburing_version = "{version}";
#define UL_LIBURING_IS_STATIC {is_static:d}
"""


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


def header_text(cflags: list[str]) -> str:
    """The header and all that it includes, as the compiler sees it, with the macros and without comments."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    environment = shlex.split(f"{os.environ.get('CPPFLAGS', '')} {os.environ.get('CFLAGS', '')}")
    command = [*compiler, "-E", "-P", "-dD", "-x", "c", f"-I{HERE}", *environment, *cflags, "-"]
    try:
        done = subprocess.run(command, input=SOURCE, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"{shlex.join(command)} could not read liburing.h: {getattr(error, 'stderr', '') or error}")
    return done.stdout


def prep_helpers(text: str) -> dict[str, str]:
    """{name: parameters} of all io_uring_prep_* that the text defines."""
    found = re.findall(r"\bvoid\s+(io_uring_prep_\w+)\s*\(([^()]*)\)", text)
    return {name: " ".join(parameters.split()) for name, parameters in found}


def declared() -> dict[str, str]:
    """{name: C declaration} of all functions of declarations.py."""
    table = runpy.run_path(os.path.join(HERE, "declarations.py"))
    found = {}
    for name, parameters in re.findall(r"(\w+)\(([^()]*)\)", table["PREP"]):
        parameters = ", ".join(filter(None, ["struct io_uring_sqe *sqe", " ".join(parameters.split())]))
        found[f"io_uring_prep_{name}"] = f"void io_uring_prep_{name}({parameters});"
    for declaration in filter(None, map(str.strip, table["FUNCTIONS"].split(";"))):
        match = re.search(r"(\w+)\(", declaration)
        assert match, declaration
        found[match[1]] = " ".join(declaration.split()) + ";"
    return found


def numbers() -> dict[str, int]:
    """{name in C: value} of all members of enums.py."""
    enums = runpy.run_path(os.path.join(HERE, "enums.py"))
    return {member.c_name: int(member) for name in enums["__all__"] for member in enums[name]}


def base_declarations() -> str:
    """Constants, types and our own additions, for FFI.cdef."""
    table = runpy.run_path(os.path.join(HERE, "declarations.py"))
    constants = [f"#define {name} ..." for name in [*numbers(), *table["CONSTANTS"].split()]]
    return "\n".join([*constants, table["TYPES"], "static const char *const ul_liburing_version;"])


def unknown_to_us(builder, text: str) -> None:  # type: ignore[no-untyped-def]
    """Declare the prep helpers that this liburing has and declarations.py does not know."""
    from cffi import CDefError  # type: ignore[import-untyped]

    known = declared()
    for name, parameters in prep_helpers(text).items():
        if name in known:
            continue
        for struct in re.findall(r"struct (\w+)", parameters):
            if f"struct {struct}" not in builder._parser._declarations:
                builder.cdef(f"struct {struct};")
        try:
            builder.cdef(f"void {name}({parameters});")
        except CDefError as error:
            print(f"warning: {name} is new in this liburing and left out: {error}", file=sys.stderr)


def substitutes(text: str, version: str) -> list[str]:
    """Lines of C for newer.h: what is not in the header's text, or wrong in this version of liburing."""

    def ordered(dotted: str) -> list[int]:
        return [int(part) for part in re.findall(r"\d+", dotted)]

    has = set(re.findall(r"\w+", text))
    lines = [f"#define UL_LACKS_{name} 1" for name in declared() if name not in has]
    lines += [f"#define {name} {value}U" for name, value in numbers().items() if name not in has]
    for name, mended in WRONG_BEFORE.items():
        if name in has and ordered(version) < ordered(mended):
            lines += [f"#define UL_LACKS_{name} 1", f"#define {name} ul_{name}"]
    return lines


def ffibuilder():  # type: ignore[no-untyped-def]
    """The cffi.FFI that setup.py's `cffi_modules` compiles."""
    from cffi import FFI

    flags = liburing_flags()
    text = header_text(flags["extra_compile_args"])
    version = pkg_config("--modversion") or ""
    end = SOURCE_END.format(version=version, is_static="extra_objects" in flags)
    flags["extra_compile_args"] += ["-O2", "-Wall", "-Wno-unused-function", "-Wno-cpp"]
    builder = FFI()
    builder.cdef(base_declarations())
    builder.cdef("\n".join(declared().values()))
    unknown_to_us(builder, text)
    builder.set_source(
        "uringloop.liburing._ffi",
        SOURCE + "\n".join(substitutes(text, version)) + end,
        include_dirs=["uringloop/liburing"],
        depends=[f"uringloop/liburing/{one}" for one in MADE_OF],
        **flags,
    )
    return builder

"""liburing itself, for raw requests: `ffi` and `lib` of a cffi module that is compiled against its header.

    from uringloop.liburing import ffi, lib

    lib.io_uring_prep_nop(sqe)                # every io_uring_prep_* of liburing 2.15, on every build
    lib.IOSQE_ASYNC                           # and its constants
    how = ffi.new("struct open_how *")        # structs that requests point to

Both are loaded when first asked for: a loop needs neither.  A build without liburing has none; then asking
raises ImportError.
"""

from typing import Any

__all__ = ["ffi", "lib"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'uringloop.liburing' has no attribute {name!r}")
    try:
        from ._ffi import ffi, lib
    except ModuleNotFoundError as error:
        if error.name == "_cffi_backend":
            raise ImportError("uringloop.liburing needs cffi at run time: pip install cffi") from error
        raise ImportError(
            "this build of uringloop has no liburing (URINGLOOP_WITHOUT_LIBURING was set when it was built, "
            "or the source tree was not built); install liburing-dev and pkg-config and build it again",
            name=error.name,
        ) from error
    globals().update(ffi=ffi, lib=lib)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

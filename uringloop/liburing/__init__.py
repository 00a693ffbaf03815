"""liburing itself, for raw requests: `ffi` and `lib` of a cffi module that is compiled against its header.

    from uringloop.liburing import Op, SqeFlag, ffi, lib, probe

    lib.io_uring_prep_nop(sqe)                # every io_uring_prep_* of liburing 2.15, on every build
    sqe.flags |= SqeFlag.ASYNC                # the kernel's numbers as enums: Op.WAITID.since == "6.7"
    how = ffi.new("struct open_how *")        # structs that requests point to
    probe().supports(Op.WAITID)               # what this kernel has

All is loaded on first access: a loop needs none of it.  A build without liburing has no `ffi` and `lib`;
access to them then raises ImportError.
"""

import importlib as _importlib
import sys as _sys
from typing import Any as _Any

# Where each name is defined.
_HOMES = {
    "ffi": "_ffi",
    "lib": "_ffi",
    "Probe": "probing",
    "probe": "probing",
    "AcceptFlag": "enums",
    "BufferRingFlag": "enums",
    "CancelFlag": "enums",
    "CqRingFlag": "enums",
    "CqeFlag": "enums",
    "EnterFlag": "enums",
    "Feature": "enums",
    "FixedFdFlag": "enums",
    "FsyncFlag": "enums",
    "FutexFlag": "enums",
    "MsgRingCommand": "enums",
    "MsgRingFlag": "enums",
    "NopFlag": "enums",
    "Op": "enums",
    "PollFlag": "enums",
    "RegisterOp": "enums",
    "SendRecvFlag": "enums",
    "SetupFlag": "enums",
    "SocketOp": "enums",
    "SpliceFlag": "enums",
    "SqRingFlag": "enums",
    "SqeFlag": "enums",
    "TimeoutFlag": "enums",
    "UringCmdFlag": "enums",
}

__all__ = [
    "AcceptFlag",
    "BufferRingFlag",
    "CancelFlag",
    "CqRingFlag",
    "CqeFlag",
    "EnterFlag",
    "Feature",
    "FixedFdFlag",
    "FsyncFlag",
    "FutexFlag",
    "MsgRingCommand",
    "MsgRingFlag",
    "NopFlag",
    "Op",
    "PollFlag",
    "Probe",
    "RegisterOp",
    "SendRecvFlag",
    "SetupFlag",
    "SocketOp",
    "SpliceFlag",
    "SqRingFlag",
    "SqeFlag",
    "TimeoutFlag",
    "UringCmdFlag",
    "ffi",
    "lib",
    "probe",
]


def __getattr__(name: str) -> _Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'uringloop.liburing' has no attribute {name!r}")
    try:
        module = _importlib.import_module(f".{home}", __name__)
    except ModuleNotFoundError as error:
        if error.name == "_cffi_backend":
            raise ImportError("uringloop.liburing needs cffi at run time: pip install cffi") from error
        if _sys.version_info[:2] == (3, 13) and "free-threading" in _sys.version:
            raise ImportError(
                "uringloop.liburing needs cffi, which has no version for the free-threaded Python 3.13, but for 3.14t"
            ) from error
        raise ImportError(
            "this build of uringloop has no liburing (URINGLOOP_WITHOUT_LIBURING was set when it was built, "
            "or the source tree was not built); build it again without that variable",
            name=error.name,
        ) from error
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    """Without the modules of this folder."""
    return sorted({*(name for name in globals() if name.startswith("_")), *__all__})

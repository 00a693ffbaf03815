"""The targets, by name. Each is a module with check(data), which raises if something is wrong, and SEEDS."""

import importlib
import importlib.util
from types import ModuleType

NEED_LIBURING = ("buffers", "requests")
NAMES = ("addresses", "buffers", "datagrams", "requests", "streams", "surroundings", "tls")


def available() -> list[str]:
    has_liburing = importlib.util.find_spec("uringloop.uring.ring") is not None
    has_cffi = importlib.util.find_spec("cffi") is not None
    return [name for name in NAMES if name not in NEED_LIBURING or (has_liburing and has_cffi)]


def load(name: str) -> ModuleType:
    return importlib.import_module(f"{__package__}.{name}")

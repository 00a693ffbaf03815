"""Worker classes for gunicorn, each made on first use, from the class of the package that it needs:

gunicorn -k uringloop.gunicorn.UvicornWorker app:app
"""

import asyncio as _asyncio
import importlib as _importlib
from typing import Any as _Any

from .adopt import make_default as _make_default

# Ours: the modules where to find its base class, the first that exists; that class; what to install.
_BASES = {
    "AiohttpWorker": (("aiohttp.worker",), "GunicornWebWorker", "aiohttp"),
    "AsgiWorker": (("gunicorn.workers.gasgi",), "ASGIWorker", "gunicorn 24 or newer"),
    "TornadoWorker": (("gunicorn.workers.gtornado",), "TornadoWorker", "tornado"),
    "UvicornWorker": (("uvicorn_worker", "uvicorn.workers"), "UvicornWorker", "uvicorn-worker"),
}

__all__ = ["AiohttpWorker", "AsgiWorker", "TornadoWorker", "UvicornWorker"]

AiohttpWorker: type  # by __getattr__, as the others
AsgiWorker: type
TornadoWorker: type
UvicornWorker: type


class _OnUringloop:
    """A worker process whose loops are uringloop's; gunicorn calls init_process() after the fork."""

    cfg: _Any

    def init_process(self) -> None:
        _make_default()
        # One that cannot be made ends the master with gunicorn's status of a worker that failed to boot.  Later it
        # would be a worker that died, which the master replaces without end.
        _asyncio.new_event_loop().close()
        if "asgi_loop" in self.cfg.settings:
            self.cfg.set("asgi_loop", "asyncio")  # otherwise an installed uvloop
        super().init_process()  # type: ignore[misc]


def _make(name: str) -> type:
    modules, base, package = _BASES[name]
    for module in modules:
        try:
            found = getattr(_importlib.import_module(module), base)
            break
        except ModuleNotFoundError as error:
            reason = error
    else:
        raise ImportError(f"uringloop.gunicorn.{name} needs {package}: {reason}") from reason
    attributes: dict[str, _Any] = {
        "__module__": __name__,
        "__doc__": f"{found.__module__}.{base} on uringloop.",
    }
    if hasattr(found, "CONFIG_KWARGS"):
        # uvicorn's name of asyncio's default: in all versions, while the meaning of module:name has changed
        attributes["CONFIG_KWARGS"] = {**found.CONFIG_KWARGS, "loop": "none"}
    return type(name, (_OnUringloop, found), attributes)


def __getattr__(name: str) -> _Any:
    if name not in _BASES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = made = _make(name)
    return made


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("_"))})

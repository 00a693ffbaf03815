"""uringloop as the default loop of a process, and as what `import uvloop` finds, without importing uringloop.

This module is beside the package, not in it: uringloop.pth imports it at the start of every interpreter whose
environment has URINGLOOP_AS, and importing a module of the package would import the package.  A program that never
makes a loop does not pay for one.  uringloop.adopt has the public functions.

1. make_default() replaces what asyncio's default policy makes, `_loop_factory` of its class.  It is one attribute,
   there since policies exist, through which asyncio.run(), asyncio.Runner, asyncio.new_event_loop() and, before Python
   3.14, asyncio.get_event_loop() make loops.  A policy object of our own would do less: set_event_loop_policy(None)
   and programs that derive their policy from asyncio's default one would go back to asyncio's loop.  It would also
   raise a DeprecationWarning since Python 3.14.
   Python 3.16 has no policies.  There the function asyncio.new_event_loop is replaced, in asyncio and in
   asyncio.events, where asyncio.Runner finds it.
   A policy that a program sets itself, a loop_factory, and classes such as asyncio.SelectorEventLoop are not changed.
2. provide_uvloop() puts a finder before all others, which makes the modules `uvloop` and `uvloop.loop`.
3. If asyncio is not imported yet, the same finder waits for it: its import would cost a program that does not use it
   more than everything here.
"""

from __future__ import annotations

import _thread
import os
import sys
from importlib.machinery import ModuleSpec

TYPE_CHECKING = False  # for type checkers it is true; `typing` costs an interpreter more than all the rest
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence
    from importlib.abc import Loader
    from types import ModuleType
    from typing import Any

ENVIRONMENT = "URINGLOOP_AS"

# The version whose names the module has.  Programs compare it, as numbers: a suffix would break them.
UVLOOP_VERSION = "0.23.0"


def new_loop() -> asyncio.AbstractEventLoop:
    """Import uringloop on first use."""
    from uringloop import new_event_loop

    return new_event_loop()


# asyncio


def make_default() -> None:
    """Make uringloop the default of asyncio.run(), asyncio.Runner and asyncio.new_event_loop() in this process."""
    if "asyncio" in sys.modules:
        _change_asyncio()
    else:
        _finder.waits_for_asyncio = True
        _add_finder()


def _change_asyncio() -> None:
    _finder.waits_for_asyncio = False
    import asyncio
    from asyncio import events, unix_events

    policy: Any = getattr(unix_events, "_UnixDefaultEventLoopPolicy", None)
    if policy is not None:
        policy._loop_factory = staticmethod(new_loop)
    else:
        events.new_event_loop = asyncio.new_event_loop = new_loop


class _ThenChangeAsyncio:
    """asyncio's loader, for one import: the module keeps the original one."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        _change_asyncio()


# uvloop


def provide_uvloop() -> None:
    """Make `import uvloop` find uringloop in this process, whether uvloop is installed or not.

    Raises: RuntimeError if the process has imported uvloop already.
    """
    module = sys.modules.get("uvloop")
    if module is not None and not isinstance(getattr(module, "__loader__", None), _UvloopLoader):
        raise RuntimeError("uvloop is imported already: uringloop must take its place before")
    _finder.provides_uvloop = True
    _add_finder()


class _UvloopLoader:
    """Makes `uvloop`, a package, and `uvloop.loop`."""

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        try:
            import uringloop
        except ImportError as error:
            # Most programs take that for an uvloop that is not installed, and use asyncio's loop.
            _report(f"`import {module.__name__}` fails: {error}")
            raise
        vars(module)["Loop"] = uringloop.Loop
        if module.__name__ == "uvloop":
            vars(module).update(
                __all__=("new_event_loop", "run"),
                __doc__="uringloop, in the place of uvloop; see uringloop.adopt.",
                __version__=UVLOOP_VERSION,
                __getattr__=_policy_names,
                new_event_loop=uringloop.new_event_loop,
                run=uringloop.run,
            )
            __import__("uvloop.loop")  # an attribute of uvloop, as soon as that is imported


def _policy_names(name: str) -> Any:
    """__getattr__ of the module: these names exist while asyncio has policies, and the class is made on first use."""
    if name in ("EventLoopPolicy", "install"):
        import uringloop

        return getattr(uringloop, name)
    raise AttributeError(f"module 'uvloop' has no attribute {name!r} (it is uringloop's)")


# The import system


class _Finder:
    """Finds what this module provides; everything else is left to the other finders."""

    waits_for_asyncio = False
    provides_uvloop = False

    def __init__(self) -> None:
        self._searching: set[int] = set()  # threads inside of _find_asyncio()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name in ("uvloop", "uvloop.loop") and self.provides_uvloop:
            loader: Loader = _UvloopLoader()  # type: ignore[assignment]
            return ModuleSpec(name, loader, origin="uringloop", is_package=name == "uvloop")
        if name == "asyncio" and self.waits_for_asyncio:
            thread = _thread.get_ident()
            if thread in self._searching:
                return None  # another finder asks all the others, too
            self._searching.add(thread)
            try:
                return self._find_asyncio(path, target)
            finally:
                self._searching.discard(thread)
        return None

    def _find_asyncio(self, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
        for finder in sys.meta_path:
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec("asyncio", path, target)
                if spec is not None:
                    spec.loader = _ThenChangeAsyncio(spec.loader)  # type: ignore[assignment]
                    return spec
        return None


_finder = _Finder()


def _add_finder() -> None:
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


# The environment

_WAYS = {"asyncio": make_default, "uvloop": provide_uvloop}

_started = False


def start() -> None:
    """Do what URINGLOOP_AS asks.  Every Python process of that environment calls this, also those that have nothing to
    do with it: an error is one line on stderr, and the process goes on.
    """
    global _started
    if _started:
        return  # site reads the .pth files of a virtual environment twice
    _started = True
    for name in filter(None, (word.strip() for word in os.environ.get(ENVIRONMENT, "").split(","))):
        try:
            if name not in _WAYS:
                raise ValueError(f"it must be {' or '.join(_WAYS)}, or both with a comma")
            _WAYS[name]()
        except Exception as error:
            _report(f"{ENVIRONMENT}={ascii(name)[1:-1]} is ignored: {error}")


def _report(text: str) -> None:
    try:
        if sys.stderr is not None:
            print(f"uringloop: {text}", file=sys.stderr, flush=True)
    except (OSError, ValueError):
        pass  # a full disk, a closed pipe: a program that does not write there must not end for it

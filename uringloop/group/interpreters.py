"""Sub-interpreters with a GIL of their own: one set of functions for Python 3.12, and for 3.13 and later."""

from __future__ import annotations

import sys
from typing import Any

# From 3.13 on uringloop's tests run in sub-interpreters; Python 3.12's own support is a preview.  Without a GIL threads
# run at the same time, and share what they have imported.
ARE_THERE = sys.version_info >= (3, 12)


def are_default() -> bool:
    """Whether a group takes them, if it may choose."""
    return sys.version_info >= (3, 13) and getattr(sys, "_is_gil_enabled", lambda: True)()


def _module() -> Any:
    """Python's own module, which concurrent.interpreters is made of in 3.14."""
    if sys.version_info >= (3, 13):
        import _interpreters

        return _interpreters
    import _xxsubinterpreters  # type: ignore[import-not-found]

    return _xxsubinterpreters


def create() -> Any:
    """A new interpreter.  Raises: RuntimeError."""
    # Python 3.13 corrupts memory where two interpreters are the first to import datetime, at the same time: its static
    # types are set up by both.  Not once it is loaded here; 3.14 has no such types.
    import datetime  # noqa: F401

    if sys.version_info >= (3, 13):
        return _module().create("isolated")
    return _module().create(isolated=True)


def run(interpreter: Any, code: str) -> str | None:
    """Run code in this thread until it ends.  Returns: None, or what it raised, with the traceback, as text."""
    module = _module()
    if sys.version_info >= (3, 13):
        failure = module.exec(interpreter, code)
        if failure is None:
            return None
        return getattr(failure, "errdisplay", None) or failure.formatted
    try:
        module.run_string(interpreter, code)
    except module.RunFailedError as error:
        return str(error)
    return None


def destroy(interpreter: Any) -> None:
    """End it; nothing runs in it any more."""
    _module().destroy(interpreter)

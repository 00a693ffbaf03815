"""Which backend a loop has: chosen once for each kind of loop, loaded on first use."""

from __future__ import annotations

import asyncio
import logging

from .backend import Backend

__all__ = ["backend_of"]


def backend_of(loop: asyncio.AbstractEventLoop) -> Backend:
    """A backend for a loop: requests where it has add_sqe(), threads on all others, including stock asyncio."""
    supports_sqe = getattr(loop, "supports_sqe", False)
    kind = _kinds.get(supports_sqe) or _load(supports_sqe)
    return kind(loop)


# supports_sqe -> class; a build without liburing has no ring_backend
_kinds: dict[bool, type[Backend]] = {}


def _load(supports_sqe: bool) -> type[Backend]:
    _kinds[supports_sqe] = (_ring_backend() if supports_sqe else None) or _thread_backend()
    return _kinds[supports_sqe]


def _ring_backend() -> type[Backend] | None:
    try:
        from .ring_backend import RingBackend
    except ImportError as error:
        if "interpreter" not in str(error) and "free-threaded" not in str(error):
            raise  # a broken installation, not cffi's refusal of this interpreter
        logging.getLogger("uringloop").debug("files are read and written by threads: %s", error)
        return None
    return RingBackend


def _thread_backend() -> type[Backend]:
    from .thread_backend import ThreadBackend

    return ThreadBackend

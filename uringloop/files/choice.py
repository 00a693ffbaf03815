"""Which backend a loop has: chosen once for each kind of loop, loaded on first use."""

from __future__ import annotations

import asyncio

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
    if supports_sqe:
        from .ring_backend import RingBackend

        _kinds[True] = RingBackend
    else:
        from .thread_backend import ThreadBackend

        _kinds[False] = ThreadBackend
    return _kinds[supports_sqe]

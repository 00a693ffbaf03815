import asyncio
from typing import Any

from .page_cache import CachedReads

class ReadAhead:
    _cached: CachedReads | None
    _loop: asyncio.AbstractEventLoop
    _lock: Any
    _ahead: bytes
    _dirty: bytearray
    _position: int
    _chunk_end: int
    _size_hint_bytes: int
    _at: int
    _chunk_bytes: int
    _chunk_first_bytes: int
    _chunk_most_bytes: int
    _fd: int
    _read_errno: int
    _is_closing: bool
    _is_readable: bool
    def _read_now(self, size: int | None) -> bytes | None: ...
    def _seek_now(self, offset: int, whence: int) -> int | None: ...
    def _move(self, position: int) -> int: ...

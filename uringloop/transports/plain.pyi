from typing import Any

STREAM_METHODS: tuple[str, ...]
DATAGRAM_METHODS: tuple[str, ...]
ORIGINAL: Any

def is_original(sock: object) -> bool: ...
def is_plain(sock: object, methods: tuple[str, ...]) -> bool: ...

"""getaddrinfo and getnameinfo: numeric addresses are resolved at once, everything else in a thread.

A thread for "127.0.0.1" would cost a hundred times as much, and wait behind slow lookups.  The resolver itself parses
the number, with lookups disabled, so that the result is the same in every detail (IPv6 zones, order, errors).
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from .base.part import LoopPart

_NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
_NUMERIC_NAMES = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV


def _is_literal(host: Any) -> bool:
    """An IPv4 or IPv6 address, or None, which stands for the wildcard or the loopback address."""
    if host is None:
        return True
    try:
        if isinstance(host, (bytes, bytearray)):
            host = host.decode("ascii")
        if ":" in host:
            socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
        else:
            socket.inet_aton(host)
    except (OSError, ValueError, TypeError):
        return False
    return True


def _is_number(port: Any) -> bool:
    return port is None or isinstance(port, int) or (isinstance(port, (str, bytes)) and port.isdigit())


class ResolveMixin(LoopPart):
    """Loop's name resolution."""

    async def getaddrinfo(
        self, host: Any, port: Any, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> Any:
        """See asyncio.loop.getaddrinfo."""
        if _is_literal(host) and _is_number(port):
            look_up = self._getaddrinfo_debug if self.get_debug() else socket.getaddrinfo
            try:
                return look_up(host, port, family, type, proto, flags | _NUMERIC)
            except socket.gaierror:
                pass  # the full lookup decides, and raises the right error
        return await asyncio.BaseEventLoop.getaddrinfo(
            self, host, port, family=family, type=type, proto=proto, flags=flags
        )

    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> tuple[str, str]:
        """See asyncio.loop.getnameinfo."""
        if flags & _NUMERIC_NAMES == _NUMERIC_NAMES:
            return socket.getnameinfo(sockaddr, flags)
        return await asyncio.BaseEventLoop.getnameinfo(self, sockaddr, flags)

"""asyncio's classes that ours replace, and attributes that a test has patched in them.

`unittest.mock.patch("asyncio.Transport.get_extra_info")` changes every transport of asyncio's that has the method from
there.  Ours cannot inherit from asyncio's classes (`__slots__`: layout conflict), so they look for such a patch.
"""

from __future__ import annotations

from asyncio import selector_events, sslproto
from typing import Any

# typeshed does not declare the first two
Stream: type = selector_events._SelectorSocketTransport  # type: ignore[attr-defined]
Datagram: type = selector_events._SelectorDatagramTransport  # type: ignore[attr-defined]
Tls: type = sslproto._SSLProtocolTransport


def bound(stock: type, name: str, transport: object) -> Any:
    """The attribute that a transport of asyncio's class would have, looked up and bound as Python does it there."""
    for kind in stock.__mro__:
        if name in vars(kind):
            found = vars(kind)[name]
            bind = getattr(type(found), "__get__", None)
            return found if bind is None else bind(found, transport, stock)
    raise AttributeError(name)

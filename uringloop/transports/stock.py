"""asyncio's classes that ours stand for, and what a test has patched in them.

`unittest.mock.patch("asyncio.Transport.get_extra_info")` changes every transport of asyncio's that has the method from
there.  Ours cannot inherit from asyncio's classes (`__slots__`: layout conflict), so they look for such a patch.
"""

from asyncio import selector_events, sslproto

Stream = selector_events._SelectorSocketTransport
Datagram = selector_events._SelectorDatagramTransport
Tls = sslproto._SSLProtocolTransport


def bound(stock, name, transport):
    """The attribute that a transport of this class of asyncio's would have, found and bound as Python does it there."""
    for kind in stock.__mro__:
        if name in vars(kind):
            found = vars(kind)[name]
            bind = getattr(type(found), "__get__", None)
            return found if bind is None else bind(found, transport, stock)
    raise AttributeError(name)

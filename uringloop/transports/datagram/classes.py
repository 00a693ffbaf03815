"""The thin Python subclass of the compiled datagram transport, for the reasons in transports/stream/classes.py."""

from .. import stock
from .transport import DatagramTransport


class _SelectorDatagramTransport(DatagramTransport):
    """A datagram socket; `isinstance` holds for this Python's own datagram transport and its bases."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return stock.Datagram

"""Thin Python subclasses of the compiled transports.

They give each transport a `__dict__`, so that methods can be patched, and asyncio's class for isinstance(): a cdef
class cannot inherit from asyncio.Transport, which has `__slots__` (layout conflict).  Their names are those of
asyncio's own classes, which stand in `repr()` and in logs, and which programs look for in `type(transport).__name__`.
"""

from asyncio import constants

from . import stock
from .datagram import DatagramTransport
from .stream import StreamTransport


class _SelectorSocketTransport(StreamTransport):
    """A connected stream socket; `isinstance(transport, asyncio.Transport)` holds."""

    _start_tls_compatible = True
    _sendfile_compatible = constants._SendfileMode.TRY_NATIVE

    @property
    def __class__(self):  # type: ignore[no-untyped-def]
        return stock.Stream


class _SelectorDatagramTransport(DatagramTransport):
    """A datagram socket; `isinstance` holds for whatever this Python's own datagram transport is."""

    @property
    def __class__(self):  # type: ignore[no-untyped-def]
        return stock.Datagram

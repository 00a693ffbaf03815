"""Thin Python subclasses of the compiled transports.

They give each transport a `__dict__`, so that methods can be patched, and asyncio's class for isinstance(): a cdef
class cannot inherit from asyncio.Transport, which has `__slots__` (layout conflict).
"""

from asyncio import constants, selector_events, transports

from .datagram import DatagramTransport as CompiledDatagramTransport
from .stream import StreamTransport


class SocketTransport(StreamTransport):
    """A connected stream socket; `isinstance(transport, asyncio.Transport)` holds."""

    _start_tls_compatible = True
    _sendfile_compatible = constants._SendfileMode.TRY_NATIVE

    @property
    def __class__(self):  # type: ignore[no-untyped-def]
        # an asyncio.Transport; this one because the fall-back of loop.sendfile() asks for it
        return transports._FlowControlMixin


class DatagramTransport(CompiledDatagramTransport):
    """A datagram socket; `isinstance` holds for whatever this Python's own datagram transport is."""

    @property
    def __class__(self):  # type: ignore[no-untyped-def]
        return selector_events._SelectorDatagramTransport

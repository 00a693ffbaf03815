"""The thin Python subclass of the compiled stream transport.

It gives each transport a `__dict__`, so that methods can be patched, and asyncio's class for isinstance(): a cdef
class cannot inherit from asyncio.Transport, which has `__slots__` (layout conflict).  Its name is that of asyncio's own
class, which appears in `repr()` and in logs, and which programs look for in `type(transport).__name__`.
"""

from asyncio import constants

from .. import stock
from .transport import StreamTransport


class _SelectorSocketTransport(StreamTransport):
    """A connected stream socket; `isinstance(transport, asyncio.Transport)` holds."""

    _start_tls_compatible = True
    _sendfile_compatible = constants._SendfileMode.TRY_NATIVE

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return stock.Stream

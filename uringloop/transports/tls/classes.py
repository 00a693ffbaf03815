"""The TLS transport that users see: it can be patched and is asyncio's for isinstance(); see stream/classes.py."""

from asyncio import constants

from .. import stock
from .transport import TlsTransport


class _SSLProtocolTransport(TlsTransport):
    """A TLS connection; `isinstance(transport, asyncio.Transport)` holds."""

    _start_tls_compatible = True
    _sendfile_compatible = constants._SendfileMode.FALLBACK

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return stock.Tls  # sendfile's fallback checks for the flow control class that it inherits from

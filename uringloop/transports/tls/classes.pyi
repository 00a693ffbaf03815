from asyncio.constants import _SendfileMode
from typing import ClassVar

from .transport import TlsTransport

class _SSLProtocolTransport(TlsTransport):
    _start_tls_compatible: ClassVar[bool]
    _sendfile_compatible: ClassVar[_SendfileMode]

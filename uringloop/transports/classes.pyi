from asyncio.constants import _SendfileMode
from typing import ClassVar

from .datagram import DatagramTransport
from .stream import StreamTransport

class _SelectorSocketTransport(StreamTransport):
    _start_tls_compatible: ClassVar[bool]
    _sendfile_compatible: ClassVar[_SendfileMode]

class _SelectorDatagramTransport(DatagramTransport): ...

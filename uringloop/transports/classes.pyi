from asyncio.constants import _SendfileMode
from typing import ClassVar

from .datagram import DatagramTransport as CompiledDatagramTransport
from .stream import StreamTransport

class SocketTransport(StreamTransport):
    _start_tls_compatible: ClassVar[bool]
    _sendfile_compatible: ClassVar[_SendfileMode]

class DatagramTransport(CompiledDatagramTransport): ...

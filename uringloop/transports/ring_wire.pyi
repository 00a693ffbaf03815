from typing import Self

from ..uring.request import Request
from .wire import Wire, WireEnd

class ReceiveRequest(Request): ...
class SendRequest(Request): ...

class RingWire(Wire):
    def __new__(cls, end: WireEnd, fd: int) -> Self: ...

from ..aio.context import AioContext
from ..fdmon.base import FdHandler

class FdCallbacks(FdHandler): ...

class FdWatching:
    @property
    def aio_context(self) -> AioContext: ...

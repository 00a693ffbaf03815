from .context import AioContext

class ContextOwner:
    @property
    def aio_context(self) -> AioContext: ...

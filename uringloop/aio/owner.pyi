from .context import ContextCore

class ContextOwner:
    @property
    def aio_context(self) -> ContextCore: ...

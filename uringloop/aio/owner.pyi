from .context_core import ContextCore

class ContextOwner:
    @property
    def aio_context(self) -> ContextCore: ...

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..requests.awaiting import RawRequest
from ..requests.registered import RegisteredBuffers, RegisteredFiles
from ..requests.request import Cqe
from .base.loop_core import LoopCore

class RawCore(LoopCore):
    def add_sqe(
        self,
        prep: Callable[..., object],
        *args: Any,
        callback: Callable[[Cqe], object] | None = None,
        keepalive: object = None,
        multishot: bool = False,
    ) -> RawRequest: ...
    # each part: (prep, *args)
    def add_sqes(self, chain: Iterable[tuple[Any, ...]], *, keepalive: object = None) -> list[RawRequest]: ...
    def register_buffers(self, buffers: Iterable[Any]) -> RegisteredBuffers: ...
    def register_files(self, files: int | Sequence[int]) -> RegisteredFiles: ...
    _registered_buffers: RegisteredBuffers | None
    _registered_files: RegisteredFiles | None

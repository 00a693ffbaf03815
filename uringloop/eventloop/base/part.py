"""LoopPart: what the parts of Loop that are in Python inherit from, which is nothing.

For type checkers it is the compiled part, which has no stub: what a part has from another one is Any.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .loop_core import LoopCore as LoopPart
else:
    LoopPart = object

__all__ = ["LoopPart"]

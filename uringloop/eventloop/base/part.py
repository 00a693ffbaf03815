"""LoopPart: the base class of the parts of Loop that are in Python; it is empty.

For type checkers it is the compiled part, which has no stub: attributes of other parts are Any.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .loop_core import LoopCore as LoopPart
else:
    LoopPart = object

__all__ = ["LoopPart"]

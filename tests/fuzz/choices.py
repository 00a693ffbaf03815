"""Values chosen by bytes, so that a fuzzer that changes bytes changes what a target does."""

from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


class Choices:
    """Takes values off the front of `data`; zeros when that is used up."""

    def __init__(self, data: bytes):
        self.data = data
        self.at = 0

    def __bool__(self) -> bool:
        """Whether anything is left."""
        return self.at < len(self.data)

    def bytes(self, count: int) -> bytes:
        """At most `count` bytes."""
        found = self.data[self.at : self.at + count]
        self.at += count
        return found

    def number(self, n_bytes: int = 1) -> int:
        return int.from_bytes(self.bytes(n_bytes), "little")

    def below(self, limit: int) -> int:
        return self.number(1 if limit <= 256 else 4) % limit

    def of(self, items: Sequence[Item]) -> Item:
        return items[self.below(len(items))]

    def rest(self) -> bytes:
        return self.bytes(len(self.data))

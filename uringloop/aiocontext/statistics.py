"""Statistics: what a loop or an AioContext did so far, as numbers.

A new number is a field here, and the code that counts it: FDMonitor.count_into(), Engine.count_into() and
ContextCore.count_into() write what they count under the field's name.  docs/observing.md describes each field.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True, eq=False)
class Statistics(Mapping[str, "int | str"]):
    """What a loop or an AioContext did so far; docs/observing.md says what each number counts.

    The fields are attributes, and items of a mapping: `numbers.turns` is `numbers["turns"]`.  All monitors have all of
    them; one that does not apply to a monitor is 0.  It does not change; call statistics() again for newer numbers.
    """

    fdmon: str
    turns: int = 0
    wakeups: int = 0
    syscalls: int = 0
    handlers: int = 0
    in_flight: int = 0
    submitted: int = 0
    completed: int = 0
    cq_overflows: int = 0
    leaked: int = 0
    poll_hits: int = 0
    poll_misses: int = 0
    connections: int = 0
    connections_made: int = 0
    bytes_received: int = 0
    bytes_written: int = 0
    write_pauses: int = 0

    def __getitem__(self, name: str) -> int | str:
        if name not in _NAMES:
            raise KeyError(name)
        value: int | str = getattr(self, name)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(_NAMES)

    def __len__(self) -> int:
        return len(_NAMES)

    def __hash__(self) -> int:
        return hash(tuple(self.values()))


_NAMES = tuple(one.name for one in fields(Statistics))

"""The fields of LoopGroup.statistics()."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class MemberStatistics:
    """One member.

    Attributes:
        index: its number.
        state: "starting", "serving", "draining" or "ended".
        restarts: how often it was started again.
        calls: of submit() and of the group itself, that are on their way.
        loop: the fields of loop.statistics(); empty if it does not answer.
        connections: given to it, and not ended.
        connections_given: since the group began, also to those that were in its place before.
        connections_waiting: given, and not yet taken by its loop.
        connections_taken_back: because its loop did not take them for 0.3 seconds.
        stalled: whether it is in that state now.
    """

    index: int
    state: str
    restarts: int
    calls: int
    loop: dict[str, Any]
    connections: int
    connections_given: int
    connections_waiting: int
    connections_taken_back: int
    stalled: bool


@dataclass(frozen=True)
class GroupStatistics:
    """A group.

    Attributes:
        members: each one.
        accepted: connections since the group began.
        unclaimed: connections that are accepted, while no member serves their listener.
        accept_errors: calls of accept(2) that failed, for lack of descriptors for example; tried again after a second.
        last_accept_error: the errno of the last one, or 0.
    """

    members: tuple[MemberStatistics, ...]
    accepted: int
    unclaimed: int
    accept_errors: int
    last_accept_error: int

    @property
    def connections(self) -> int:
        """Of all members."""
        return sum(member.connections for member in self.members)

    @property
    def restarts(self) -> int:
        """Of all members."""
        return sum(member.restarts for member in self.members)

    @property
    def loop(self) -> dict[str, Any]:
        """The sums of the numbers of all members' loops."""
        sums: dict[str, Any] = {}
        for member in self.members:
            for name, value in member.loop.items():
                if isinstance(value, int | float) and not isinstance(value, bool):
                    sums[name] = sums.get(name, 0) + value
        return sums

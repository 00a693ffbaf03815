"""gc_policy(): garbage collections when a loop has nothing to do; docs/garbage-collection.md.

The work is in aio/collector.pyx.  Here is what users call, and the rule that a process has one policy at a time.
"""

from __future__ import annotations

import os
import sysconfig
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from .aio.collector import Collector
from .eventloop.loop import Loop
from .policy import get_running_loop

if TYPE_CHECKING:
    from types import TracebackType

_collector: Collector | None = None  # that of the last policy


@dataclass(frozen=True, kw_only=True)
class GcPauses:
    """Collections of one kind since the policy began, of the young, the middle and the old generation."""

    collections: tuple[int, int, int]
    total_s: float
    longest_s: float


@dataclass(frozen=True, kw_only=True)
class GcStatistics:
    """What a policy did so far; it does not change, call statistics() again for newer numbers.

    idle: the loop had nothing to do.  work: in the middle of work, at the bound or by other code.  requested: when the
    policy began, and by freeze().  postponed: waits before which a collection was due, and would have taken too long.
    """

    idle: GcPauses
    work: GcPauses
    requested: GcPauses
    postponed: int


class GcPolicy:
    """Made by gc_policy(); a context manager that closes it.  Thread: any, but freeze() and close() release no GIL."""

    def __init__(self, loop: Loop, *, freeze: bool = True, bound: int | None = None) -> None:
        global _collector
        _refuse(loop)
        if bound is not None and bound < 1:
            raise ValueError(f"bound must be 1 or more objects, not {bound}")
        if _collector is not None and not _collector.is_closed:
            raise RuntimeError(
                "there is a garbage-collection policy already, and the process has one collector"
            )
        self._collector = _collector = Collector(bound or 0)
        try:
            if freeze:
                _collector.freeze()
        except BaseException:  # a signal's
            _collector.close()
            raise
        loop.aio_context._idle_work = _collector
        weakref.finalize(loop, _collector.close)

    def freeze(self) -> None:
        """Collect all garbage, and leave what is alive now out of all later collections: gc.collect(), gc.freeze().

        For after a start that goes on after gc_policy(), or when a large data set was loaded.  It takes as long as a
        full collection.  What is frozen is not collected when it becomes cyclic garbage, until close().

        Raises: RuntimeError if the policy is closed.
        """
        self._collector.freeze()

    def statistics(self) -> GcStatistics:
        """The collections and their pauses since the policy began."""
        work, idle, requested, postponed = self._collector.numbers()
        return GcStatistics(
            idle=_pauses(idle), work=_pauses(work), requested=_pauses(requested), postponed=postponed
        )

    @property
    def is_closed(self) -> bool:
        """Whether it has ended: by close(), with its loop, or because this process is a fork."""
        return bool(self._collector.is_closed)

    def close(self) -> None:
        """Restore gc's thresholds, gc.isenabled() and, if nothing was frozen before, gc.unfreeze().  Idempotent."""
        self._collector.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def gc_policy(loop: Loop | None = None, *, freeze: bool = True, bound: int | None = None) -> GcPolicy:
    """Collect garbage when the loop has nothing to do, instead of whenever enough objects were made.

    Parameters:
        loop: whose idle times are used; None for the running loop.
        freeze: begin with a full collection, and leave what is alive then out of all later ones.
        bound: objects that may be made, beyond those that were freed, before a collection interrupts work; None for 20
            times gc.get_threshold()[0].

    Returns: a GcPolicy; its close(), or the end of the loop, restores what was found.

    Raises: RuntimeError if the process has a policy already, or no loop runs and none is given, or for a loop that is
    closed or inside GLib; TypeError for loops that are not of uringloop; NotImplementedError on a free-threaded Python.
    """
    return GcPolicy(get_running_loop() if loop is None else loop, freeze=freeze, bound=bound)


def _refuse(loop: Any) -> None:
    if not isinstance(loop, Loop):
        raise TypeError(f"a garbage-collection policy needs a loop of uringloop, not {loop!r}")
    if loop.is_closed():
        raise RuntimeError("Event loop is closed")
    if getattr(loop, "_source", None) is not None:
        raise RuntimeError("a loop inside GLib does not know when the main loop has nothing to do")
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise NotImplementedError("the collector of a free-threaded Python has no generations")


def _pauses(numbers: tuple[tuple[int, int, int], int, int]) -> GcPauses:
    collections, total_ns, longest_ns = numbers
    return GcPauses(collections=collections, total_s=total_ns / 1e9, longest_s=longest_ns / 1e9)


def _end_in_child() -> None:
    """A fork child begins without a policy; what the parent froze stays frozen."""
    if _collector is not None:
        _collector.leave()


os.register_at_fork(after_in_child=_end_in_child)

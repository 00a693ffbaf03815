"""loop._ready, loop._scheduled and loop._selector, for programs that drive or inspect a stock loop.

Queue and heap are in C, so these are views: each access copies.  Programs pump the loop while something is in them,
tests find and fire timers, monitors count what waits.

Thread: any that holds the GIL, as with asyncio's deque and list.
"""

from __future__ import annotations

import selectors
import weakref
from asyncio import Handle
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any


class _View(Sequence[Handle]):
    """Handles of a loop, as they are at the moment.

    Parameters:
        loop: whose they are.
        snapshot: gives them as a list.
    """

    def __init__(self, loop: Any, snapshot: Callable[[], list[Handle]]) -> None:
        self._loop = loop
        self._snapshot = snapshot

    def __len__(self) -> int:
        return len(self._snapshot())

    def __getitem__(self, index: Any) -> Any:
        return self._snapshot()[index]

    def __iter__(self) -> Iterator[Handle]:
        return iter(self._snapshot())

    def __contains__(self, handle: object) -> bool:
        return handle in self._snapshot()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._snapshot()!r}>"

    def clear(self) -> None:
        """Cancel each handle, so that none of them is called."""
        for handle in self._snapshot():
            handle.cancel()


class ReadyView(_View):
    """loop._ready: callbacks that the next turn runs, the oldest first."""

    def append(self, handle: Handle) -> None:
        """Have a handle run as if call_soon() had made it."""
        self._loop._add_callback(handle)

    def popleft(self) -> Any:
        """Take the oldest out, for a caller that runs it itself."""
        return self._loop._take_ready()


class ScheduledView(_View):
    """loop._scheduled: timers, the earliest first; cancelled ones stay for a while, as in asyncio."""


class _SelectorMap(Mapping[Any, selectors.SelectorKey]):
    """selectors' map of watched files: fd or object with fileno() to SelectorKey."""

    def __init__(self, view: SelectorView) -> None:
        self._view = view

    def __len__(self) -> int:
        return len(self._view._fds())

    def __iter__(self) -> Iterator[int]:
        return iter(self._view._fds())

    def __getitem__(self, fileobj: Any) -> selectors.SelectorKey:
        return self._view.get_key(fileobj)


class SelectorView:
    """loop._selector: which callbacks watch which fd, for asyncio's pipe transports and programs that inspect it.

    Where its `select` is replaced, as by tools that let no time pass, each turn calls that for its wait.
    """

    def __init__(self, loop: Any) -> None:
        self._loop = weakref.ref(loop)

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        self._changed(name)

    def __delattr__(self, name: str) -> None:
        super().__delattr__(name)
        self._changed(name)

    def _changed(self, name: str) -> None:
        loop = self._loop()
        if name == "select" and loop is not None:
            loop._look_up_again()

    def select(self, timeout: float | None = None) -> Any:
        """See selectors.BaseSelector; its events are dispatched by the next turn, or by the one in progress."""
        loop = self._loop()
        return [] if loop is None else loop._select(timeout)

    def _fds(self) -> Any:
        loop = self._loop()
        return [] if loop is None else loop._watched_fds()

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        """See selectors.BaseSelector; data is (handle of the reader, handle of the writer)."""
        loop = self._loop()
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        events = 0 if loop is None else loop._watched_events(fd)
        if loop is None or not events:
            raise KeyError(f"{fileobj!r} is not registered")
        return selectors.SelectorKey(fileobj, fd, events, loop._watching_handles(fd))

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """See selectors.BaseSelector."""
        return _SelectorMap(self)


class LazySelector:
    """The class attribute `_selector`: makes a loop's view when it is first read."""

    def __get__(self, loop: Any, kind: type | None = None) -> Any:
        if loop is None:
            return self
        loop._selector = SelectorView(loop)
        return loop._selector

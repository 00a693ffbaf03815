"""loop._ready, loop._scheduled and loop._selector: what programs use that drive or inspect a stock loop.

Queue and heap are in C, so these are views: each access copies.  Programs pump the loop while something is in them,
tests find and fire timers, monitors count what waits.

Thread: any that holds the GIL, as with asyncio's deque and list.
"""

import selectors
import weakref
from collections.abc import Mapping, Sequence


class _View(Sequence):
    """Handles of a loop, as they are at the moment.

    Parameters:
        loop: whose they are.
        snapshot: gives them as a list.
    """

    def __init__(self, loop, snapshot):
        self._loop = loop
        self._snapshot = snapshot

    def __len__(self):
        return len(self._snapshot())

    def __getitem__(self, index):
        return self._snapshot()[index]

    def __iter__(self):
        return iter(self._snapshot())

    def __contains__(self, handle):
        return handle in self._snapshot()

    def __repr__(self):
        return f"<{type(self).__name__} {self._snapshot()!r}>"

    def clear(self):
        """Nothing of it will be called: each is cancelled."""
        for handle in self._snapshot():
            handle.cancel()


class ReadyView(_View):
    """loop._ready: callbacks that the next turn runs, the oldest first."""

    def append(self, handle):
        """Have a handle run as if call_soon() had made it."""
        self._loop._add_callback(handle)

    def popleft(self):
        """Take the oldest out, for a caller that runs it by itself."""
        return self._loop._take_ready()


class ScheduledView(_View):
    """loop._scheduled: timers, the earliest first; cancelled ones stay for a while, as in asyncio."""


class _SelectorMap(Mapping):
    """selectors' map of what is watched: fd or object with fileno() to SelectorKey."""

    def __init__(self, view):
        self._view = view

    def __len__(self):
        return len(self._view._fds())

    def __iter__(self):
        return iter(self._view._fds())

    def __getitem__(self, fileobj):
        return self._view.get_key(fileobj)


class SelectorView:
    """loop._selector: what watches which fd, for asyncio's pipe transports, and for programs that inspect it.

    Where its `select` is replaced, as by tools that let no time pass, each turn calls that for its wait.
    """

    def __init__(self, loop):
        self._loop = weakref.ref(loop)

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        self._changed(name)

    def __delattr__(self, name):
        super().__delattr__(name)
        self._changed(name)

    def _changed(self, name):
        loop = self._loop()
        if name == "select" and loop is not None:
            loop._look_up_again()

    def select(self, timeout=None):
        """See selectors.BaseSelector; what it finds is dispatched by the next turn, or by the one that goes on."""
        loop = self._loop()
        return [] if loop is None else loop._select(timeout)

    def _fds(self):
        loop = self._loop()
        return [] if loop is None else loop._watched_fds()

    def get_key(self, fileobj):
        """See selectors.BaseSelector; data is (handle of the reader, handle of the writer)."""
        loop = self._loop()
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        events = 0 if loop is None else loop._watched_events(fd)
        if not events:
            raise KeyError(f"{fileobj!r} is not registered")
        return selectors.SelectorKey(fileobj, fd, events, loop._watching_handles(fd))

    def get_map(self):
        """See selectors.BaseSelector."""
        return _SelectorMap(self)


class LazySelector:
    """The class attribute `_selector`: makes a loop's view when it is first read."""

    def __get__(self, loop, kind=None):
        if loop is None:
            return self
        loop._selector = SelectorView(loop)
        return loop._selector

"""EventNotifier: an eventfd with which any thread, or another process, makes a context's handler run."""

from __future__ import annotations

import os
import warnings


class EventNotifier:
    """An event that is set or not.  Source: QEMU's EventNotifier, eventfd(2).

    Raises: OSError where eventfd(2) fails.
    """

    def __init__(self) -> None:
        self._fd = -1
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """Its fd, readable while it is set; -1 after close()."""
        return self._fd

    def __repr__(self) -> str:
        return f"<EventNotifier fd={self._fd}>" if self._fd >= 0 else "<EventNotifier closed>"

    def _open_fd(self) -> int:
        if self._fd < 0:
            raise ValueError("this EventNotifier is closed")
        return self._fd

    def set(self) -> None:
        """Set it; no effect where it is set already.  Does not block.  Thread: any.

        Raises: ValueError when it is closed, as test_and_clear() does.
        """
        try:
            os.eventfd_write(self._open_fd(), 1)
        except BlockingIOError:
            pass  # the counter is full: it is set

    def test_and_clear(self) -> bool:
        """Whether it was set; afterwards it is not."""
        try:
            os.eventfd_read(self._open_fd())
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Close the fd; remove the handler first.  Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> EventNotifier:
        return self

    def __exit__(self, *_details: object) -> None:
        self.close()

    def __del__(self) -> None:
        if self._fd >= 0:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
            self.close()

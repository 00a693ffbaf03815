"""What the first child process needs, loaded then: asyncio's transport, child watchers, the exit status."""

from __future__ import annotations

import os
import subprocess
import warnings
from asyncio import events, unix_events
from asyncio.log import logger
from typing import Any

_HAS_WATCHERS = hasattr(unix_events, "AbstractChildWatcher")  # gone since Python 3.14
ThreadedWatcher: Any = (
    getattr(unix_events, "ThreadedChildWatcher", None) or unix_events._ThreadedChildWatcher  # type: ignore[attr-defined]
)


class _UnixSubprocessTransport(unix_events._UnixSubprocessTransport):  # type: ignore[name-defined]
    def send_signal(self, signal: int) -> None:
        # Pipes that a grandchild holds keep the transport open long after the child was reaped; by then its pid may
        # be another process's.
        self._check_proc()
        if self._proc.returncode is None:
            super().send_signal(signal)

    def _process_exited(self, returncode: int) -> None:
        super()._process_exited(returncode)
        # If a pipe could not be watched, there is no connection_lost(), which wakes them in Python 3.11, 3.12 and 3.14.
        if self._pending_calls is not None and self._exit_waiters:
            for waiter in self._exit_waiters:
                if not waiter.done():
                    waiter.set_result(returncode)
            self._exit_waiters.clear()

    def close_unwatched_pipes(self) -> None:
        """Close the ends of pipes that have no transport, after a start that failed."""
        process = self._proc
        for number, file in enumerate((process.stdin, process.stdout, process.stderr)):
            if file is not None and self._pipes[number] is None:
                file.close()


def watcher_of_the_user() -> Any:
    """The child watcher that the application set; None if it left the choice to asyncio."""
    if not _HAS_WATCHERS:
        return None
    policy: Any = events.get_event_loop_policy()
    stock = unix_events._UnixDefaultEventLoopPolicy
    if type(policy).get_child_watcher is stock.get_child_watcher:
        watcher = policy._watcher
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            try:
                watcher = policy.get_child_watcher()
            except NotImplementedError:
                return None  # a policy without child watchers
    if watcher is None or type(watcher) in (unix_events.ThreadedChildWatcher, unix_events.PidfdChildWatcher):
        return None
    return watcher


def reap(pidfd: int, process: subprocess.Popen[bytes]) -> int | None:
    """The exit status of the child, as Popen.returncode; None while it is not available."""
    try:
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        if process.returncode is not None:
            return process.returncode  # Popen.poll() was first
        logger.warning(
            "child process pid %d exit status already read:  will report returncode 255", process.pid
        )
        return 255
    except OSError:  # a sandbox that refuses waitid(2)
        pid, status = os.waitpid(process.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None
    if result is None:
        return None
    return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status

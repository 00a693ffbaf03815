"""Child processes: asyncio's transport, and how the loop learns that a child ended.

The loop watches a pidfd (since Linux 5.3) in its own monitor, in whatever thread it runs: no SIGCHLD handler, no thread
per child, and one fd each.  Before Python 3.14 a child watcher that the application has set is honoured; the two
kinds that asyncio sets by itself only wait, as we do, and are ignored.  Where there is no pidfd, asyncio's thread
waits.

Invariant: `_pidfds` are open and watched, and no other code closes them.
"""

from __future__ import annotations

import os
from typing import Any

from .base.part import LoopPart
from .stdlib_hooks import StdlibHooks

# A tracer of the child has not yet seen its exit: the kernel lets us wait for that.
_TRACED_RETRY_S = 0.01


class ProcessesMixin(LoopPart):
    """The part of Loop that handles child processes."""

    def _setup_processes(self) -> None:
        self._pidfds: set[int] = set()
        self._children: Any = (
            None  # the module, loaded for the first child; an import for each one costs 5 us
        )
        self._child_threads: Any = None  # asyncio's watcher for kernels without pidfd, made when needed

    def _close_processes(self) -> None:
        """The loop closes: stop reporting the exit of its children."""
        while self._pidfds:
            os.close(self._pidfds.pop())

    def _leave_processes(self) -> None:
        """In a fork child: these are the parent's children, and so is the thread that waits for some."""
        self._child_threads = None
        while self._pidfds:
            pidfd = self._pidfds.pop()
            self._remove_reader(pidfd)
            os.close(pidfd)

    async def _make_subprocess_transport(
        self,
        protocol: Any,
        args: Any,
        shell: bool,
        stdin: Any,
        stdout: Any,
        stderr: Any,
        bufsize: int,
        extra: Any = None,
        **kwargs: Any,
    ) -> Any:
        if self._children is None:
            from . import children

            self._children = children
        if self._children.watcher_of_the_user() is not None:
            return await StdlibHooks._make_subprocess_transport(
                self, protocol, args, shell, stdin, stdout, stderr, bufsize, extra, **kwargs
            )
        waiter = self.create_future()
        transport = self._children._UnixSubprocessTransport(
            self,
            protocol,
            args,
            shell,
            stdin,
            stdout,
            stderr,
            bufsize,
            waiter=waiter,
            extra=extra,
            **kwargs,
        )
        self._watch_child(transport)
        try:
            await waiter
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:
            transport.close()
            await transport._wait()
            if not waiter.cancelled():
                transport.close_unwatched_pipes()
            raise
        return transport

    def _watch_child(self, transport: Any) -> None:
        pid = transport.get_pid()
        try:
            pidfd = os.pidfd_open(pid)  # close-on-exec always
        except OSError:
            # ENOSYS: before Linux 5.3; EPERM: a sandbox; EMFILE, ENFILE: no free fd; ESRCH: SIGCHLD is ignored,
            # and the child is gone. The child was started, so the loop has to wait for it.
            if self._child_threads is None:
                self._child_threads = self._children.ThreadedWatcher()
            self._child_threads.add_child_handler(pid, self._child_watcher_callback, transport)
            return
        self._pidfds.add(pidfd)
        self._watch_pidfd(pidfd, self._child_ended, pidfd, transport)

    def _child_ended(self, pidfd: int, transport: Any) -> None:
        process = transport.get_extra_info("subprocess")
        self._remove_reader(pidfd)
        returncode = self._children.reap(pidfd, process)
        if returncode is None:
            self.call_later(_TRACED_RETRY_S, self._watch_pidfd, pidfd, self._child_ended, pidfd, transport)
            return
        self._pidfds.discard(pidfd)
        os.close(pidfd)
        # from now on its pid may be given to another process
        process.returncode = returncode
        # a turn later: the protocol first gets the output that arrived together with the exit
        self.call_soon(transport._process_exited, returncode)

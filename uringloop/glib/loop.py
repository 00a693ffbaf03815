"""GLibLoop: a Loop whose context GLib drives.

run_forever() iterates the main context; so does other code that runs it, GLib.MainLoop or Gtk.Application, and the loop
works either way.  While it does so without run_forever() the loop is the running one inside of its callbacks only.
"""

import functools
import sys
import threading
import weakref
from asyncio import events

from ..eventloop.loop import Loop
from .native import Source


class GLibLoop(Loop):
    """A uringloop.Loop inside a GLib main context.  Made by uringloop.glib.new_event_loop().

    Parameters:
        main_context: a GLib.MainContext; None for the default one.
        fdmon: "io_uring", "epoll" or "poll" to force a monitor.
        priority: GLib's priority of everything that the loop does.

    Raises: MonitorUnavailable, ValueError, RuntimeError, ImportError, TypeError.
    """

    _source = None
    _uses_python_handlers = True

    def __init__(self, main_context, fdmon, priority):
        super().__init__(fdmon)
        try:
            self._source = Source(self.aio_context, main_context, priority, _Entrance(self))
        except BaseException:
            self.close()
            raise

    def run_forever(self):
        """See asyncio.loop.run_forever; iterates the main context."""
        if self._thread_id is not None and self._is_nested_call():
            return self._run_nested_forever()
        self._run_forever_setup()
        try:
            self._source._run_loop(self)
        finally:
            self._run_forever_cleanup()

    def stop(self):
        """See asyncio.loop.stop; a main loop run by other code continues."""
        if self._source is None:
            super().stop()
        else:
            self._source._stop_loop(self)

    def _run_once(self):
        raise RuntimeError("a loop inside GLib is driven by its main context")

    def close(self):
        """See asyncio.loop.close.  Raises: RuntimeError also while another thread runs the main context."""
        if self._source is not None and not self.is_closed():
            self._source._refuse_strangers()
        super().close()

    def _close_aio_context(self):
        if self._source is not None:
            self._source.detach()
        super()._close_aio_context()

    def _forget_aio_context(self):
        if self._source is not None:
            self._source._forget()
        super()._forget_aio_context()


class _Entrance:
    """Makes its loop the running one for a dispatch, unless it is already.  It does not keep the loop alive."""

    def __init__(self, loop):
        self._loop = weakref.ref(loop)

    def __call__(self):
        loop = self._loop()
        if loop is None or events._get_running_loop() is loop:
            return None
        before = events._get_running_loop(), loop._thread_id, sys.get_asyncgen_hooks()
        loop._thread_id = threading.get_ident()
        sys.set_asyncgen_hooks(
            firstiter=loop._asyncgen_firstiter_hook, finalizer=loop._asyncgen_finalizer_hook
        )
        events._set_running_loop(loop)
        if loop._debug:
            loop._set_coroutine_origin_tracking(True)
        return functools.partial(_leave, loop, *before)


def _leave(loop, running, thread_id, hooks):
    if loop._coroutine_origin_tracking_enabled:
        loop._set_coroutine_origin_tracking(False)
    events._set_running_loop(running)
    sys.set_asyncgen_hooks(*hooks)
    loop._thread_id = thread_id

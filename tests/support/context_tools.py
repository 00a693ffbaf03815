"""Helpers of the tests of uringloop.AioContext."""

import select

from drivers.core import ForeignLoop


def settle(context):
    """Run turns until nothing makes progress and earlier notify() calls are consumed."""
    while context.poll(False):
        pass


class Counter:
    """Counts its calls; each clears `notifier`, and sets it again `active` times in all."""

    def __init__(self, notifier=None, active=0):
        self.n, self.notifier, self.active = 0, notifier, active

    def __call__(self):
        self.n += 1
        if self.notifier is not None:
            assert self.notifier.test_and_clear()
            if self.active > 1:
                self.active -= 1
                self.notifier.set()


class ForeignIterations:
    """Runs turns of a context as another main loop does, like GLib's iterations: prepare, sleep, check, dispatch."""

    def __init__(self, context):
        self.loop = ForeignLoop(context)

    def iterate(self, may_block=False):
        """Run one iteration in which no other source is ready; return whether something was dispatched."""
        is_ready = self.loop.prepare()
        if not is_ready:
            limit_ms = -1 if may_block else 0
            if self.loop.timeout_ns >= 0:
                own_ms = -(-self.loop.timeout_ns // 1_000_000)
                limit_ms = own_ms if may_block else 0
            poll = select.poll()
            for fd, events in self.loop.watched_fds().items():
                poll.register(fd, events)
            is_ready = self.loop.check(bool(poll.poll(limit_ms)))
        if is_ready:
            self.loop.dispatch()
        return is_ready

    def drain(self):
        """Iterate until nothing is dispatched; a main loop may need one iteration more than the context needs turns."""
        for _ in range(100):
            if not self.iterate():
                return
        raise AssertionError("busy without work")

    def until(self, condition):
        for _ in range(1000):
            if condition():
                return
            self.iterate(may_block=True)
        raise AssertionError(f"still false: {condition}")

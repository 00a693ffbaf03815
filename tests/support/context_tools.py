"""What tests of uringloop.AioContext do often."""

import select

from drivers.core import ForeignLoop


def settle(context):
    """Until nothing makes progress, and what notify() published is consumed."""
    while context.poll(False):
        pass


class Counter:
    """Counts its calls; `notifier` is cleared by each, and set again while `active` is left."""

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
    """Turns of a context by another main loop, as GLib's iterations: prepare, sleep, check, dispatch."""

    def __init__(self, context):
        self.loop = ForeignLoop(context)

    def iterate(self, may_block=False):
        """One iteration in which no other source is ready; whether something was dispatched."""
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
        """Until nothing is dispatched; a main loop may need an iteration more than the context has turns."""
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

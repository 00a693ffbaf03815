"""What tests of uringloop.AioContext do often."""


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

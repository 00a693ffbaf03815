"""Protocols that raise KeyboardInterrupt or SystemExit, and runs that go on afterwards."""

import pytest

from support.helpers import turn_until

INTERRUPTS = pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])


def interrupting(base, method, interrupt):
    """A protocol of class `base` whose `method` raises the first time, after it has done its work."""

    class Interrupting(base):
        is_interrupted = False

    def raising(self, *arguments):
        result = getattr(super(Interrupting, self), method)(*arguments)
        self.calls.append(method)
        if not self.is_interrupted:
            self.is_interrupted = True
            raise interrupt
        return result

    setattr(Interrupting, method, raising)
    return Interrupting()


def run_on(loop, condition):
    """Run the loop until the condition holds, whatever interrupts it; return the number of interrupts."""
    count = 0
    while True:
        try:
            turn_until(loop, condition)
        except (KeyboardInterrupt, SystemExit):
            count += 1
        else:
            return count

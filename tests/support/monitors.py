"""Monitors by name, including seeded fake ones.
`fake` behaves well; `faulty` does what the interface allows and real monitors rarely do: it
returns early, reports late and in random order. `nasty` also reports fds that are not ready, as Linux may.
`closable` is io_uring's with its epoll set for all handlers; `restless` moves all of them between that and the ring.
"""

from drivers.core import FakeMonitor

from uringloop.fdmon.select import NAMES
from uringloop.fdmon.select import make_monitor as make_real_monitor

REAL_MONITORS = NAMES
MONITORS = (*REAL_MONITORS, "closable", "restless", "fake", "faulty")

_FAULTS = {
    "fake": {},
    "faulty": {"early": 0.3, "deferred": 0.3, "reordered": 0.5},
    "nasty": {"early": 0.2, "deferred": 0.2, "reordered": 0.5, "spurious": 0.2},
}


def make_monitor(name, seed=1):
    """A monitor; `seed` is for the fake ones."""
    if name in _FAULTS:
        return FakeMonitor(seed, **_FAULTS[name])
    if name in ("closable", "restless"):
        make_real_monitor("io_uring")  # raises MonitorUnavailable where it is missing
        from drivers import ring

        return ring.ClosableMonitor() if name == "closable" else ring.RestlessMonitor()
    return make_real_monitor(name)[0]

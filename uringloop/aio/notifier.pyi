from ..fdmon.base import FdHandler

class Notifier(FdHandler):
    @property
    def n_wakeups(self) -> int: ...

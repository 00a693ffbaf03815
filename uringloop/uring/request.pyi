from enum import IntEnum

class RequestState(IntEnum):
    IDLE = 0
    IN_FLIGHT = 1
    CANCELLING = 2
    ORPHANED = 3
    DONE = 4

class InFlight:
    @property
    def count(self) -> int: ...

class Request: ...

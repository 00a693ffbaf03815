from enum import IntEnum

class RequestState(IntEnum):
    IDLE = 0
    IN_FLIGHT = 1
    CANCELLING = 2
    DONE = 3

class InFlight:
    @property
    def count(self) -> int: ...

class Request: ...

OUT_OF_RESOURCES: tuple[int, ...]

# Methods of asyncio's that say for whom a socket was made: Loop's stub has them from asyncio.BaseEventLoop.
class ServeMixin: ...

"""The owner of an AioContext, as code below the event loop knows it.

A request that is awaited belongs to a loop, and requests/ is below eventloop/.  So this is the part of the loop that
such code needs at full speed; its other calls (call_soon_threadsafe, call_exception_handler) are asyncio's methods.
"""


cdef class ContextOwner(Guarded):
    """The base of FdWatching, and so of the loop."""

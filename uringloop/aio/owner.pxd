# What runs an AioContext, as code below the event loop knows it.
from .context cimport AioContext

cdef class ContextOwner:
    cdef readonly AioContext aio_context   # owned; None before __init__
    cdef bint is_loop_closed

# The owner of an AioContext, as code below the event loop knows it.
from .context_core cimport ContextCore
from .handles cimport Guarded

cdef class ContextOwner(Guarded):
    cdef readonly ContextCore aio_context   # owned; None before __init__
    cdef bint is_loop_closed
    cdef public object _registered_buffers  # RegisteredBuffers, or None

# Interests in fds: those of add_reader and add_writer.
from ...aio.context_core cimport ContextCore
from ...aio.handles cimport Handle
from ...aio.owner cimport ContextOwner
from ...fdmon.base cimport FdHandler

cdef int EVENT_READ, EVENT_WRITE  # of selectors

cdef class FdCallbacks(FdHandler):
    cdef ContextCore aio_context
    cdef Handle reader               # of add_reader, or None
    cdef Handle writer               # of add_writer, or None
    cdef object file                 # what was to be watched: a number, or an object with fileno()
    cdef object sock                 # the socket that has this number, where it is known; or None

cdef class FdWatching(ContextOwner):
    cdef dict fd_callbacks           # fd -> FdCallbacks
    cdef Handle new_handle(self, object callback, object args, object context)
    cdef int change(self, int fd, FdCallbacks old, Handle reader, Handle writer, object file,
                    bint is_brief, object sock) except -1
    cdef Handle watch_readable(self, object fd, object callback, object args, bint is_brief)
    cdef Handle watch_writable(self, object fd, object callback, object args, bint is_brief)
    cdef Handle watch_file_readable(self, int number, object file, object callback, object args, bint is_brief,
                                    object sock)
    cdef Handle watch_file_writable(self, int number, object file, object callback, object args, bint is_brief,
                                    object sock)
    cdef int forget_fd(self, FdCallbacks old) except -1
    cdef FdCallbacks watched(self, int fd)
    cdef int remove(self, FdCallbacks old, Handle reader, Handle writer) except -1
    cdef FdCallbacks callbacks_of(self, object fd)

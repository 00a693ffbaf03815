"""Watching fds: loop.add_reader, add_writer and their counterparts.

One FdCallbacks per fd, for both directions; a change of interest makes a new one, since handlers never change.

Invariant: an fd that the monitor refuses, or found closed, is not kept: as with selectors, such a change fails once
and ends the interest in both directions.

Thread: the loop's.
"""

from libc.errno cimport EBADF

from ...aio.context_core cimport ContextCore
from ...aio.handles cimport Handle
from ...aio.owner cimport ContextOwner
from ...aio.poll_handlers cimport CallbackHandler
from ...fdmon.base cimport OF_FD, FdHandler
from ...support.errors cimport os_error
from ...support.system cimport POLLIN, POLLOUT
from ...transports.base cimport has_lost

import selectors

cdef object OWN = object()

# C variables: a transport's __del__ reads them when module globals may be gone.
EVENT_READ = selectors.EVENT_READ
EVENT_WRITE = selectors.EVENT_WRITE


cdef class FdCallbacks(FdHandler):
    """The interests of add_reader and add_writer in one fd."""

    cdef int on_ready(self, short revents) except -1:
        # as selectors.EpollSelector: an error or a hang-up wakes both directions
        cdef Handle reader = self.reader if revents & ~POLLOUT else None
        cdef Handle writer = self.writer if revents & ~POLLIN else None
        cdef ContextCore aio_context = self.aio_context
        if reader is not None and writer is None:
            aio_context.run_handle(OF_FD, reader)  # most events: try would cost some 30 instructions
        elif reader is not None:
            try:
                aio_context.run_handle(OF_FD, reader)
            except BaseException:
                # KeyboardInterrupt, SystemExit: in the next turn the writer is first, or a reader that always raises
                # would starve it
                aio_context.ready.push(writer)
                raise
        # cancelled by remove_writer meanwhile: run() does nothing then
        if writer is not None:
            aio_context.run_handle(OF_FD, writer)
        return 0

    cdef object subject(self):
        return None  # run_handle reports by itself, and names the callback

    cdef bint is_closed_by_program(self) except -1:
        return has_lost(self.file if self.sock is None else self.sock, self.fd)


cdef class FdWatching(ContextOwner):
    """The base of LoopCore that watches fds."""

    def __cinit__(self, *args, **kwargs):
        self.fd_callbacks = {}

    cdef Handle new_handle(self, object callback, object args, object context):
        """A handle that nothing has queued yet."""
        raise NotImplementedError

    cdef int change(self, int fd, FdCallbacks old, Handle reader, Handle writer, object file,
                    bint is_brief, object sock) except -1:
        """Watch fd for these two from now on; no handle, no interest.

        Parameters:
            file: what was to be watched: a number, or an object with fileno().
            is_brief: see FdHandler.
            sock: the socket that has the fd, where only its number was to be watched; None; or OWN, if only the loop
                closes it.
        """
        cdef FdCallbacks new = None
        cdef short kept = 0
        cdef short wanted = (POLLIN if reader is not None else 0) | (POLLOUT if writer is not None else 0)
        if old is None and isinstance(self.aio_context.monitor.handlers.get(fd), CallbackHandler):
            # as for a transport's; replaced silently, its callbacks would never be called again
            raise RuntimeError(f"File descriptor {fd} is watched by AioContext.set_fd_handler(); remove that first")
        if wanted:
            new = FdCallbacks(fd, wanted)
            new.may_be_closed = sock is not OWN
            new.is_brief = is_brief
            new.aio_context = self.aio_context
            new.reader = reader
            new.writer = writer
            new.file = old.file if old is not None and type(file) is int else file
            new.sock = sock if sock is not OWN else None
        if old is not None and old.is_queued and new is not None:
            # An event that waits for dispatch stays with the callback it is for, or changing the other
            # direction in each turn would starve it. A hang-up is for both: a new callback must not get it.
            if reader is not None and old.reader is reader and old.revents & ~POLLOUT:
                kept |= POLLIN
            if writer is not None and old.writer is writer and old.revents & ~POLLIN:
                kept |= POLLOUT
        if new is not None:
            self.fd_callbacks[fd] = new  # before the monitor has it: what it watches must be here to be removed
        try:
            self.aio_context.exchange_handler(old, whose_fd(old), new, whose_fd(new))
        except BaseException:
            if old is None:
                self.fd_callbacks.pop(fd, None)
            elif old.is_removed:
                self.forget_fd(old)
            else:
                self.fd_callbacks[fd] = old
            raise
        if kept:
            self.aio_context.ready_list.append(new, kept)
        if new is None:
            self.fd_callbacks.pop(fd, None)
        return 0

    cdef int forget_fd(self, FdCallbacks old) except -1:
        """Stop watching for these: their fd was closed, or is another file by now.

        They count as cancelled: a task that waits for one may find that others replaced it.
        """
        self.fd_callbacks.pop(old.fd, None)
        if old.reader is not None:
            old.reader.cancel()
        if old.writer is not None:
            old.writer.cancel()
        return 0

    cdef FdCallbacks watched(self, int fd):
        """Callbacks of a number that is to be watched for more; None, too, for an fd that the monitor found closed.

        An interest in the old file must not be reported for the one that has its number now.
        """
        cdef FdCallbacks found = self.fd_callbacks.get(fd)
        if found is not None and found.is_removed:
            self.forget_fd(found)
            return None
        return found

    cdef int remove(self, FdCallbacks old, Handle reader, Handle writer) except -1:
        """Watch only for these two from now on; a closed fd is an error if one of them is left, as in asyncio."""
        if old.is_removed and (reader is not None or writer is not None):
            self.forget_fd(old)
            raise os_error(EBADF)
        return self.change(old.fd, old, reader, writer, old.file, old.is_brief, old.sock)

    cdef FdCallbacks callbacks_of(self, object fd):
        """Callbacks of a number or file, or None; as in selectors also those of a closed file."""
        cdef FdCallbacks one
        try:
            return self.fd_callbacks.get(as_fd(fd))
        except OverflowError:
            return None  # no file has such a number
        except ValueError:
            for one in self.fd_callbacks.values():
                if one.file is fd:
                    return one
            raise

    cdef Handle watch_readable(self, object fd, object callback, object args, bint is_brief):
        self._check_closed()  # before the number is checked, as in asyncio
        return self.watch_file_readable(as_fd(fd), fd, callback, args, is_brief, None)

    cdef Handle watch_file_readable(self, int number, object file, object callback, object args, bint is_brief,
                                    object sock):
        cdef FdCallbacks old = self.watched(number)
        cdef Handle handle
        self._check_closed()
        handle = self.new_handle(callback, args, None)
        self.change(number, old, handle, old.writer if old is not None else None, file,
                    is_brief and (old is None or old.is_brief), sock)
        if old is not None and old.reader is not None:
            old.reader.cancel()
        return handle

    cdef Handle watch_writable(self, object fd, object callback, object args, bint is_brief):
        self._check_closed()  # before the number is checked, as in asyncio
        return self.watch_file_writable(as_fd(fd), fd, callback, args, is_brief, None)

    cdef Handle watch_file_writable(self, int number, object file, object callback, object args, bint is_brief,
                                    object sock):
        cdef FdCallbacks old = self.watched(number)
        cdef Handle handle
        self._check_closed()
        handle = self.new_handle(callback, args, None)
        self.change(number, old, old.reader if old is not None else None, handle, file,
                    is_brief and (old is None or old.is_brief), sock)
        if old is not None and old.writer is not None:
            old.writer.cancel()
        return handle

    def _add_reader(self, fd, callback, *args):
        return self.watch_readable(fd, callback, args, False)

    def _add_writer(self, fd, callback, *args):
        return self.watch_writable(fd, callback, args, False)

    def _watch_pidfd(self, int fd, callback, *args):
        """_add_reader() of an fd that only the loop closes: a request watches, which costs less than an epoll set."""
        return self.watch_file_readable(fd, fd, callback, args, False, OWN)

    def _watch_own_readable(self, int fd, sock, callback, *args):
        """_add_reader() in the way that costs least for short waits: see FdHandler.is_brief.

        Parameters:
            sock: the socket that has this fd.
        """
        return self.watch_file_readable(fd, fd, callback, args, True, sock)

    def _watch_own_writable(self, int fd, sock, callback, *args):
        return self.watch_file_writable(fd, fd, callback, args, True, sock)

    def _remove_reader(self, fd):
        cdef FdCallbacks old
        if self.is_loop_closed:
            return False
        old = self.callbacks_of(fd)
        if old is None or old.reader is None:
            return False
        self.remove(old, None, old.writer)
        old.reader.cancel()
        return True

    def _remove_writer(self, fd):
        cdef FdCallbacks old
        if self.is_loop_closed:
            return False
        old = self.callbacks_of(fd)
        if old is None or old.writer is None:
            return False
        self.remove(old, old.reader, None)
        old.writer.cancel()
        return True

    def _watched_events(self, int fd):
        """EVENT_READ and EVENT_WRITE bits of selectors for which fd is watched, 0 for none."""
        cdef FdCallbacks found = self.fd_callbacks.get(fd)
        if found is None:
            return 0
        return (EVENT_READ if found.reader is not None else 0) | (EVENT_WRITE if found.writer is not None else 0)

    def _watched_fds(self):
        """The fds that add_reader and add_writer watch; a list."""
        return list(self.fd_callbacks)

    def _watching_handles(self, int fd):
        """The handles of its reader and of its writer, None for none."""
        cdef FdCallbacks found = self.fd_callbacks.get(fd)
        return (None, None) if found is None else (found.reader, found.writer)


cdef object whose_fd(FdCallbacks callbacks):
    """The object that has the fd, or its number."""
    if callbacks is None:
        return None
    return callbacks.file if callbacks.sock is None else callbacks.sock


cdef int as_fd(object fd) except -1:
    """A file descriptor from an int or an object with fileno(); asyncio's exceptions."""
    cdef int number
    if type(fd) is int:
        if fd < 0:
            raise ValueError(f"Invalid file descriptor: {fd}")
        number = fd
        return number
    return selectors._fileobj_to_fd(fd)

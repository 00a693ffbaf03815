# Where a context gets its work from: fds, memory, bottom halves, timers.
from libc.stdint cimport int64_t

from ..fdmon.base cimport FDMonitor, FdHandler
from .bottom_halves cimport BottomHalves
from .notifier cimport Notifier
from .poll_handlers cimport PollHandler, PollHandlers
from .program cimport Program
from .ready cimport ReadyQueue
from .timers cimport Timers

cdef int64_t as_int64(object number) except? -1

cdef class Sources:
    cdef object __weakref__
    cdef readonly FDMonitor monitor   # owned; closed by close()
    cdef object engine                # the monitor's uring Engine; None: there are no requests of the ring
    cdef readonly Notifier notifier
    cdef ReadyQueue ready             # callbacks, FIFO
    cdef Timers timers
    cdef Program program              # who says what the next two are; None without a loop
    cdef bint has_own_clock           # timers follow program.time(), not CLOCK_MONOTONIC
    cdef bint has_own_select          # program.select() waits
    cdef BottomHalves bottom_halves   # who is scheduled from any thread, and who reports
    cdef PollHandlers pollers         # handlers with io_poll; None until there is one
    cdef unsigned long thread         # the one that made turns last; 0 for none yet
    cdef bint is_forgotten            # closed, because this process is a fork
    cdef int check_open(self) except -1
    cdef int64_t now_ns(self) except? -1
    cdef int check_use(self) except -1
    cdef int set_poll_callbacks(self, PollHandler handler, object io_poll, object io_poll_ready) except -1
    cdef int set_handler(self, FdHandler old, FdHandler new) except -1
    cdef int exchange_handler(self, FdHandler old, object old_file, FdHandler new, object new_file) except -1
    cdef object report_to(self, object reporter)

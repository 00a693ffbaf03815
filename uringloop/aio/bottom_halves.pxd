# Callbacks that are made once and scheduled many times, from any thread.
from ..support.guard cimport short_lock
from .handles cimport Handle
from .notifier cimport Notifier
from .ready cimport ReadyQueue

cdef int check_callback(object callback) except -1

cdef class Run(Handle):
    cdef BottomHalf bottom_half

cdef class BottomHalves:
    cdef ReadyQueue ready         # the context's
    cdef Notifier notifier        # the context's
    cdef list idle                # Runs that wait for the next turn without keeping it from blocking for a while
    cdef size_t n_idle_taken      # from the idle list, ever
    cdef object reporter          # a weak reference to what reports exceptions; None: they are logged
    cdef bint is_closed
    cdef object guard             # the context's
    cdef short_lock lock          # of `idle`, and of the flags of each bottom half
    cdef object who_reports(self)
    cdef Handle new_handle(self, object callback, tuple args)
    cdef int run_idle(self, size_t end) except -1
    cdef int close(self) except -1

cdef class BottomHalf:
    cdef BottomHalves owner
    cdef Run waiting              # its entry in the ready queue or among the idle ones
    cdef bint is_queued           # in the ready queue
    cdef bint is_idle_queued      # among the idle ones; it may be both
    cdef bint is_scheduled        # it will run
    cdef bint is_idle             # scheduled as idle only: its run is no progress
    cdef bint is_one_shot
    cdef bint is_deleted
    cdef int enqueue(self, bint idle) except -1
    cdef object put_in_place(self, bint idle)
    cdef bint begins(self) noexcept
    cdef int fire(self, Run run) except -1

# Garbage collections of the process at the times when one context has nothing to do.
from libc.stdint cimport int64_t

from .context_core cimport IdleWork

cdef class Collector(IdleWork):
    cdef readonly bint is_closed
    cdef tuple found                  # gc.get_threshold() as it was found
    cdef tuple ours                   # the same while this is on: the bound, and when the old generation is due
    cdef bint was_enabled
    cdef bint was_frozen              # something was frozen before
    cdef bint has_frozen              # freeze() was called
    cdef bint has_increments          # this Python collects old objects in pieces, not as a generation
    cdef Py_ssize_t young_limit       # young objects that make a collection due, and collections of those that
    cdef Py_ssize_t middle_limit      # make one of the middle generation due: the thresholds that were found
    cdef Py_ssize_t bound             # young objects that make one due in the middle of work
    cdef Py_ssize_t n_old             # objects after the last full collection, without those that are frozen
    cdef Py_ssize_t n_grown           # by how many they have grown since, about
    cdef int kind                     # of the collection in progress
    cdef int64_t started_ns
    cdef Py_ssize_t n_young           # objects that it found in the young generation
    cdef int64_t expected_ns[2]       # what a collection of the young, and of the middle generation takes
    cdef double ns_per_object         # the same of a full one
    cdef int64_t ended_ns             # when the last full one ended; 0: none has
    cdef unsigned long long counts[3][3]  # kind, generation
    cdef int64_t pause_ns[3]          # in all, by kind
    cdef int64_t longest_ns[3]
    cdef unsigned long long n_postponed

    cdef Py_ssize_t full_limit(self) noexcept
    cdef bint collect_full_if_quiet(self, int64_t timeout_ns) except -1
    cdef bint collect(self, int generation, int kind) except -1
    cdef int count_pause(self, int generation, int64_t took_ns) noexcept
    cdef int follow_growth(self, int generation, Py_ssize_t n_collected, int64_t took_ns) except -1
    cdef int set_thresholds(self, bint full_may_interrupt) except -1
    cdef int restore(self) except -1

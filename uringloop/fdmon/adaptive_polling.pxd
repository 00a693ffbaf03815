# Adaptive polling: how long to poll before blocking.
from libc.stdint cimport int64_t, uint64_t
from cpython.ref cimport PyObject

cdef class PolledEvent:
    cdef object guard             # of the context whose list it was on first; None until then
    cdef int64_t ns               # how long polling for this one pays; 0: not on the list
    cdef int64_t last_ns          # the time of the last event
    cdef PollList owner           # the one whose list it is on; None while ns is 0
    cdef PyObject *before         # neighbours on that list; borrowed
    cdef PyObject *after
    cdef bint is_parted           # no task waits for it; it is not on the list meanwhile,
    cdef int64_t kept_ns          # and this is its ns when a task does again
    cdef bint is_known            # its file is known:
    cdef object file              # a weak reference to the object that has the fd; None: by the next fields
    cdef uint64_t device
    cdef uint64_t inode
    cdef bint learn_file(self, int fd, object file) except -1
    cdef bint is_of(self, int fd, object file) except -1

cdef class PollList:
    cdef object guard             # the context's; see support/guard.h
    cdef readonly int64_t max_ns  # poll_max_ns
    cdef readonly int64_t grow    # poll_grow
    cdef readonly int64_t shrink  # poll_shrink
    cdef readonly int64_t idle_ns  # an event that did not come for so long leaves the list
    cdef PyObject *head           # borrowed: an event leaves the list when it is freed
    cdef Py_ssize_t n_events      # on the list
    cdef int64_t most_ns          # the largest ns on the list; valid unless is_stale
    cdef bint is_stale
    cdef int64_t next_expiry_ns   # when to drop idle ones again
    cdef dict parted              # fd -> PolledEvent of those that no task waits for
    cdef list touched             # PolledEvents that were dispatched and not adjusted yet
    cdef readonly unsigned long long n_hits
    cdef readonly unsigned long long n_misses
    cdef int64_t spin_ns(self, int64_t now_ns) noexcept
    cdef PolledEvent touch(self, PolledEvent event)
    cdef int part(self, int fd, PolledEvent event, object file) except -1
    cdef PolledEvent rejoin(self, int fd, int64_t now_ns, object file)
    cdef int adjust(self, Py_ssize_t first, int64_t block_ns, int64_t now_ns) except -1
    cdef void set_ns(self, PolledEvent event, int64_t ns) noexcept
    cdef void unlink(self, PolledEvent event) noexcept
    cdef void forget(self) noexcept
    cdef void expire(self, int64_t now_ns) noexcept

cpdef int64_t next_ns(int64_t ns, int64_t block_ns, int64_t max_ns, int64_t grow, int64_t shrink) noexcept

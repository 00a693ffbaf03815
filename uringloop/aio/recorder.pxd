# What a loop does, in numbers, and what it does right now.
from libc.stdint cimport int64_t, uint64_t

from ..fdmon.base cimport Stopwatch
from .handles cimport Handle
from .ready cimport ReadyQueue

cdef extern from "recorder.h" nogil:
    enum:
        UL_OUTSIDE
        UL_LOOP
        UL_CALLBACK
        UL_CALLS
        UL_WAIT
        UL_POLL
        UL_COLLECT
        UL_N_STATES
    enum:
        UL_N_BUCKETS
    ctypedef struct ul_histogram:
        uint64_t count
        int64_t total_ns
        int64_t longest_ns
        uint64_t *buckets
    ctypedef struct ul_event:
        int64_t began_ns, took_ns
        int state, entry
    ctypedef struct ul_now:
        uint64_t n_begun
        int64_t since_ns
        int entry
        int tid
    int64_t ul_bucket_start(int bucket)
    void ul_count(ul_histogram *into, int64_t value_ns)
    void ul_now_begin(ul_now *now, int64_t since_ns, int entry)
    void ul_now_rest(ul_now *now)
    bint ul_read_now(const ul_now *now, ul_now *copy)

cdef enum:
    MOST_ENTRIES = 384   # kinds of callbacks that are counted by name; the rest by their kind
    N_SLOTS = 1024
    MOST_FRAMES = 64     # callbacks on the stack at once, in nested runs

ctypedef struct Entry:
    void *key            # owned by `keys`, or static
    int kind
    uint64_t count
    int64_t total_ns
    int64_t longest_ns
    int64_t longest_at_ns

ctypedef struct Frame:
    int entry
    int64_t began_ns     # wall clock; the identity of the frame
    int64_t base_ns      # time in callbacks before it
    int64_t inner_ns     # of that since, in callbacks of nested turns

cdef class Recorder(Stopwatch):
    cdef readonly bint is_closed
    cdef int n_users                       # for which it records
    cdef ReadyQueue ready
    cdef ul_now now                        # for other threads
    cdef void *thread_state                # of the thread in `now`
    cdef int state                         # a ul_state
    cdef int64_t since_ns                  # when that began
    cdef int64_t awake_ns                  # when the last turn's wait ended
    cdef int64_t began_ns                  # when the recording began
    cdef unsigned long thread              # that runs the loop
    cdef int64_t spent_ns[UL_N_STATES]
    cdef ul_histogram *delays              # from ready to run
    cdef ul_histogram *lateness            # of timers
    cdef ul_histogram *callbacks           # how long they take
    cdef ul_histogram *stretches           # from one wait to the next
    cdef ul_histogram *collections         # of garbage, in the loop's thread
    cdef Frame frames[MOST_FRAMES]
    cdef int depth
    cdef Entry entries[MOST_ENTRIES]
    cdef int n_entries
    cdef short slots[N_SLOTS]              # of `entries`; 0: none
    cdef dict keys                         # number of an entry -> what its key refers to, or its name
    cdef dict task_names                   # name given by the program -> the object that is its key
    cdef type step_type                    # of the callbacks of compiled tasks, once it was met; or None
    cdef ul_event *events                  # a circular array
    cdef size_t events_mask, n_events
    cdef int64_t *ready_at                 # when callbacks became ready, by their position in the queue
    cdef size_t ready_mask, n_stamped      # positions before this one have a time
    cdef int64_t collection_ns             # when the collection that runs began; 0: none does
    cdef int state_before_collection
    cdef int begin_run(self, bint is_nested) noexcept
    cdef int end_run(self, bint is_nested) noexcept
    cdef int enter(self, int state) noexcept
    cdef int leave(self, int state) noexcept
    cdef int64_t switch_to(self, int state) noexcept
    cdef int before_wait(self) noexcept
    cdef int after_wait(self, bint is_skipped) noexcept
    cdef int stamp(self, int64_t now_ns) noexcept
    cdef int grow_stamps(self) noexcept
    cdef int count_delay(self, size_t position) noexcept
    cdef int count_lateness(self, int64_t when_ns) noexcept
    cdef int note(self, int64_t began_ns, int64_t took_ns, int state, int entry) noexcept
    cdef int entry_of(self, int kind, object what) except -1
    cdef int entry_of_handle(self, int kind, object callback) except -1
    cdef int entry_of_task(self, object task, bint is_compiled) except -1
    cdef int find(self, int kind, void *key, object owner) except -1

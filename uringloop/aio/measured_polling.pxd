# Polling that is on by default: it polls only while that is measured to cost no more than to sleep.
from libc.stdint cimport int64_t

cdef enum Phase:
    WATCH    # waits sleep, and are long, or polling did not pay not long ago
    SLEEP    # waits sleep, and their cost is measured
    TRY      # waits poll, and their cost is measured for the first time, or again after a failure
    POLL     # waits poll

cdef class MeasuredPolling:
    cdef readonly Phase phase
    cdef int64_t wait_ns            # how long waits take, smoothed
    cdef int64_t most_ns            # the longest that a wait may poll now
    cdef int64_t spun_ns            # in this epoch, successful or not
    cdef int64_t hit_ns             # how long a wait polls that ends by an event, smoothed
    cdef int n_waits                # in this epoch; while there is none, since the last that was timed
    cdef int n_wanted               # the epoch is over after so many
    cdef int n_epochs               # of polling since sleep was measured
    cdef int misses_in_a_row
    cdef int64_t cpu_at_ns          # of the thread, when the epoch began
    cdef long long n_bytes_at       # received when the epoch began
    cdef long long n_preempted_at   # involuntary switches of the thread when the epoch began
    cdef double sleep_per_wait_ns   # CPU of a wait that sleeps, and of the turn behind it; 0 until it is measured
    cdef double sleep_per_byte_ns   # the same for each byte that was received; 0 where none was
    cdef int64_t pause_ns           # before polling is tried again
    cdef int64_t not_before_ns      # when that is
    cdef readonly unsigned long long n_hits
    cdef readonly unsigned long long n_misses
    cdef readonly unsigned long long n_tries

    cdef bint is_passed_over(self) noexcept
    cdef int64_t spin_ns(self, int64_t now_ns) noexcept
    cdef void waited(self, int64_t started_ns, int64_t spun_ns, bint is_hit, long long n_bytes) noexcept
    cdef void begin(self, Phase phase, int n_wanted, long long n_bytes) noexcept
    cdef void begin_counting(self, long long n_bytes) noexcept
    cdef void judge_sleep(self, int64_t now_ns, long long n_bytes) noexcept
    cdef void judge_polling(self, int64_t now_ns, long long n_bytes) noexcept
    cdef void give_up(self, int64_t now_ns, int64_t lost_ns) noexcept
    cdef int64_t cpu_ns(self) noexcept
    cdef long long n_preempted(self) noexcept
    cdef int64_t clock_ns(self) noexcept

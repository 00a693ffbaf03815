"""Adaptive polling that is on by default, because it polls only while that costs no more CPU time than to sleep.

What sleeping and being woken cost differs by a factor of ten from machine to machine, and so does the time until a
peer answers; a peer that sends at its own pace looks like one that answers, but polling for it only costs.  So nothing
is assumed, and both ways are measured, in epochs of some waits each:

 1. WATCH: waits sleep, and one in eight is timed.  While they are longer than LONGEST_WAIT_NS nothing else happens.
 2. SLEEP: what a wait that sleeps costs: CPU time of the thread in an epoch, per wait and per byte received.
 3. TRY: the next waits poll first.  The epoch ends early as soon as the polling alone costs more than sleep.
 4. POLL, if that cost no more than to sleep, neither per wait nor per byte: a loop that sleeps finds more data when it
    wakes up, and needs fewer waits for it.  Each epoch is judged again, and sleep is measured again from time to time.
 5. Otherwise back to WATCH, for a pause that makes tries cost one per cent of CPU time at most, and doubles.

A thread that loses its CPU to others while it polls gives up, too.

Thread: the loop's.  Not here: the polling itself (FDMonitor.spin); for how long each fd is polled where the program
says for how long at most (fdmon/adaptive_polling).
"""

from libc.stdint cimport int64_t

from ..support.assertions cimport must

cdef extern from "../support/clock.h" nogil:
    int64_t ul_monotonic_ns() noexcept

cdef extern from *:
    """
    #include <sys/resource.h>
    #include <time.h>
    static int64_t ul_thread_cpu_ns(void)
    {
        struct timespec now;
        if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now) < 0)
            return -1;
        return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    }
    static long ul_involuntary_switches(void)
    {
        struct rusage usage;
        return getrusage(RUSAGE_THREAD, &usage) < 0 ? 0 : usage.ru_nivcsw;
    }
    """
    int64_t ul_thread_cpu_ns() noexcept
    long ul_involuntary_switches() noexcept

cdef enum:
    LONGEST_WAIT_NS = 120_000      # where waits take longer on average, polling is not tried
    LONGEST_POLL_NS = 100_000
    SHORTEST_POLL_NS = 10_000
    WAITS_OF_SLEEP = 96            # one epoch: about 6 ms at 60 us
    WAITS_OF_SLEEP_AGAIN = 64
    WAITS_OF_TRY = 96
    WAITS_OF_POLLING = 256
    WAITS_TO_SETTLE = 32           # before an epoch: hypervisors and idle governors learn how a CPU sleeps, too
    EPOCHS_UNTIL_SLEEP = 40        # of polling; then sleep is measured again
    MISSES_IN_A_ROW = 2            # so many, and waits sleep until one is short
    EARLIEST_END = 6               # waits of a try
    WAITS_TO_TIME_ONE = 8          # a power of two; reading the clock for each costs an echo of one peer 4 %
    FIRST_PAUSE_NS = 50_000_000
    LONGEST_PAUSE_NS = 5_000_000_000
    SHARE_OF_TRIES = 100           # a pause is this many times what a try has lost

# What polling may cost, as a share of sleep: to begin with, and from then on.
cdef double ENTRY = 1.0
cdef double TOLERANCE = 1.05


cdef class MeasuredPolling:
    """Whether the waits of one context poll before they sleep, and for how long."""

    def __cinit__(self):
        self.phase = WATCH
        self.wait_ns = 4 * LONGEST_WAIT_NS
        self.pause_ns = FIRST_PAUSE_NS

    cdef int64_t cpu_ns(self) noexcept:
        return ul_thread_cpu_ns()

    cdef long long n_preempted(self) noexcept:
        return ul_involuntary_switches()

    cdef int64_t clock_ns(self) noexcept:
        return ul_monotonic_ns()

    cdef bint is_passed_over(self) noexcept:
        """Whether the wait that begins now neither polls nor counts: then `waited` is not called for it."""
        if self.phase != WATCH:
            return False
        self.n_waits = (self.n_waits + 1) & (WAITS_TO_TIME_ONE - 1)
        return self.n_waits != 0

    cdef int64_t spin_ns(self, int64_t now_ns) noexcept:
        """For how long the wait that begins now polls first; 0 not at all."""
        if self.phase < TRY or self.misses_in_a_row >= MISSES_IN_A_ROW:
            return 0
        return self.most_ns

    cdef void waited(self, int64_t started_ns, int64_t spun_ns, bint is_hit, long long n_bytes) noexcept:
        """A wait is over.

        Parameters:
            started_ns: when it began.
            spun_ns: how long it polled; 0 if it did not.
            is_hit: an event ended the polling.
            n_bytes: received so far, with what this wait brought.
        """
        cdef int64_t now_ns = self.clock_ns()
        cdef int64_t took_ns = min(now_ns - started_ns, <int64_t>(4 * LONGEST_WAIT_NS))
        self.wait_ns += (took_ns - self.wait_ns) // 8
        if spun_ns:
            self.spun_ns += spun_ns
            if is_hit:
                self.n_hits += 1
                self.misses_in_a_row = 0
                self.hit_ns += (spun_ns - self.hit_ns) // 8
            else:
                self.n_misses += 1
                self.misses_in_a_row += 1
        elif took_ns <= LONGEST_WAIT_NS:
            self.misses_in_a_row = 0
        if self.phase == WATCH:
            if self.wait_ns < LONGEST_WAIT_NS and now_ns >= self.not_before_ns:
                self.begin(SLEEP, WAITS_OF_SLEEP, n_bytes)
            return
        self.n_waits += 1
        if self.n_waits == 0:
            self.begin_counting(n_bytes)
        elif self.n_waits >= self.n_wanted:
            if self.phase == SLEEP:
                self.judge_sleep(now_ns, n_bytes)
            else:
                self.judge_polling(now_ns, n_bytes)
        elif (self.phase == TRY and self.n_waits >= EARLIEST_END - WAITS_TO_SETTLE
              and self.spun_ns > TOLERANCE * self.sleep_per_wait_ns
              * (self.n_waits if self.n_waits > 0 else self.n_waits + WAITS_TO_SETTLE)):
            self.give_up(now_ns, self.spun_ns)

    cdef void begin(self, Phase phase, int n_wanted, long long n_bytes) noexcept:
        """An epoch begins, after some waits that do not count where the way of waiting changes."""
        cdef bint changes = phase != self.phase and phase != SLEEP or phase == SLEEP and self.phase == POLL
        self.phase = phase
        self.n_wanted = n_wanted
        if changes:
            self.misses_in_a_row = 0
            self.n_waits = -WAITS_TO_SETTLE
            self.spun_ns = 0
        else:
            self.begin_counting(n_bytes)

    cdef void begin_counting(self, long long n_bytes) noexcept:
        self.n_waits = 0
        self.spun_ns = 0
        self.n_bytes_at = n_bytes
        self.n_preempted_at = self.n_preempted()
        self.cpu_at_ns = self.cpu_ns()

    cdef void judge_sleep(self, int64_t now_ns, long long n_bytes) noexcept:
        """An epoch of waits that slept is over: the next waits poll."""
        cdef double cpu = <double>(self.cpu_ns() - self.cpu_at_ns)
        cdef double per_wait = cpu / self.n_waits
        cdef double per_byte = cpu / (n_bytes - self.n_bytes_at) if n_bytes > self.n_bytes_at else 0
        cdef bint is_first = self.n_wanted == WAITS_OF_SLEEP
        if cpu <= 0 or self.wait_ns >= LONGEST_WAIT_NS:
            self.phase = WATCH  # there is no such clock, or the waits have become long
            return
        if is_first or self.sleep_per_wait_ns == 0:
            self.sleep_per_wait_ns, self.sleep_per_byte_ns = per_wait, per_byte
            self.hit_ns = LONGEST_POLL_NS // 2
        else:
            self.sleep_per_wait_ns += (per_wait - self.sleep_per_wait_ns) / 4
            self.sleep_per_byte_ns += (per_byte - self.sleep_per_byte_ns) / 4
        self.most_ns = min(<int64_t>LONGEST_POLL_NS, max(<int64_t>SHORTEST_POLL_NS,
                                                         <int64_t>(2 * self.sleep_per_wait_ns)))
        self.n_epochs = 0
        if is_first:
            self.n_tries += 1
        self.begin(TRY if is_first else POLL, WAITS_OF_TRY if is_first else WAITS_OF_POLLING, n_bytes)

    cdef void judge_polling(self, int64_t now_ns, long long n_bytes) noexcept:
        """An epoch of waits that polled is over."""
        cdef double cpu = <double>(self.cpu_ns() - self.cpu_at_ns)
        cdef double per_wait = cpu / self.n_waits
        cdef double per_byte = cpu / (n_bytes - self.n_bytes_at) if n_bytes > self.n_bytes_at else 0
        cdef double allowed = ENTRY if self.phase == TRY else TOLERANCE
        if self.wait_ns >= LONGEST_WAIT_NS:
            self.phase = WATCH  # the waits have become long
            return
        must(self.sleep_per_wait_ns > 0, "polling is compared with what sleep has cost")
        if (per_wait > allowed * self.sleep_per_wait_ns
                or self.sleep_per_byte_ns and (per_byte == 0 or per_byte > allowed * self.sleep_per_byte_ns)
                or self.n_preempted() - self.n_preempted_at > self.n_waits // 16):
            self.give_up(now_ns, <int64_t>max(cpu - self.sleep_per_wait_ns * self.n_waits, 0.0))
            return
        self.pause_ns = FIRST_PAUSE_NS
        self.n_epochs += 1
        if self.n_epochs < EPOCHS_UNTIL_SLEEP:
            self.most_ns = min(self.most_ns, max(<int64_t>SHORTEST_POLL_NS, 4 * self.hit_ns))
            self.begin(POLL, WAITS_OF_POLLING, n_bytes)
        else:
            self.begin(SLEEP, WAITS_OF_SLEEP_AGAIN, n_bytes)

    cdef void give_up(self, int64_t now_ns, int64_t lost_ns) noexcept:
        """Polling does not pay now: no more tries for a while."""
        self.phase = WATCH
        self.misses_in_a_row = 0
        self.not_before_ns = now_ns + max(self.pause_ns, SHARE_OF_TRIES * lost_ns)
        self.pause_ns = min(2 * self.pause_ns, <int64_t>LONGEST_PAUSE_NS)

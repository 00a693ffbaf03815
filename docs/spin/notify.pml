/*
 * The notify protocol: threads that publish callbacks, a loop that busy-polls, sleeps, and nests turns.
 *
 * Checked: no wake-up is lost.  When nothing can move any more, every published callback has run (proctype Rest).  With
 * -DNP: the loop does not turn for ever without running anything, either.  README.md says how to run and read it.
 *
 * What stands for what:
 *   Producer   call_soon_threadsafe: ready.push, Notifier.notify          (uringloop/aio/notifier.pyx)
 *   Loop       ContextCore.turn: wait, spin, run_ready, dispatch_fds       (uringloop/aio/context_core.pyx)
 *              begin_wait, end_wait                                       (Notifier)
 *   Memory     the processors' store buffers: what a thread has stored is seen by itself at once, by others later, in
 *              order (TSO); a full barrier waits until its buffer is empty
 *   eventfd    a system call each, never delayed
 *
 * No lock is modelled.  With a GIL most of this cannot be interleaved; the protocol must not depend on that.
 */

#define PRODUCERS 2
#ifndef CALLBACKS
#define CALLBACKS 2 /* of each producer */
#endif
#define DEPTH 2     /* turns inside of each other */
#define NESTED 2    /* turns that could be made without end: those that do not sleep, and second ones */

/* The variables of shared memory: the notifier's two, and the ready queue as a count for each producer. */
#define NOTIFY_ME 0
#define NOTIFIED 1
#define PUBLISHED(number) (1 + (number))
#define VARIABLES (2 + PRODUCERS)

/* -- memory with store buffers -- */

#define LOOP 0 /* the threads: 0 the loop's, then the producers' */
#define THREADS (1 + PRODUCERS)
#define AT(thread, variable) ((thread) * VARIABLES + (variable))

byte memory[VARIABLES];
byte newest[THREADS * VARIABLES];  /* what a thread stored last, */
byte delayed[THREADS * VARIABLES]; /* and how many of its stores to that variable are not in memory yet */
chan buffer[THREADS] = [4] of { byte, byte };

#define VALUE(thread, variable) \
    (delayed[AT(thread, variable)] -> newest[AT(thread, variable)] : memory[variable])

inline store(thread, variable, value)
{
    nfull(buffer[thread]);
    d_step {
        newest[AT(thread, variable)] = value;
        delayed[AT(thread, variable)]++;
        buffer[thread] ! variable, value
    }
}

inline full_barrier(thread)
{
    empty(buffer[thread])
}

proctype Memory(byte thread)
{
    byte variable, value;
end:
    do
    :: atomic {
        buffer[thread] ? variable, value;
        memory[variable] = value;
        delayed[AT(thread, variable)]--;
        variable = 0;
        value = 0
    }
    od
}

/* -- the eventfd -- */

byte eventfd;   /* its counter */
bit is_queued;  /* the monitor found it readable, and its handler did not run yet */

/* -- threads that publish -- */

proctype Producer(byte number)
{
    byte count;
    do
    :: count < CALLBACKS ->
        count++;
#ifndef PUBLISHED_LATE
        store(number, PUBLISHED(number), count);
#endif
#ifndef RUNG_FIRST
        store(number, NOTIFIED, 1);
#ifndef NO_BARRIER_IN_NOTIFY
        full_barrier(number);
#endif
#endif
        if
        :: VALUE(number, NOTIFY_ME) -> eventfd = 1
        :: else
        fi;
#ifdef RUNG_FIRST
        store(number, NOTIFIED, 1);
#endif
#ifdef PUBLISHED_LATE
        store(number, PUBLISHED(number), count);
#endif
    :: else -> break
    od
}

/* -- the loop -- */

byte n_ran; /* callbacks that ran: the head of the ready queue */

/* Where the queue ends that the loop's thread sees. */
inline count_published(result)
{
    result = 0;
    number = 1;
    do
    :: number < THREADS -> result = result + VALUE(LOOP, PUBLISHED(number)); number++
    :: else -> break
    od;
    number = 0
}

inline begin_wait()
{
#ifdef CHECK_FIRST
    may_sleep = may_sleep && !VALUE(LOOP, NOTIFIED);
#endif
    store(LOOP, NOTIFY_ME, 1);
#ifndef NO_BARRIER_IN_BEGIN_WAIT
    full_barrier(LOOP);
#endif
#ifndef CHECK_FIRST
    may_sleep = may_sleep && !VALUE(LOOP, NOTIFIED);
#endif
}

inline clear_notified()
{
#ifndef NEVER_CLEARED
    if
    :: VALUE(LOOP, NOTIFIED) ->
        store(LOOP, NOTIFIED, 0);
#ifndef NO_BARRIER_IN_END_WAIT
        full_barrier(LOOP);
#endif
    :: else
    fi
#else
    skip
#endif
}

inline end_wait()
{
    store(LOOP, NOTIFY_ME, 0);
#ifndef CLEARED_LATE
    clear_notified()
#endif
}

/* FDMonitor.wait: finds the eventfd readable, now or, where it may sleep, when it becomes so. */
inline monitor_wait()
{
    if
    :: may_sleep -> eventfd; is_queued = 1
    :: !may_sleep && eventfd -> is_queued = 1
    :: else
    fi
}

/* Adaptive polling.  That it looks at any moment means the same here as that it looks all the time. */
inline look()
{
    if
    :: VALUE(LOOP, NOTIFIED) ->
#ifdef HIT_SLEEPS
        clear_notified() /* and takes its wake-up for delivered */
#else
        may_sleep = 0
#endif
    :: eventfd -> may_sleep = 0
    :: true /* its time is over */
    fi
}

/* poll(False) in a callback; `n_nested` keeps the number of turns finite. */
inline maybe_poll_only()
{
    if
    :: depth && n_nested < NESTED -> n_nested++; may_sleep = 0
    :: true
    fi
}

proctype Loop()
{
    byte end[DEPTH];      /* where the callbacks end that were ready when the turn of this depth began */
    bit is_signal[DEPTH]; /* the turn above this one is made by a signal's handler, not by a callback */
    byte depth, number, number_seen, n_nested;
    bit may_sleep;

turn:
    count_published(end[depth]);
#ifdef CLEARED_LATE
    clear_notified();
#endif
    may_sleep = (end[depth] == n_ran && !is_queued);
    maybe_poll_only();
    if
    :: may_sleep -> look()
    :: else
    fi;
    if
    :: may_sleep && depth + 1 < DEPTH && n_nested < NESTED -> /* PyErr_CheckSignals */
        n_nested++;
        is_signal[depth] = 1;
        depth++;
        goto turn;
after_signal:
        is_signal[depth] = 0;
        may_sleep = 1;
#ifndef NO_LOOK_AFTER_SIGNALS
        count_published(number_seen);
        may_sleep = (number_seen == n_ran && !is_queued);
        number_seen = 0
#endif
    :: true
    fi;
    if
    :: may_sleep ->
        begin_wait();
        monitor_wait();
        end_wait()
    :: else ->
        if
        :: VALUE(LOOP, NOTIFIED) -> end_wait()
        :: else
        fi;
        monitor_wait()
    fi;
    may_sleep = 0;

callbacks:
    if
    :: n_ran < end[depth] ->
progress:
        n_ran++;
        if
        :: depth + 1 < DEPTH -> depth++; goto turn /* a callback that runs the loop */
        :: true -> goto callbacks
        fi
    :: else
    fi;
    if
    :: is_queued -> is_queued = 0; eventfd = 0
    :: else
    fi;
    if
    :: depth ->
        end[depth] = 0;
        depth--;
        if
        :: is_signal[depth] -> goto after_signal
        :: else
        fi;
        if
        :: true -> goto callbacks
        :: n_nested < NESTED -> n_nested++; depth++; goto turn /* it runs another turn */
        fi
    :: else -> goto turn
    fi
}

/* When nothing else can move: the loop sleeps, and has nothing to sleep on. */
proctype Rest()
{
    timeout;
    assert(n_ran == PRODUCERS * CALLBACKS)
}

init
{
    byte thread;
    atomic {
        do
        :: thread < THREADS ->
            run Memory(thread);
            if
            :: thread == LOOP -> run Loop()
            :: else -> run Producer(thread)
            fi;
            thread++
        :: else -> break
        od;
        run Rest()
    }
}

/* The faults of a simulated run, in the order of world.py: FAULTS. */
enum fault {
    FAULT_SHORT_READ,     /* a read, or receive, returns less than there is */
    FAULT_SHORT_WRITE,    /* a write, or send, takes less than there is room for */
    FAULT_STALL,          /* a socket has no data, or no room, for up to 200 ms */
    FAULT_EINTR,          /* a wait is interrupted; the real kernel interrupts no call that need not wait */
    FAULT_NO_BUFFERS,     /* a receive finds no provided buffer */
    FAULT_END_MULTISHOT,  /* a multishot request ends with a completion */
    FAULT_LATE,           /* a request is looked at later; a ready fd is not reported by this wait */
    FAULT_REORDER,        /* requests complete, and fds are reported, in any order */
    FAULT_RACE,           /* a request completes while it is cancelled */
    FAULT_CANCELED,       /* a request that waits ends with ECANCELED, which the loop has not requested */
    FAULT_OVERFLOW,       /* the CQ is full */
    FAULT_ENTER,          /* an enter with requests fails: EAGAIN, EBUSY */
    FAULT_PARTIAL_SUBMIT, /* an enter takes only the first of the requests */
    FAULT_LATE_TIMER,     /* a wait ends up to 30 ms after its time */
    FAULT_SUSPEND,        /* a wait ends up to an hour after its time: the machine was suspended */
    FAULT_ACCEPT,         /* an accept fails: ECONNABORTED, EMFILE, ENOBUFS, ENOMEM */
    FAULT_RESET,          /* a connection is reset (sim_reset) */
    N_FAULTS
};

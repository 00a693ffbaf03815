"""Watchdog: waits in a thread of its own, without the GIL, until a callback of a loop takes too long.

Thread: wait() in one thread; the other methods in any.
Not here: whose line it is, and who gets to know it (stalls.py).
"""

from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free

from ..aio.context_core cimport MOST_CALLERS, ContextCore
from ..aio.recorder cimport Recorder, ul_now

cdef extern from "../observing/watchdog.h" nogil:
    enum:
        UL_STALL_BEGAN
        UL_STALL_ENDED
        UL_WATCH_OVER
    ctypedef struct ul_name:
        int kind, length
        char *data
    ctypedef struct ul_peeked:
        int line
        ul_name file, function
    ctypedef struct ul_stack:
        int count
        ul_peeked *frames
    ctypedef struct ul_watch:
        const ul_now *now
        const int *is_closed
        void **thread_state
        void **callers
        const int *n_callers
        int most_callers
        ul_stack *stack
        ul_stack *again
        int64_t limit_ns
        int64_t step_ns
        ul_now seen
        int64_t lasted_ns
    int ul_watch_wait(ul_watch *watch)
    void ul_watch_stop(ul_watch *watch)
    bint ul_watch_is_current(const ul_watch *watch)

cdef enum:
    STEPS = 4                      # per limit: a stall is noticed after a quarter more than that at most
    MOST_STEP_NS = 250_000_000     # and with a long limit, that the watch is over


cdef extern from "Python.h":
    object PyUnicode_FromKindAndData(int kind, const void *data, Py_ssize_t length)


cdef class Watchdog:
    """Parameters: recorder: that of the context.  limit_ns: what takes so long is a stall; 1 ms or more.

    Raises: MemoryError.
    """

    cdef ContextCore aio_context   # these own what `watch` points to
    cdef Recorder recorder
    cdef ul_watch watch

    def __cinit__(self, ContextCore aio_context not None, Recorder recorder not None, int64_t limit_ns):
        self.aio_context = aio_context
        self.recorder = recorder
        self.watch.thread_state = &recorder.thread_state
        self.watch.callers = aio_context.callers
        self.watch.n_callers = &aio_context.n_polls
        self.watch.most_callers = MOST_CALLERS
        self.watch.stack = <ul_stack *>calloc(1, sizeof(ul_stack))
        self.watch.again = <ul_stack *>calloc(1, sizeof(ul_stack))
        if self.watch.stack == NULL or self.watch.again == NULL:
            raise MemoryError()
        self.watch.now = &recorder.now
        self.watch.is_closed = <const int *>&recorder.is_closed
        self.watch.limit_ns = limit_ns
        self.watch.step_ns = min(limit_ns // STEPS, <int64_t>MOST_STEP_NS)

    def __dealloc__(self):
        free(self.watch.stack)
        free(self.watch.again)

    def wait(self):
        """Block until a stall begins or ends.

        Returns: (whether it has ended, since when in ns, the callback's number in the recorder's table or -1, how long
        it takes or took in ns); None: the watch is over.
        """
        cdef int what
        with nogil:
            what = ul_watch_wait(&self.watch)
        if what == UL_WATCH_OVER:
            return None
        return what == UL_STALL_ENDED, self.watch.seen.since_ns, self.watch.seen.entry, self.watch.lasted_ns

    def stack(self):
        """(file, line, function) of what the stall that began executed when it was noticed, the outermost first.

        Empty where that could be told only with the GIL.
        """
        cdef ul_stack *stack = self.watch.stack
        cdef int at
        return [
            (of_name(&stack.frames[at].file), stack.frames[at].line, of_name(&stack.frames[at].function))
            for at in reversed(range(stack.count))
        ]

    def is_current(self):
        """Whether the loop's thread still does what wait() has returned.  With a GIL it does so until that is released."""
        return ul_watch_is_current(&self.watch)

    def stop(self):
        """Let wait() return None, now and from now on."""
        ul_watch_stop(&self.watch)


cdef object of_name(ul_name *name):
    return PyUnicode_FromKindAndData(name.kind, name.data, name.length)

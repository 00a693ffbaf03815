"""Watchdog: notices, in a thread of its own that never takes the GIL, that a callback of a loop takes too long.

Thread: wait() and what is about its notice in one thread, the one that reports; the other methods in any.
Not here: whose line it is, and who gets to know it (stalls.py).
"""

cimport cython
from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free
from libc.string cimport strerror

from ..aio.context_core cimport MOST_CALLERS, ContextCore
from ..aio.recorder cimport Recorder, ul_now

cdef extern from "../observing/watchdog.h" nogil:
    enum:
        UL_MOST_NOTICES
    ctypedef struct ul_name:
        int kind, length
        char *data
    ctypedef struct ul_peeked:
        int line
        ul_name file, function
    ctypedef struct ul_stack:
        int count
        ul_peeked *frames
    ctypedef struct ul_scratch:
        pass
    ctypedef struct ul_notice:
        bint has_ended
        ul_now seen
        int64_t lasted_ns
        ul_stack stack
    ctypedef struct ul_watch:
        const ul_now *now
        const int *is_closed
        void **thread_state
        void **callers
        const int *n_callers
        int most_callers
        int64_t limit_ns, step_ns
        ul_notice *notices
        ul_scratch *scratch
    int ul_watch_begin(ul_watch *watch)
    void ul_watch_end(ul_watch *watch)
    ul_notice *ul_watch_wait(ul_watch *watch)
    void ul_watch_take(ul_watch *watch)
    bint ul_is_current(const ul_watch *watch, const ul_now *seen)

cdef extern from "Python.h":
    object PyUnicode_FromKindAndData(int kind, const void *data, Py_ssize_t length)

cdef enum:
    STEPS = 4                      # per limit: a stall is noticed after a quarter more than that at most
    MOST_STEP_NS = 250_000_000     # and with a long limit, that the watch is over


@cython.no_gc_clear  # its thread reads what the fields own
cdef class Watchdog:
    """Watches until stop(), or until the recording ends.

    Parameters:
        aio_context: of the loop.
        recorder: that of the context.
        limit_ns: what takes so long is a stall; 1 ms or more.

    Raises: MemoryError, RuntimeError: there can be no further thread.
    """

    cdef ContextCore aio_context   # these own what `watch` points to
    cdef Recorder recorder
    cdef ul_watch watch

    def __cinit__(self, ContextCore aio_context not None, Recorder recorder not None, int64_t limit_ns):
        cdef int result
        self.aio_context = aio_context
        self.recorder = recorder
        self.watch.now = &recorder.now
        self.watch.is_closed = <const int *>&recorder.is_closed
        self.watch.thread_state = &recorder.thread_state
        self.watch.callers = aio_context.callers
        self.watch.n_callers = &aio_context.n_polls
        self.watch.most_callers = MOST_CALLERS
        self.watch.limit_ns = limit_ns
        self.watch.step_ns = min(limit_ns // STEPS, <int64_t>MOST_STEP_NS)
        self.watch.notices = <ul_notice *>calloc(UL_MOST_NOTICES, sizeof(ul_notice))
        self.watch.scratch = <ul_scratch *>calloc(1, sizeof(ul_scratch))
        if self.watch.notices == NULL or self.watch.scratch == NULL:
            raise MemoryError()
        result = ul_watch_begin(&self.watch)
        if result != 0:
            raise RuntimeError(f"can't start new thread: {strerror(result).decode()}")

    def __dealloc__(self):
        ul_watch_end(&self.watch)
        free(self.watch.notices)
        free(self.watch.scratch)

    def wait(self):
        """Block until a stall begins or ends, and take the notice of it.

        Returns: (whether it has ended, since when in ns, the callback's number in the recorder's table or -1, how long
        it takes or took in ns, whether it goes on, its stack); None: the watch is over.

        The stack is what was executed when it was noticed, the outermost first, as (file, line, function); empty where
        that can be read only with the GIL.  With a GIL a stall that goes on does so until that is released.
        """
        cdef ul_notice *notice
        cdef int at
        with nogil:
            notice = ul_watch_wait(&self.watch)
        if notice == NULL:
            return None
        stack = [
            (of_name(&notice.stack.frames[at].file), notice.stack.frames[at].line,
             of_name(&notice.stack.frames[at].function))
            for at in reversed(range(notice.stack.count))
        ]
        taken = (notice.has_ended, notice.seen.since_ns, notice.seen.entry, notice.lasted_ns,
                 ul_is_current(&self.watch, &notice.seen), stack)
        ul_watch_take(&self.watch)
        return taken

    def stop(self):
        """Watch no more: when the notices are taken, wait() returns None."""
        ul_watch_end(&self.watch)


cdef object of_name(ul_name *name):
    return PyUnicode_FromKindAndData(name.kind, name.data, name.length)

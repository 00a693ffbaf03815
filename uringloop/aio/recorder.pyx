"""Recorder: what a loop does, counted in fixed memory while it runs.

 1. The time of the loop's thread is split by what it does: a `ul_state`.  Each change reads the clock once.
 2. A callback begins when what was before it ended, without a reading of its own: between two callbacks the loop does
    next to nothing.  So a message costs one reading more.
 3. Callbacks are counted by what they run: a function, a protocol's class, a coroutine, or the name that the program
    gave to a task.  The table has room for MOST_ENTRIES of them; further ones count as others of their kind.
 4. When a callback became ready is not stored with it, which would cost without a recorder, too: queue positions only
    grow, and those that were taken since the last reading became ready then.  So a delay may be too short by what the
    callback that scheduled it took.
 5. What runs now is published for threads that have no GIL: a `ul_now` in recorder.h.

In nested turns a callback's time does not include that of callbacks which they ran, nor their waits.

Invariant: `frames` has the callbacks on the stack, the outermost first; one that an exception left by way of the loop
stays until its caller ends, or the run does.
Thread: the loop's; numbers() and take_events() any that has the guard.  Runs no user code.
Not here: what users call (observing/), when it is called (context_core).
"""

from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free
from libc.string cimport strstr
from cpython.object cimport PyObject
from cpython.pythread cimport PyThread_get_thread_ident

from ..fdmon.base cimport N_KINDS, OF_TASK, Stopwatch, Subject
from ..support.assertions cimport must
from .handles cimport Handle
from .ready cimport ReadyQueue

import _asyncio
import functools

from asyncio import tasks

cdef extern from "../support/clock.h" nogil:
    int64_t ul_monotonic_ns() noexcept

cdef extern from "<unistd.h>" nogil:
    int gettid()

cdef extern from "Python.h":
    """
    #define UL_TYPE_NAME(o) (Py_TYPE(o)->tp_name)
    #define UL_METHODS_OWNER(o) (PyCFunction_GET_SELF(o))
    #define UL_METHODS_TABLE(o) ((void *)((PyCFunctionObject *)(o))->m_ml)

    /* "Task-" and digits: asyncio's own names. */
    static int ul_is_default_name(PyObject *name)
    {
        const unsigned char *text;
        Py_ssize_t at, length = PyUnicode_GET_LENGTH(name);

        if (length <= 5 || !PyUnicode_IS_ASCII(name))
            return 0;
        text = PyUnicode_1BYTE_DATA(name);
        if (memcmp(text, "Task-", 5) != 0)
            return 0;
        for (at = 5; at < length; at++)
            if (text[at] < '0' || text[at] > '9')
                return 0;
        return 1;
    }

    /* cr_code, without the audit event that reading the attribute raises. */
    static PyObject *ul_coroutine_code(PyObject *coroutine)
    {
    #if PY_VERSION_HEX < 0x030c0000
        PyObject *code = (PyObject *)((PyCoroObject *)coroutine)->cr_code;
        Py_INCREF(code);
        return code;
    #elif defined(Py_DEBUG)  /* PyGen_GetCode() asserts that it is a generator */
        return PyObject_GetAttrString(coroutine, "cr_code");
    #else
        return (PyObject *)PyGen_GetCode((PyGenObject *)coroutine);
    #endif
    }
    """
    const char *UL_TYPE_NAME(object)
    PyObject *UL_METHODS_OWNER(object)
    void *UL_METHODS_TABLE(object)
    void *PyThreadState_Get() noexcept
    bint PyMethod_Check(object)
    bint PyFunction_Check(object)
    bint PyCFunction_Check(object)
    bint PyCoro_CheckExact(object)
    PyObject *PyMethod_GET_FUNCTION(object)
    PyObject *PyMethod_GET_SELF(object)
    PyObject *PyFunction_GetCode(object)
    bint ul_is_default_name(object)
    object ul_coroutine_code(object)

cdef enum:
    MOST_TASK_NAMES = 128

cdef type compiled_task = _asyncio.Task
cdef type python_task = tasks._PyTask
cdef type partial = functools.partial
cdef object compiled_name = _asyncio.Task.get_name
cdef object compiled_coroutine = _asyncio.Task.get_coro


cdef class Recorder(Stopwatch):
    """Counts what one context does.

    Parameters:
        ready: the context's queue of callbacks.
        n_events: how many of the last events are kept; rounded up to a power of two.

    Raises: MemoryError.
    """

    def __cinit__(self, report, int64_t limit_ns, ReadyQueue ready not None, size_t n_events):
        self.ready = ready
        self.n_stamped = ready.tail
        self.keys = {}
        self.task_names = {}
        self.n_entries = N_KINDS  # the first are those of the others
        for kind in range(N_KINDS):
            self.entries[kind].kind = kind
        self.events_mask = 15
        while self.events_mask + 1 < n_events:
            self.events_mask = 2 * self.events_mask + 1
        self.events = <ul_event *>calloc(self.events_mask + 1, sizeof(ul_event))
        self.delays = <ul_histogram *>calloc(5, sizeof(ul_histogram))
        if self.events == NULL or self.delays == NULL:
            raise MemoryError()
        self.lateness, self.callbacks = self.delays + 1, self.delays + 2
        self.stretches, self.collections = self.delays + 3, self.delays + 4
        self.began_ns = self.since_ns = ul_monotonic_ns()
        self.state = UL_OUTSIDE

    def __dealloc__(self):
        free(self.events)
        free(self.delays)
        free(self.ready_at)

    def begin_counting_collections(self):
        import gc  # here, because few programs need it

        gc.callbacks.append(self)

    def close(self):
        """Count no more.  The numbers stay."""
        if not self.is_closed:
            self.end_run(False)
            self.is_closed = True
        import gc

        if self in gc.callbacks:
            gc.callbacks.remove(self)

    # -- the run -----------------------------------------------------------------------------------------------

    cdef int begin_run(self, bint is_nested) noexcept:
        """This thread makes turns now; if it made none before, what was since the last one is outside."""
        cdef unsigned long thread = <unsigned long>PyThread_get_thread_ident()
        if is_nested:
            ul_now_begin(&self.now, self.switch_to(UL_LOOP), -1)
            return 0
        self.awake_ns = self.switch_to(UL_LOOP)
        self.depth = 0
        self.thread = thread
        self.thread_state = PyThreadState_Get()
        self.now.tid = gettid()
        ul_now_begin(&self.now, self.awake_ns, -1)
        self.stamp(self.awake_ns)
        return 0

    cdef int end_run(self, bint is_nested) noexcept:
        """And no more; if it is a nested run, the callback that made it goes on."""
        if is_nested:
            if self.depth:
                ul_now_begin(&self.now, self.switch_to(UL_CALLBACK), self.frames[self.depth - 1].entry)
            return 0
        if self.now.tid != 0:
            self.switch_to(UL_OUTSIDE)
            self.before_wait()
        self.depth = 0
        ul_now_rest(&self.now)
        self.now.tid = 0
        return 0

    cdef int64_t switch_to(self, int state) noexcept:
        """What was until now ends; returns the time."""
        cdef int64_t now_ns = ul_monotonic_ns()
        self.spent_ns[self.state] += now_ns - self.since_ns
        self.state = state
        self.since_ns = now_ns
        return now_ns

    cdef int enter(self, int state) noexcept:
        """The thread begins to wait, to poll or a system call; returns what leave() needs."""
        cdef int before = self.state
        self.switch_to(state)
        if state != UL_CALLS:
            ul_now_rest(&self.now)
        return before

    cdef int leave(self, int state) noexcept:
        """And ends it."""
        cdef int64_t began_ns = self.since_ns
        cdef int ended = self.state
        cdef int64_t now_ns = self.switch_to(state)
        if state == UL_CALLBACK and self.depth:  # it waits by itself: loop._selector.select()
            ul_now_begin(&self.now, now_ns, self.frames[self.depth - 1].entry)
        else:
            ul_now_begin(&self.now, now_ns, -1)
        self.stamp(now_ns)
        if ended == UL_WAIT:
            self.note(began_ns, now_ns - began_ns, UL_WAIT, 0)
        return 0

    cdef int before_wait(self) noexcept:
        """A turn has done its work."""
        ul_count(self.stretches, self.since_ns - self.awake_ns)
        return 0

    cdef int after_wait(self, bint is_skipped) noexcept:
        """Parameters: is_skipped: nothing could be there, and the monitor was not asked."""
        if is_skipped:
            ul_now_begin(&self.now, self.switch_to(UL_LOOP), -1)
        self.awake_ns = self.since_ns
        return 0

    # -- callbacks ---------------------------------------------------------------------------------------------

    cdef int64_t begin(self, int kind, object what) except? -1:
        cdef int entry = self.entry_of(kind, what)
        cdef Frame *frame
        if self.state != UL_LOOP:
            self.switch_to(UL_LOOP)
        self.state = UL_CALLBACK
        if self.depth < MOST_FRAMES:
            frame = &self.frames[self.depth]
            frame.entry = entry
            frame.began_ns = self.since_ns
            frame.base_ns = self.spent_ns[UL_CALLBACK]
            frame.inner_ns = 0
            self.depth += 1
        ul_now_begin(&self.now, self.since_ns, entry)
        return self.since_ns

    cdef int end(self, object what, int64_t began_ns) except -1:
        cdef int64_t now_ns = self.switch_to(UL_LOOP)
        cdef int64_t gross_ns, own_ns
        cdef Frame *frame
        cdef Entry *entry
        ul_now_begin(&self.now, now_ns, -1)
        self.stamp(now_ns)
        # those above were left by an exception, SystemExit of a nested run
        while self.depth and self.frames[self.depth - 1].began_ns != began_ns:
            self.depth -= 1
        if self.depth:
            self.depth -= 1
            frame = &self.frames[self.depth]
            gross_ns = self.spent_ns[UL_CALLBACK] - frame.base_ns
            own_ns = gross_ns - frame.inner_ns
            if self.depth:
                self.frames[self.depth - 1].inner_ns += gross_ns
            entry = &self.entries[frame.entry]
            entry.count += 1
            entry.total_ns += own_ns
            if own_ns > entry.longest_ns:
                entry.longest_ns, entry.longest_at_ns = own_ns, began_ns
            ul_count(self.callbacks, own_ns)
            self.note(began_ns, now_ns - began_ns, UL_CALLBACK, frame.entry)
        return self.check(what, now_ns - began_ns)

    cdef int note(self, int64_t began_ns, int64_t took_ns, int state, int entry) noexcept:
        cdef ul_event *event = &self.events[self.n_events & self.events_mask]
        event.began_ns, event.took_ns, event.state, event.entry = began_ns, took_ns, state, entry
        self.n_events += 1
        return 0

    # -- when callbacks became ready ---------------------------------------------------------------------------

    cdef int stamp(self, int64_t now_ns) noexcept:
        """What is in the queue and has no time yet became ready now, or a moment ago."""
        cdef size_t tail = self.ready.tail
        if self.n_stamped == tail:
            return 0
        if self.ready_mask != self.ready.mask and self.grow_stamps() < 0:
            return 0
        if <Py_ssize_t>(self.n_stamped - self.ready.head) < 0:
            self.n_stamped = self.ready.head
        while self.n_stamped != tail:
            self.ready_at[self.n_stamped & self.ready_mask] = now_ns
            self.n_stamped += 1
        return 0

    cdef int grow_stamps(self) noexcept:
        """As many places as the queue has; -1 without memory: then delays are not counted for a while."""
        cdef size_t mask = self.ready.mask, at
        cdef int64_t *grown = <int64_t *>calloc(mask + 1, sizeof(int64_t))
        if grown == NULL:
            return -1
        if self.ready_at != NULL:
            at = self.ready.head
            while <Py_ssize_t>(self.n_stamped - at) > 0:
                grown[at & mask] = self.ready_at[at & self.ready_mask]
                at += 1
        free(self.ready_at)
        self.ready_at, self.ready_mask = grown, mask
        return 0

    cdef int count_delay(self, size_t position) noexcept:
        """A callback of the queue runs next."""
        if <Py_ssize_t>(self.n_stamped - position) > 0 and self.ready_at != NULL:
            ul_count(self.delays, self.since_ns - self.ready_at[position & self.ready_mask])
        return 0

    cdef int count_lateness(self, int64_t when_ns) noexcept:
        """A timer that was due at that time runs next."""
        ul_count(self.lateness, max(self.since_ns - when_ns, <int64_t>0))
        return 0

    # -- what they are counted as ------------------------------------------------------------------------------

    cdef int entry_of(self, int kind, object what) except -1:
        if isinstance(what, Handle):
            return self.entry_of_handle(kind, (<Handle>what).callback)
        if isinstance(what, Subject):
            key = (<Subject>what).recorded_as()
            return self.find(kind, <void *>key, key)
        return self.entry_of_handle(kind, what)

    cdef int entry_of_handle(self, int kind, object callback) except -1:
        cdef object owner
        if PyMethod_Check(callback):
            owner = <object>PyMethod_GET_SELF(callback)
            if isinstance(owner, python_task):
                return self.entry_of_task(owner, False)
            callback = <object>PyMethod_GET_FUNCTION(callback)
            if not PyFunction_Check(callback):
                return self.find(kind, <void *>callback, callback)  # a compiled one
        if PyFunction_Check(callback):
            owner = <object>PyFunction_GetCode(callback)
            return self.find(kind, <void *>owner, owner)
        if PyCFunction_Check(callback):
            if UL_METHODS_OWNER(callback) != NULL:
                owner = <object>UL_METHODS_OWNER(callback)
                if isinstance(owner, compiled_task):
                    return self.entry_of_task(owner, True)
            return self.find(kind, UL_METHODS_TABLE(callback), callback.__name__)
        if type(callback) is partial:
            return self.entry_of_handle(kind, callback.func)
        if self.step_type is None and strstr(UL_TYPE_NAME(callback), b"TaskStepMethWrapper") != NULL:
            self.step_type = type(callback)
        if type(callback) is self.step_type:
            return self.entry_of_task(callback.__self__, True)
        kind_of_callable = type(callback)
        return self.find(kind, <void *>kind_of_callable, kind_of_callable)

    cdef int entry_of_task(self, object task, bint is_compiled) except -1:
        """By the name that the program gave, else by what its coroutine runs.  Calls no method of a subclass."""
        cdef str name = compiled_name(task) if is_compiled else python_task.get_name(task)
        cdef object coroutine
        if not ul_is_default_name(name):
            known = self.task_names.get(name)
            if known is None and len(self.task_names) < MOST_TASK_NAMES:
                known = self.task_names[name] = name
            if known is not None:
                return self.find(OF_TASK, <void *>known, known)
        coroutine = compiled_coroutine(task) if is_compiled else python_task.get_coro(task)
        runs = ul_coroutine_code(coroutine) if PyCoro_CheckExact(coroutine) else type(coroutine)
        return self.find(OF_TASK, <void *>runs, runs)

    cdef int passed(self) noexcept:
        """Something of the loop's own was done between two callbacks, and took time."""
        self.switch_to(UL_LOOP)
        return 0

    cdef int find(self, int kind, void *key, object owner) except -1:
        """The number of the entry, a new one if there is room.

        Parameters: owner: what keeps the key alive, or its name where it is static; it names the entry.
        """
        cdef size_t slot = ((<size_t>key >> 4) ^ (<size_t>key >> 14) ^ <size_t>kind * 0x9E5) & (N_SLOTS - 1)
        cdef int at = self.slots[slot]
        while at:
            if self.entries[at].key == key and self.entries[at].kind == kind:
                return at
            slot = (slot + 1) & (N_SLOTS - 1)
            at = self.slots[slot]
        if self.n_entries == MOST_ENTRIES:
            return kind
        at = self.n_entries
        self.keys[at] = owner
        self.n_entries += 1
        self.entries[at].key, self.entries[at].kind = key, kind
        self.slots[slot] = at
        must(self.n_entries < N_SLOTS, "the table always has an empty slot, at which a search ends")
        return at

    # -- garbage collection ------------------------------------------------------------------------------------

    # For gc.callbacks.  No byte code runs here, in which an exception, such as that of a signal, would be lost.
    def __call__(self, str phase, dict _info):
        cdef int64_t now_ns
        if self.is_closed or self.thread != <unsigned long>PyThread_get_thread_ident() or self.now.tid == 0:
            return
        if phase == "start":
            self.state_before_collection = self.state
            self.collection_ns = self.switch_to(UL_COLLECT)
        elif self.collection_ns:
            now_ns = self.switch_to(self.state_before_collection)
            ul_count(self.collections, now_ns - self.collection_ns)
            self.note(self.collection_ns, now_ns - self.collection_ns, UL_COLLECT, 0)
            self.collection_ns = 0

    # -- numbers -----------------------------------------------------------------------------------------------

    def numbers(self):
        """What observing/recording makes a snapshot of: times and counts, nothing that is the recorder's own."""
        cdef int64_t now_ns = ul_monotonic_ns()
        cdef int at
        spent = [self.spent_ns[at] for at in range(UL_N_STATES)]
        if not self.is_closed:
            spent[self.state] += now_ns - self.since_ns
        return {
            "recorded_ns": now_ns - self.began_ns,
            "now_ns": now_ns,
            "spent_ns": spent,
            "entries": [self.numbers_of(at) for at in range(self.n_entries) if self.entries[at].count],
            "delays": of_histogram(self.delays),
            "lateness": of_histogram(self.lateness),
            "callbacks": of_histogram(self.callbacks),
            "stretches": of_histogram(self.stretches),
            "collections": of_histogram(self.collections),
            "n_events": self.n_events,
        }

    def numbers_of(self, int at):
        """(kind, key or None for others of that kind, count, total, longest, when that began) of an entry."""
        cdef Entry *entry = &self.entries[at]
        return (entry.kind, self.keys.get(at), entry.count, entry.total_ns, entry.longest_ns, entry.longest_at_ns)

    def key_of(self, int at):
        """(kind, key or None) of an entry."""
        return self.entries[at].kind, self.keys.get(at)

    def take_events(self):
        """The last events, the oldest first: (began, took, state, entry), in nanoseconds."""
        cdef size_t first = max(self.n_events, self.events_mask + 1) - (self.events_mask + 1)
        cdef size_t at
        cdef ul_event *event
        copied = []
        for at in range(first, self.n_events):
            event = &self.events[at & self.events_mask]
            copied.append((event.began_ns, event.took_ns, event.state, event.entry))
        return copied

    def took_ns(self, int64_t began_ns):
        """How long what began at that time took, if it is one of the last events; else -1."""
        cdef size_t at = self.n_events
        cdef ul_event *event
        while at and self.n_events - at <= self.events_mask:
            at -= 1
            event = &self.events[at & self.events_mask]
            if event.began_ns == began_ns and event.state == UL_CALLBACK:
                return event.took_ns
        return -1

    def thread_ident(self):
        """threading.get_ident() of the thread that runs the loop, or did."""
        return self.thread

    def running(self):
        """(serial number, since when, entry or -1) of what the loop's thread does; None: it waits, or runs no loop."""
        cdef ul_now copy
        if not ul_read_now(&self.now, &copy):
            return None
        return copy.n_begun, copy.since_ns, copy.entry


cdef dict of_histogram(ul_histogram *histogram):
    return {
        "count": histogram.count,
        "total_ns": histogram.total_ns,
        "longest_ns": histogram.longest_ns,
        "buckets": [(ul_bucket_start(at), histogram.buckets[at]) for at in range(UL_N_BUCKETS)
                    if histogram.buckets[at]],
    }

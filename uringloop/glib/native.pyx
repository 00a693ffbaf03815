"""A GSource of GLib whose callbacks are compiled: prepare, check and dispatch of one AioContext.

How it works:
 1. GLib's functions are looked up in the library that PyGObject has loaded (dlopen, dlsym), so that nothing of GLib is
    needed to build or to import the package.  The GMainContext is taken out of PyGObject's boxed object.
 2. The source watches one fd, the monitor's; for the poll monitor those of all handlers, updated in prepare.
 3. It may recurse: a GLib.MainLoop inside of a callback calls all three steps again.

Ownership: the GSource borrows its Python owner and is destroyed with it; GLib may keep the GSource longer.
Errors: a callback of GLib cannot raise.  If our own `iterate` called GLib it raises afterwards, else see `fail`.

Thread: the one that owns the GMainContext.
"""

cimport cython
from libc.limits cimport INT_MAX
from libc.stdint cimport int64_t
from cpython.exc cimport PyErr_CheckSignals, PyErr_Print, PyErr_SetInterrupt, PyErr_SetObject
from cpython.ref cimport PyObject

from ..aio.context_core cimport ContextCore
from ..aio.foreign_turns cimport ForeignTurns
from ..eventloop.base.loop_core cimport LoopCore
from ..fdmon.base cimport FdHandler
from ..support.system cimport POLLERR, POLLHUP, POLLIN, POLLNVAL

import sys
import traceback

cdef extern from "../glib/glib_abi.h":
    struct ul_glib_source:
        void *owner
    struct ul_glib_source_funcs:
        int (*prepare)(void *, int *) noexcept
        int (*check)(void *) noexcept
        int (*dispatch)(void *, void *, void *) noexcept
        void (*finalize)(void *) noexcept
    const char *ul_glib_load()

cdef extern from *:
    void *main_context_default "ul_glib.main_context_default"() nogil
    void *main_context_ref "ul_glib.main_context_ref"(void *) nogil
    void main_context_unref "ul_glib.main_context_unref"(void *) nogil
    bint main_context_acquire "ul_glib.main_context_acquire"(void *) nogil
    void main_context_release "ul_glib.main_context_release"(void *) nogil
    bint main_context_iteration "ul_glib.main_context_iteration"(void *, int) nogil
    void *source_new "ul_glib.source_new"(ul_glib_source_funcs *, unsigned) nogil
    unsigned source_attach "ul_glib.source_attach"(void *, void *) nogil
    bint source_is_destroyed "ul_glib.source_is_destroyed"(void *) nogil
    void source_destroy "ul_glib.source_destroy"(void *) nogil
    void source_unref "ul_glib.source_unref"(void *) nogil
    void source_set_priority "ul_glib.source_set_priority"(void *, int) nogil
    void source_set_can_recurse "ul_glib.source_set_can_recurse"(void *, int) nogil
    void source_set_name "ul_glib.source_set_name"(void *, const char *) nogil
    void *source_add_unix_fd "ul_glib.source_add_unix_fd"(void *, int, int) nogil
    void source_remove_unix_fd "ul_glib.source_remove_unix_fd"(void *, void *) nogil
    void source_modify_unix_fd "ul_glib.source_modify_unix_fd"(void *, void *, int) nogil
    int source_query_unix_fd "ul_glib.source_query_unix_fd"(void *, void *) nogil

cdef enum:
    ALWAYS_REPORTED = POLLERR | POLLHUP | POLLNVAL  # also where nothing is watched

cdef unsigned long long NEVER = <unsigned long long>-1

cdef object main_context_type = None  # PyGObject's GLib.MainContext; None until GLib's functions were found
cdef ul_glib_source_funcs funcs
funcs.prepare = on_prepare
funcs.check = on_check
funcs.dispatch = on_dispatch
funcs.finalize = NULL


def load():
    """Find PyGObject and GLib's functions.  Raises: ImportError."""
    global main_context_type
    cdef const char *missing
    if main_context_type is not None:
        return
    try:
        from gi.repository import GLib
    except ImportError as error:
        raise ImportError(
            "uringloop.glib needs PyGObject: pip install PyGObject, or the package python3-gi") from error
    missing = ul_glib_load()
    if missing != NULL:
        raise ImportError(f"uringloop.glib needs GLib 2.36 or newer: {missing.decode()} was not found")
    if boxed_pointer(GLib.MainContext.default()) != main_context_default():
        raise ImportError("uringloop.glib: PyGObject uses another GLib than libglib-2.0.so.0")
    main_context_type = GLib.MainContext


cdef void *pointer_of(object main_context) except NULL:
    """The GMainContext of PyGObject's object, borrowed; None is the default one."""
    load()
    if main_context is None:
        return main_context_default()
    if not isinstance(main_context, main_context_type):
        raise TypeError(f"a GLib.MainContext was expected, got {main_context!r}")
    return boxed_pointer(main_context)


cdef void *boxed_pointer(object boxed) noexcept:
    """The pointer in PyGObject's object: the member after the object's head (PyGBoxed in pygobject.h)."""
    return (<void **>(<char *><PyObject *>boxed + sizeof(PyObject)))[0]


@cython.no_gc_clear  # GLib may call between tp_clear and __dealloc__
cdef class Source:
    """The GSource of one context.

    Parameters:
        aio_context: not closed, not attached anywhere.
        main_context: PyGObject's GLib.MainContext; None for the default one.
        priority: GLib's, lower numbers first.
        enter: called before each dispatch; its result is called afterwards, unless it is None.

    Raises: RuntimeError when another thread owns the main context, or the context is attached already; ImportError
    without PyGObject or GLib, TypeError.
    """

    cdef ForeignTurns turns
    cdef void *source             # owned; NULL after destroy
    cdef void *context            # owned reference; NULL after destroy
    cdef object enter
    cdef int fd                   # the one watched by `tag`; -1: each handler's, in `tags`
    cdef void *tag
    cdef dict tags                # fd -> (events, tag)
    cdef unsigned long long n_interests  # of the monitor when `tags` was made
    cdef bint is_blind            # GLib watches no events on the fds: see `blind`
    cdef bint is_iterating        # the innermost driver is `iterate`, which can raise
    cdef object error             # what it will raise, or None
    cdef bint has_interrupted     # prepare has passed on a KeyboardInterrupt, and it was not taken since
    cdef object __weakref__

    def __cinit__(self, ContextCore aio_context not None, object main_context, int priority, object enter):
        self.fd = -1
        self.tags = {}
        self.enter = enter
        cdef void *context = pointer_of(main_context)
        if not main_context_acquire(context):
            raise RuntimeError("this GLib.MainContext is owned by another thread")
        try:
            self.turns = ForeignTurns(aio_context)
            self.context = main_context_ref(context)  # undone by __dealloc__
            self.source = source_new(&funcs, sizeof(ul_glib_source))
            (<ul_glib_source *>self.source).owner = <void *>self
            source_set_priority(self.source, priority)
            source_set_can_recurse(self.source, True)
            source_set_name(self.source, "uringloop")
            source_attach(self.source, context)
        finally:
            main_context_release(context)

    def __dealloc__(self):
        self.destroy_source()

    cdef void destroy_source(self) noexcept:
        cdef void *source = self.source
        if source != NULL:
            self.source = NULL
            (<ul_glib_source *>source).owner = NULL
            source_destroy(source)
            source_unref(source)
        if self.context != NULL:
            main_context_unref(self.context)
            self.context = NULL

    @property
    def is_attached(self):
        """Whether GLib drives the context."""
        return (self.source != NULL and not source_is_destroyed(self.source)
                and not self.turns.aio_context.monitor.is_closed)

    def detach(self):
        """Stop GLib from driving the context.  Idempotent.

        Raises: RuntimeError when another thread runs the main context.
        """
        if self.source != NULL:
            self._refuse_strangers()
            self._forget()

    def _refuse_strangers(self):
        """Raises: RuntimeError when another thread runs the main context."""
        if self.context != NULL:
            if not main_context_acquire(self.context):
                raise RuntimeError("this GLib.MainContext is owned by another thread")
            main_context_release(self.context)

    def _forget(self):
        """detach() in a fork child, where the owner of the main context does not matter."""
        self.destroy_source()
        self.turns.detach()

    # -- what GLib calls -------------------------------------------------------------------------------

    cdef bint prepare(self, int *timeout_ms) except -1:
        cdef int64_t timeout_ns
        cdef bint is_ready
        if self.turns.aio_context.monitor.is_closed:
            self._forget()
            return False
        is_ready = self.turns.prepare(&timeout_ns)
        if self.source != NULL:
            self.watch()
            self.blind(self.turns.is_yielding)
        if timeout_ns < 0:
            timeout_ms[0] = -1
        else:
            # rounded up: a timer is late, never early
            timeout_ms[0] = <int>min((timeout_ns + 999_999) // 1_000_000, INT_MAX)
        return is_ready

    cdef int watch(self) except -1:
        """Let GLib sleep on the fds that the monitor watches now."""
        cdef int fd = self.turns.aio_context.monitor.fileno()
        cdef FdHandler handler
        if fd >= 0:
            if fd != self.fd:
                if self.tag != NULL:
                    source_remove_unix_fd(self.source, self.tag)
                self.tag = source_add_unix_fd(self.source, fd, POLLIN)
                self.fd = fd
            return 0
        if self.n_interests == self.turns.aio_context.monitor.n_interests:
            return 0
        handlers = self.turns.aio_context.monitor.handlers
        for fd, (events, tag) in list(self.tags.items()):
            handler = handlers.get(fd)
            if handler is None or handler.events != events:
                del self.tags[fd]
                source_remove_unix_fd(self.source, <void *><size_t>tag)
        if self.turns.is_yielding:
            return 0  # missing ones were removed by `blind`
        for fd, handler in handlers.items():
            if fd not in self.tags:
                self.tags[fd] = handler.events, <size_t>source_add_unix_fd(self.source, fd, handler.events)
        self.n_interests = self.turns.aio_context.monitor.n_interests
        return 0

    cdef int blind(self, bint is_blind) except -1:
        """While others have an iteration: for GLib a source with a ready fd is ready, even if check returns false."""
        if not is_blind and not self.is_blind:
            return 0
        self.is_blind = is_blind
        if self.tag != NULL:
            source_modify_unix_fd(self.source, self.tag, 0 if is_blind else POLLIN)
        for fd, (events, tag) in list(self.tags.items()):
            if is_blind and source_query_unix_fd(self.source, <void *><size_t>tag) & ALWAYS_REPORTED:
                del self.tags[fd]
                source_remove_unix_fd(self.source, <void *><size_t>tag)
                self.n_interests = NEVER  # `watch` puts it back
            else:
                source_modify_unix_fd(self.source, <void *><size_t>tag, 0 if is_blind else <int>events)
        return 0

    cdef bint check(self) except -1:
        cdef bint is_fd_ready = False
        if self.tag != NULL:
            is_fd_ready = source_query_unix_fd(self.source, self.tag) != 0
        else:
            for _, tag in self.tags.values():
                if source_query_unix_fd(self.source, <void *><size_t>tag):
                    is_fd_ready = True
                    break
        return self.turns.check(is_fd_ready)

    cdef int dispatch(self) except -1:
        cdef bint was_iterating = self.is_iterating
        if self.turns.aio_context.monitor.is_closed:  # by another source, since the check
            self._forget()
            return 0
        leave = self.enter() if self.enter is not None else None
        self.is_iterating = False  # whatever main loop runs in a callback is not ours
        try:
            # The loop runs already, and it is not `iterate` that called: its own run_forever is below.
            self.turns.dispatch(leave is None and not was_iterating)
        finally:
            self.is_iterating = was_iterating
            if leave is not None:
                leave()
        return 0

    cdef void fail(self, error, bint is_fatal) noexcept:
        """One of the steps raised.

        Under a main loop run by other code this does what PyGObject does for callbacks: KeyboardInterrupt is a SIGINT,
        which ends GLib.MainLoop.run(), SystemExit ends the process.

        Parameters:
            is_fatal: the monitor cannot wait; without detaching, GLib would call again at once.
        """
        try:
            if is_fatal and not isinstance(error, (KeyboardInterrupt, SystemExit)):
                self.detach()
            if self.is_iterating:
                self.error = error
            elif isinstance(error, KeyboardInterrupt):
                PyErr_SetInterrupt()
            elif isinstance(error, SystemExit):
                exit_process(error)
            else:
                self.report(error)
        except BaseException:
            traceback.print_exc()

    # -- driving it ------------------------------------------------------------------------------------

    cdef int iterate(self, bint may_block) except -1:
        """One iteration of the main context."""
        cdef bint was_iterating = self.is_iterating
        cdef void *context = self.context  # the code that iterates it holds a reference
        self.is_iterating = True
        with nogil:
            main_context_iteration(context, may_block)
        self.is_iterating = was_iterating
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        PyErr_CheckSignals()
        return 0

    cdef bint handle_signals(self) noexcept:
        """Handle earlier signals; a later one interrupts the sleep.  False when a handler has raised.

        Under a main loop in C nothing may handle a KeyboardInterrupt: it is passed on once, and then printed.
        """
        try:
            PyErr_CheckSignals()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and self.has_interrupted and not self.is_iterating:
                self.report(error)
                self.has_interrupted = False
            else:
                self.has_interrupted = isinstance(error, KeyboardInterrupt)
                self.fail(error, False)
            return False
        self.has_interrupted = False
        return True

    cdef void report(self, error) noexcept:
        try:
            sys.excepthook(type(error), error, error.__traceback__)
        except BaseException:
            traceback.print_exc()

    def _run_loop(self, LoopCore loop not None):
        """The part of run_forever between set-up and clean-up: run until stop(), at least one turn.

        Raises: what callbacks may raise; RuntimeError when another thread owns the main context.
        """
        cdef ContextCore aio_context = self.turns.aio_context
        cdef unsigned long long n_before = aio_context.n_turns
        cdef void *context = self.context
        if context == NULL:
            raise RuntimeError("Event loop is closed")
        if not main_context_acquire(context):
            raise RuntimeError("this GLib.MainContext is owned by another thread")
        main_context_ref(context)  # undone below: a callback may detach
        try:
            aio_context.begin_run()
            self.turns.is_last_turn = loop.is_stopping
            while True:
                if source_is_destroyed(self.source):
                    raise RuntimeError("the GSource of this event loop was destroyed")
                self.iterate(not loop.is_stopping)
                if loop.is_loop_closed or self.source == NULL:
                    raise RuntimeError("Event loop is closed")
                if loop.is_stopping:
                    break
            if aio_context.n_turns == n_before:
                self.turns.dispatch(False)  # stopped before any turn
        finally:
            try:
                if not aio_context.monitor.is_closed:
                    aio_context.settle()
            finally:
                main_context_release(context)
                main_context_unref(context)

    def _stop_loop(self, LoopCore loop not None):
        """Make the current turn the last one; GLib's other sources are not hurried."""
        loop.is_stopping = True
        self.turns.is_last_turn = True


cdef int exit_process(error) except -1:
    """As the interpreter does for a SystemExit that was not caught."""
    PyErr_SetObject(type(error), error)
    PyErr_Print()
    return 0


cdef bint is_dead(void *source) noexcept:
    return (<ul_glib_source *>source).owner == NULL


cdef int on_prepare(void *source, int *timeout_ms) noexcept with gil:
    cdef Source owner
    timeout_ms[0] = -1
    if is_dead(source):
        return False
    owner = <Source>(<ul_glib_source *>source).owner
    with cython.critical_section(owner.turns.aio_context.guard):
        if not owner.handle_signals():
            timeout_ms[0] = 0
            return False
        if is_dead(source):
            return False
        try:
            return owner.prepare(timeout_ms)
        except BaseException as error:
            owner.fail(error, True)
            timeout_ms[0] = 0
            return False


cdef int on_check(void *source) noexcept with gil:
    cdef Source owner
    if is_dead(source):
        return False
    owner = <Source>(<ul_glib_source *>source).owner
    with cython.critical_section(owner.turns.aio_context.guard):
        try:
            return owner.check()
        except BaseException as error:
            owner.fail(error, True)
            return False


cdef int on_dispatch(void *source, void *callback, void *user_data) noexcept with gil:
    cdef Source owner
    if is_dead(source):
        return False
    owner = <Source>(<ul_glib_source *>source).owner
    with cython.critical_section(owner.turns.aio_context.guard):
        try:
            owner.dispatch()
        except BaseException as error:
            owner.fail(error, owner.turns.aio_context.monitor.is_closed)
        return True

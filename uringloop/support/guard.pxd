# guard.h: what keeps two threads from working on one context at once, where Python has no GIL.
#
# Methods need nothing: building/guards.py guards them.

from cpython.ref cimport PyObject

cdef extern from "../support/guard.h":
    const bint FREE_THREADED "UL_FREE_THREADED"

    # Whether this thread has a context's guard; True where there is a GIL.
    bint is_held "ul_is_held" (object guard) noexcept
    bint is_wanted "ul_is_wanted" (object guard) noexcept
    void let_others_in "ul_let_others_in" () noexcept

    # For what any thread may call at any time: held for a few instructions.  Nothing where there is a GIL.
    ctypedef char short_lock "ul_short_lock"
    void acquire "ul_acquire" (short_lock *) noexcept nogil
    void release "ul_release" (short_lock *) noexcept nogil

    void *own_memory "ul_own_memory" (void *(*make)() noexcept nogil) noexcept nogil
    size_t peek_size "ul_peek" (const size_t *) noexcept nogil
    int peek_int "ul_peek" (const int *) noexcept nogil
    PyObject *peek_object "ul_peek" (PyObject *const *) noexcept nogil
    void poke_int "ul_poke" (int *, int) noexcept nogil
    void poke_size "ul_poke" (size_t *, size_t) noexcept nogil
    bint set_once "ul_set_once" (void *place, void *value) noexcept nogil
    void know_weakly "ul_know_weakly" (object) noexcept
    bint try_incref "ul_try_incref" (PyObject *) noexcept
    bint is_ours_alone "ul_is_ours_alone" (object) noexcept

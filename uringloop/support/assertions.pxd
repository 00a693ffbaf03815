# assertions.h: one condition each; the text says what is true.
#
# Conditions are plain C, so that nothing is evaluated before the call: no `and`, `or`, `in`, `is`; no call that may
# raise, and no Python object as an argument of one, only pointers.

cdef extern from "../support/assertions.h" nogil:
    void must "ul_must"(bint condition, const char *invariant) noexcept
    void must_not "ul_must_not"(bint condition, const char *invariant) noexcept
    void must_if "ul_must_if"(bint premise, bint condition, const char *invariant) noexcept
    bint is_none "ul_is_none"(const void *object) noexcept
    Py_ssize_t references_of "ul_references_of"(const void *object) noexcept
    Py_ssize_t length_of_list "ul_length_of_list"(const void *list) noexcept

/*
 * Assertions: what must hold, and what must not, checked in builds with URINGLOOP_DEBUG.
 *
 * A violation is a bug of uringloop, after which no state can be trusted: the process is aborted, with the invariant,
 * file and line.  So no assertion checks for mistakes of a program; those raise exceptions.
 *
 * In other builds the arguments are not evaluated.  That holds only if Cython passes the condition as it is, without
 * temporary variables before the call; tests/repository/test_assertions.py lists those expressions.
 */
#ifndef URINGLOOP_ASSERTIONS_H
#define URINGLOOP_ASSERTIONS_H
#include <Python.h>

#ifndef URINGLOOP_DEBUG
#define URINGLOOP_DEBUG 0
#endif

#if URINGLOOP_DEBUG

#include <stdio.h>

static void __attribute__((cold, noreturn, unused)) ul_violated(const char *invariant, const char *file, int line)
{
    char message[400];
    snprintf(message, sizeof message, "uringloop bug: not true: %s (%s:%d)", invariant, file, line);
    Py_FatalError(message);
}

#define ul_must(condition, invariant) ((condition) ? (void)0 : ul_violated((invariant), __FILE__, __LINE__))

#else

/* sizeof evaluates nothing, and avoids warnings about names that are used only here. */
#define ul_must(condition, invariant) ((void)sizeof(condition), (void)sizeof(invariant))

#endif

#define ul_must_not(condition, invariant) ul_must(!(condition), invariant)
#define ul_must_if(premise, condition, invariant) ul_must(!(premise) || (condition), invariant)

/* For conditions. */
#define ul_is_none(object) ((const void *)(object) == (const void *)Py_None)
#define ul_references_of(object) Py_REFCNT((PyObject *)(object))
#define ul_length_of_list(list) PyList_GET_SIZE((PyObject *)(list))

#endif

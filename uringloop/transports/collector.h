/*
 * Sections of code in which no destructor may run: a garbage collection in the middle would run the program's
 * destructors, which may write to, or close, the very transport that is being worked on.
 *
 * Before Python 3.12 making any list, tuple, method or the like may collect; since then only byte code that runs does.
 */
#ifndef URINGLOOP_COLLECTOR_H
#define URINGLOOP_COLLECTOR_H
#include <Python.h>

#if PY_VERSION_HEX < 0x030C0000
#define ul_collector_pause() PyGC_Disable()
#define ul_collector_resume(was_enabled) ((was_enabled) ? (void)PyGC_Enable() : (void)0)
#else
#define ul_collector_pause() 0
#define ul_collector_resume(was_enabled) ((void)(was_enabled))
#endif
#endif

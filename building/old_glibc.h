/*
 * Included first in wheels that are compiled with a newer glibc than they are to run with (tools/wheels.py).
 *
 * A symbol that changed its version since glibc 2.28 is bound to the one that 2.28 has.  What moved from libdl to libc
 * in 2.34 is found in the libdl that every Python of an older glibc has loaded.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <features.h>
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 33) && !defined(__ASSEMBLER__)

#if defined(__x86_64__)
#define UL_OLDEST "GLIBC_2.2.5"
#elif defined(__aarch64__)
#define UL_OLDEST "GLIBC_2.17"
#else
#error "which version of glibc was this machine's first?"
#endif

__asm__(".symver dlopen, dlopen@" UL_OLDEST);
__asm__(".symver dlsym, dlsym@" UL_OLDEST);
__asm__(".symver dladdr, dladdr@" UL_OLDEST);

/* fstat() was an inline function over __fxstat() before 2.33.  The layouts of the kernel and of glibc are the same. */
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
static inline int ul_fstat(int fd, struct stat *status)
{
    return (int)syscall(SYS_fstat, fd, status);
}
#define fstat(fd, status) ul_fstat(fd, status)

#endif

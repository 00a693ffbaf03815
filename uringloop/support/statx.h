/* statx(2): musl before 1.2.5 lacks it, and its struct is only in the kernel's header, which glibc's excludes. */
#ifndef URINGLOOP_STATX_H
#define URINGLOOP_STATX_H

#include <sys/stat.h>
#ifndef STATX_BASIC_STATS
#include <linux/stat.h>
#endif
#include <sys/syscall.h>
#include <unistd.h>

static inline int ul_statx(int folder, const char *path, int flags, unsigned mask, struct statx *status)
{
    return (int)syscall(SYS_statx, folder, path, flags, mask, status);
}

#endif

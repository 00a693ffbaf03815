/* openat2(2) of names that the kernel has cached; by number and with a struct of our own, since libraries lack both. */
#ifndef URINGLOOP_OPENAT2_H
#define URINGLOOP_OPENAT2_H

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#define UL_RESOLVE_CACHED 0x20 /* since Linux 5.12 */

struct ul_open_how {
    uint64_t flags;
    uint64_t mode;
    uint64_t resolve;
};

/* An fd, or -1: what a request would open while it is submitted, with the flags that it would use. */
static inline int ul_open_cached(int folder, const char *path, int flags)
{
#ifdef SYS_openat2
    struct ul_open_how how = {(uint64_t)(unsigned)(flags | O_NONBLOCK), 0, UL_RESOLVE_CACHED};
    int fd = (int)syscall(SYS_openat2, folder, path, &how, sizeof(how));
    if (fd >= 0 && !(flags & O_NONBLOCK) && fcntl(fd, F_SETFL, flags) < 0) {
        close(fd);
        fd = -1;
    }
    return fd;
#else
    return -1;
#endif
}

#endif

/* preadv2(2) with RWF_NOWAIT: of a file, only what the page cache has; by number, since musl before 1.2.5 lacks it. */
#ifndef URINGLOOP_PREADV2_H
#define URINGLOOP_PREADV2_H

#include <stdint.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define UL_RWF_NOWAIT 0x00000008

/* The offset in two halves, the lower one first, as the kernel takes it on every architecture. */
static inline ssize_t ul_read_cached(int fd, void *memory, size_t count, int64_t offset)
{
    struct iovec vector = {memory, count};
    return (ssize_t)syscall(SYS_preadv2, fd, &vector, 1, (long)offset,
                            (long)((uint64_t)offset >> (8 * sizeof(long) - 1) >> 1), UL_RWF_NOWAIT);
}

#endif

/*
 * The numbers of the rings of this process's loops, in all interpreters and threads: no SQE of a user may send to them.
 *
 * Bits that are set and cleared by atomic operations; pages of the table that no number falls on take no memory.
 */
#ifndef URINGLOOP_RING_FDS_H
#define URINGLOOP_RING_FDS_H

#define UL_RING_FDS (1 << 20) /* the kernel's own limit, fs.nr_open, unless the administrator has raised it */

static unsigned long long ul_ring_bits[UL_RING_FDS / 64];
static int ul_n_rings;
static int ul_highest_ring;

/* Returns whether the number could be recorded. */
static int ul_note_ring(int fd)
{
    int highest = __atomic_load_n(&ul_highest_ring, __ATOMIC_SEQ_CST);

    if (fd < 0 || fd >= UL_RING_FDS)
        return 0;
    while (fd > highest && !__atomic_compare_exchange_n(&ul_highest_ring, &highest, fd, 0, __ATOMIC_SEQ_CST,
                                                        __ATOMIC_SEQ_CST))
        ;
    /* Set already, if the program closed that ring's fd behind our back, and the number is used again. */
    if (!(__atomic_fetch_or(&ul_ring_bits[fd / 64], 1ull << fd % 64, __ATOMIC_SEQ_CST) & 1ull << fd % 64))
        __atomic_fetch_add(&ul_n_rings, 1, __ATOMIC_SEQ_CST);
    return 1;
}

static void ul_forget_ring(int fd)
{
    if (fd < 0 || fd >= UL_RING_FDS)
        return;
    if (__atomic_fetch_and(&ul_ring_bits[fd / 64], ~(1ull << fd % 64), __ATOMIC_SEQ_CST) & 1ull << fd % 64)
        __atomic_fetch_sub(&ul_n_rings, 1, __ATOMIC_SEQ_CST);
}

static int ul_count_rings(void)
{
    return __atomic_load_n(&ul_n_rings, __ATOMIC_RELAXED);
}

/* Whether it is one, or a duplicate of one. */
static int ul_is_a_ring(int fd)
{
    int highest = __atomic_load_n(&ul_highest_ring, __ATOMIC_SEQ_CST);

    for (int i = 0; i <= highest / 64; i++) {
        unsigned long long bits = __atomic_load_n(&ul_ring_bits[i], __ATOMIC_SEQ_CST);

        for (; bits; bits &= bits - 1) {
            int ring_fd = i * 64 + __builtin_ctzll(bits);

            if (ring_fd == fd || ul_is_same_file(fd, ring_fd))
                return 1;
        }
    }
    return 0;
}
#endif

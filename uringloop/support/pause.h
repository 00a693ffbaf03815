/* What a thread does before it reads memory again that another thread, or the kernel, writes. */
#ifndef URINGLOOP_PAUSE_H
#define URINGLOOP_PAUSE_H

static inline void ul_cpu_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}
#endif

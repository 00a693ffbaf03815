/*
 * Trace points for perf(1), SystemTap and bpftrace: USDT, provider "uringloop"; docs/observing.md has the list.
 *
 * They are compiled in where <sys/sdt.h> is there (Debian: systemtap-sdt-dev), as an instruction that does nothing and a
 * note in the module's file; otherwise nothing is.
 */
#ifndef URINGLOOP_PROBES_H
#define URINGLOOP_PROBES_H
#include <stdint.h>

#if defined(__has_include)
#if __has_include(<sys/sdt.h>)
#include <sys/sdt.h>
#define UL_PROBE1(name, a) STAP_PROBE1(uringloop, name, a)
#define UL_PROBE2(name, a, b) STAP_PROBE2(uringloop, name, a, b)
#define UL_PROBE3(name, a, b, c) STAP_PROBE3(uringloop, name, a, b, c)
#endif
#endif
#ifndef UL_PROBE1
#define UL_PROBE1(name, a) ((void)0)
#define UL_PROBE2(name, a, b) ((void)0)
#define UL_PROBE3(name, a, b, c) ((void)0)
#endif

#define ul_probe_turn(context, number) UL_PROBE2(turn, context, number)
#define ul_probe_wait(context, timeout_ns) UL_PROBE2(wait, context, timeout_ns)
#define ul_probe_woken(context) UL_PROBE1(woken, context)
#define ul_probe_callback(handle, function) UL_PROBE2(callback, handle, function)
#define ul_probe_returned(handle) UL_PROBE1(returned, handle)
#define ul_probe_submit(ring_fd, count, result) UL_PROBE3(submit, ring_fd, count, result)
#define ul_probe_complete(request, result, flags) UL_PROBE3(complete, request, result, flags)
#define ul_probe_accept(fd) UL_PROBE1(accept, fd)
#define ul_probe_read(fd, n_bytes) UL_PROBE2(read, fd, n_bytes)
#define ul_probe_write(fd, n_bytes) UL_PROBE2(write, fd, n_bytes)
#endif

/*
 * Preloaded into wrk: its TCP sockets use the congestion control that TCP_CONGESTION names, as both sides of the other
 * benchmarks do. Where bbr is the machine's default, it would pace each request by a timer, also over loopback.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

int socket(int domain, int type, int protocol)
{
    int (*real)(int, int, int) = (int (*)(int, int, int))dlsym(RTLD_NEXT, "socket");
    const char *name = getenv("TCP_CONGESTION");
    int fd = real(domain, type, protocol);

    if (fd >= 0 && name && domain == AF_INET)
        setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, (socklen_t)strlen(name));
    return fd;
}

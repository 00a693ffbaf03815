# Socket addresses: the kernel's names and Python's objects.
from libc.stdint cimport uint64_t

cdef extern from *:
    """
    #include <arpa/inet.h>
    #include <netinet/in.h>
    #include <stddef.h>
    #include <string.h>
    #include <sys/socket.h>
    #include <sys/un.h>
    /* An IPv4 or IPv6 address in the kernel's format; small, since queues and caches are full of them. */
    typedef union {
        struct sockaddr any;
        struct sockaddr_in four;
        struct sockaddr_in6 six;
        unsigned words[7];
    } ul_name;
    /* Where the kernel writes a name of any family that is known here. */
    typedef union {
        ul_name internet;
        struct sockaddr_un path;
    } ul_peer;
    """
    ctypedef struct ul_name:
        unsigned words[7]
    ctypedef union ul_peer:
        ul_name internet
    int AF_INET, AF_INET6, AF_UNIX

cdef object address_of(const ul_peer *name, unsigned n_bytes)
cdef object fresh_address_of(const ul_peer *name, unsigned n_bytes)
cdef uint64_t packed_four(const ul_peer *name, unsigned n_bytes) noexcept
cdef object address_of_packed(uint64_t four)
cdef int real_family(int fd, int family) noexcept
cdef unsigned internet_name(object address, int family, ul_name *name) except? 999

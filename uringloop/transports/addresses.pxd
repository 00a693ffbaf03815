# Socket addresses: the kernel's names and Python's objects.
cdef extern from *:
    """
    #include <arpa/inet.h>
    #include <netinet/in.h>
    #include <stddef.h>
    #include <string.h>
    #include <sys/socket.h>
    #include <sys/un.h>
    /* An IPv4 or IPv6 address as the kernel has it; small, since queues and caches are full of them. */
    typedef union {
        struct sockaddr any;
        struct sockaddr_in four;
        struct sockaddr_in6 six;
        unsigned words[7];
    } ul_name;
    """
    ctypedef struct ul_name:
        unsigned words[7]
    int AF_INET, AF_INET6, AF_UNIX

cdef object internet_address(const ul_name *name, unsigned n_bytes)
cdef object unix_address(const char *name, unsigned n_bytes)
cdef unsigned internet_name(object address, int family, ul_name *name) except? 999

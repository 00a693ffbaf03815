"""Socket addresses: from the kernel's names (struct sockaddr) to Python's tuples and back, without a system call.

A datagram server needs both per packet: the address of a known peer is the same tuple object again, and a tuple that
was sent to before has its name ready.  Both directions use a direct-mapped table, shared by all loops, in which a new
entry replaces the old one in its place.  Where there is no GIL, threads share eight of them.

Invariant: an entry of `names` keeps its tuple alive, so that no other tuple can have its address in memory.  Only
tuples of exact str and int are entered: those never change.

The family is the one that the kernel wrote into the name.  That of the Python socket may differ: uvicorn and
gunicorn wrap whatever fd they are given as AF_UNIX.

Source of the conversions: socket.socket.recvfrom and sendto; the results are the same.  Only literal addresses are
converted here, the rest is left to those methods: names to resolve, "<broadcast>", an IPv6 zone in the host's text.

Streams convert the names of their peers without the table: each is needed once, and what an entry keeps alive would be
spread over the memory of many connections, none of which could then be returned to the system.

Thread: any.
"""

from libc.stdint cimport uint32_t, uint64_t, uintptr_t
from libc.string cimport memcmp, memcpy, memset, strlen
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.long cimport PyLong_CheckExact
from cpython.ref cimport Py_CLEAR, Py_INCREF, Py_XDECREF, PyObject
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_ITEM, PyTuple_GET_SIZE

from ..support.assertions cimport must, references_of
from ..support.guard cimport acquire, release, short_lock

import atexit

cdef extern from "<sys/socket.h>":
    int SOL_SOCKET, SO_DOMAIN
    int getsockopt(int fd, int level, int name, void *value, unsigned *n_bytes)

cdef extern from "Python.h":
    bint PyUnicode_CheckExact(object)
    object PyUnicode_DecodeFSDefaultAndSize(const char *, Py_ssize_t)
    const char *PyUnicode_AsUTF8AndSize(object, Py_ssize_t *) except NULL
    long long PyLong_AsLongLongAndOverflow(object, int *) except? -1

cdef extern from *:
    """
    static uint32_t ul_name_hash(const ul_name *name)
    {
        const unsigned *w = name->words;
        uint32_t mixed = w[0] * 0x9E3779B1u ^ w[1] * 0x85EBCA77u;
        if (name->any.sa_family == AF_INET6)
            mixed ^= (w[2] ^ w[3]) * 0xC2B2AE3Du ^ (w[4] ^ w[5]) * 0x27D4EB2Fu ^ w[6];
        return mixed >> 16 ^ mixed;
    }
    /* The host, the port, and a bit that is always set. */
    static uint64_t ul_packed_four(const ul_name *name)
    {
        return (uint64_t)1 << 63 | (uint64_t)name->four.sin_port << 32 | name->four.sin_addr.s_addr;
    }
    static void ul_unpack_four(ul_name *name, uint64_t four)
    {
        name->any.sa_family = AF_INET;
        name->four.sin_port = (uint16_t)(four >> 32);
        name->four.sin_addr.s_addr = (uint32_t)four;
    }
    #define ul_family(name) ((name)->any.sa_family)
    #define ul_port(name) ntohs((name)->four.sin_port)     /* at the same place in both */
    #define ul_flow(name) ntohl((name)->six.sin6_flowinfo)
    #define ul_scope(name) ((name)->six.sin6_scope_id)
    static const char *ul_host(const ul_name *name, char *text)
    {
        if (name->any.sa_family == AF_INET)
            return inet_ntop(AF_INET, &name->four.sin_addr, text, INET6_ADDRSTRLEN);
        return inet_ntop(AF_INET6, &name->six.sin6_addr, text, INET6_ADDRSTRLEN);
    }
    static int ul_set_host(ul_name *name, int family, const char *host)
    {
        name->any.sa_family = (sa_family_t)family;
        if (family == AF_INET)
            return inet_pton(AF_INET, host, &name->four.sin_addr) == 1;
        return inet_pton(AF_INET6, host, &name->six.sin6_addr) == 1;
    }
    #define ul_set_port(name, port) ((name)->four.sin_port = htons((uint16_t)(port)))
    #define ul_set_six(name, flow, scope) \
        ((name)->six.sin6_flowinfo = htonl((uint32_t)(flow)), (name)->six.sin6_scope_id = (uint32_t)(scope))
    """
    uint32_t ul_name_hash(const ul_name *)
    uint64_t ul_packed_four(const ul_name *)
    void ul_unpack_four(ul_name *, uint64_t)
    int ul_family(const ul_name *)
    int ul_port(const ul_name *)
    unsigned ul_flow(const ul_name *)
    unsigned ul_scope(const ul_name *)
    const char *ul_host(const ul_name *, char *)
    bint ul_set_host(ul_name *, int, const char *)
    void ul_set_port(ul_name *, long long)
    void ul_set_six(ul_name *, long long, long long)
    enum:
        FOUR_BYTES "sizeof(struct sockaddr_in)"
        SIX_BYTES "sizeof(struct sockaddr_in6)"
        PATH_BEGIN "offsetof(struct sockaddr_un, sun_path)"

cdef enum:
    ENTRIES = 1024  # a power of two

# Where there is no GIL, threads take one of several tables, each with a lock, by their number.
cdef extern from *:
    """
    #include "guard.h"
    #ifdef Py_GIL_DISABLED
    #define UL_TABLES 8
    #define ul_own_table() ((unsigned)((_Py_ThreadId() >> 12) * 0x9E3779B1u >> 16) % UL_TABLES)
    #else
    #define UL_TABLES 1
    #define ul_own_table() 0u
    #endif
    """
    enum:
        TABLES "UL_TABLES"
    unsigned ul_own_table() noexcept

cdef struct Entry:
    PyObject *address         # an owned tuple, or NULL
    unsigned n_bytes          # of name
    ul_name name

cdef Entry known[TABLES][ENTRIES]     # by the hash of the name
cdef Entry names[TABLES][ENTRIES]     # by the tuple's address in memory
cdef short_lock locks[TABLES]         # of both


def _forget():
    """The interpreter ends: release the tuples, which nothing else does."""
    cdef int i, table
    for table in range(TABLES):
        for i in range(ENTRIES):
            Py_CLEAR(known[table][i].address)
            Py_CLEAR(names[table][i].address)


atexit.register(_forget)


cdef inline int enter(unsigned table, Entry *entry, object address, const ul_name *name, unsigned n_bytes) except -1:
    cdef PyObject *old
    must(n_bytes <= sizeof(ul_name), "a name that is kept fits into its entry")
    must(PyTuple_CheckExact(address), "only tuples are kept, which never change")
    Py_INCREF(address)  # undone by the next enter() here
    acquire(&locks[table])
    old = entry.address
    entry.address = <PyObject *>address
    entry.n_bytes = n_bytes
    memcpy(&entry.name, name, n_bytes)
    release(&locks[table])
    Py_XDECREF(old)
    return 0


cdef inline Entry *entry_of(unsigned table, object address) noexcept:
    cdef uintptr_t place = <uintptr_t><PyObject *>address
    return &names[table][(place >> 4 ^ place >> 14) & (ENTRIES - 1)]


cdef object address_of(const ul_peer *name, unsigned n_bytes):
    """The address of a name as the kernel wrote it; None for none, as recvfrom returns for an unknown one."""
    cdef int family
    n_bytes = min(n_bytes, <unsigned>sizeof(ul_peer))  # the kernel reports the whole length of a name that it cut off
    if n_bytes < sizeof(unsigned short):
        return None
    family = ul_family(&name.internet)
    if family == AF_INET or family == AF_INET6:
        return internet_address(&name.internet, n_bytes)
    if family == AF_UNIX:
        return unix_address(<const char *>name, n_bytes)
    return (family, PyBytes_FromStringAndSize(<const char *>name + sizeof(unsigned short),
                                              n_bytes - sizeof(unsigned short)))


cdef object fresh_address_of(const ul_peer *name, unsigned n_bytes):
    """The same without the table."""
    if n_bytes >= sizeof(unsigned short) and ul_family(&name.internet) in (AF_INET, AF_INET6):
        return new_internet_address(&name.internet)
    return address_of(name, n_bytes)


cdef uint64_t packed_four(const ul_peer *name, unsigned n_bytes) noexcept:
    """An IPv4 name in eight bytes; 0 for another."""
    if n_bytes < FOUR_BYTES or ul_family(&name.internet) != AF_INET:
        return 0
    return ul_packed_four(&name.internet)


cdef object address_of_packed(uint64_t four):
    """The address of a packed name."""
    cdef ul_name name
    must(four != 0, "a packed name is not 0")
    ul_unpack_four(&name, four)
    return new_internet_address(&name)


cdef int real_family(int fd, int family) noexcept:
    """The family of a socket according to the kernel; `family` where that does not report it."""
    cdef int domain = 0
    cdef unsigned n_bytes = sizeof(domain)
    return domain if getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &n_bytes) == 0 else family


cdef object internet_address(const ul_name *name, unsigned n_bytes):
    """The address of an IPv4 or IPv6 name: (host, port), or (host, port, flow information, zone)."""
    cdef unsigned table = ul_own_table()
    cdef Entry *entry = &known[table][ul_name_hash(name) & (ENTRIES - 1)]
    cdef object address = None
    acquire(&locks[table])
    if entry.address != NULL and entry.n_bytes == n_bytes and memcmp(&entry.name, name, n_bytes) == 0:
        must(references_of(<void *>entry.address) > 0, "an entry keeps its tuple alive")
        address = <object>entry.address
    release(&locks[table])
    if address is not None:
        return address
    address = new_internet_address(name)
    enter(table, entry, address, name, n_bytes)
    enter(table, entry_of(table, address), address, name, n_bytes)  # an answer to it is likely
    return address


cdef object new_internet_address(const ul_name *name):
    cdef char text[64]
    host = ul_host(name, text).decode("ascii")
    if ul_family(name) == AF_INET:
        return (host, ul_port(name))
    return (host, ul_port(name), ul_flow(name), ul_scope(name))


cdef object unix_address(const char *name, unsigned n_bytes):
    """The address of an AF_UNIX name: a path as str, an abstract name as bytes."""
    if n_bytes <= PATH_BEGIN:
        return ""
    name += PATH_BEGIN
    n_bytes -= PATH_BEGIN
    if name[0] == 0:
        return PyBytes_FromStringAndSize(name, n_bytes)
    # the kernel ends a path with a NUL where there is room for one
    cdef Py_ssize_t length = 0
    while length < n_bytes and name[length]:
        length += 1
    return PyUnicode_DecodeFSDefaultAndSize(name, length)


cdef long long number(object value, long long most) except? -2:
    """An int between 0 and `most`; -1 for anything else."""
    cdef int overflow = 0
    cdef long long found
    if not PyLong_CheckExact(value):
        return -1
    found = PyLong_AsLongLongAndOverflow(value, &overflow)
    return found if not overflow and 0 <= found <= most else -1


cdef unsigned internet_name(object address, int family, ul_name *name) except? 999:
    """The name of a literal address for a socket of this family.

    Returns: its length in bytes; 0 for everything else, valid or not, which socket.sendto has to check.
    """
    cdef Entry *entry
    cdef Py_ssize_t length, n_items
    cdef const char *host
    cdef long long port
    cdef long long flow = 0
    cdef long long scope = 0
    cdef unsigned n_bytes = 0
    cdef unsigned table = ul_own_table()
    if not PyTuple_CheckExact(address):
        return 0
    entry = entry_of(table, address)
    acquire(&locks[table])
    if entry.address == <PyObject *>address and ul_family(&entry.name) == family:
        n_bytes = entry.n_bytes
        memcpy(name, &entry.name, n_bytes)
    release(&locks[table])
    if n_bytes:
        return n_bytes
    n_items = PyTuple_GET_SIZE(address)
    if n_items < 2 or n_items > (2 if family == AF_INET else 4):
        return 0
    if not PyUnicode_CheckExact(<object>PyTuple_GET_ITEM(address, 0)):
        return 0
    if not (<str>PyTuple_GET_ITEM(address, 0)).isascii():
        return 0  # lone surrogates have no UTF-8
    port = number(<object>PyTuple_GET_ITEM(address, 1), 0xFFFF)
    if n_items > 2:
        flow = number(<object>PyTuple_GET_ITEM(address, 2), 0xFFFFF)
    if n_items > 3:
        scope = number(<object>PyTuple_GET_ITEM(address, 3), 0xFFFFFFFF)
    if port < 0 or flow < 0 or scope < 0:
        return 0
    host = PyUnicode_AsUTF8AndSize(<object>PyTuple_GET_ITEM(address, 0), &length)
    memset(name, 0, sizeof(ul_name))
    if length != <Py_ssize_t>strlen(host) or not ul_set_host(name, family, host):
        return 0
    ul_set_port(name, port)
    n_bytes = FOUR_BYTES
    if family == AF_INET6:
        ul_set_six(name, flow, scope)
        n_bytes = SIX_BYTES
    enter(table, entry, address, name, n_bytes)
    return n_bytes

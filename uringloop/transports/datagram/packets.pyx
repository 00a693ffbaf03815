"""Datagrams on their way: a batch that was received but not delivered, and a queue that the kernel has not taken.

One recvmmsg(2) fills a Batch, one sendmmsg(2) takes from the front of a DatagramQueue; where they are refused, one
recvmsg(2), and a sendmsg(2) for each.

Invariant: an entry of either owns a reference to its data and its address, and is in there once.

No user code runs here.  Thread: the loop's; the memory of both system calls is shared by all loops, and used only
while the GIL is held; without a GIL each thread has its own.
"""

from libc.errno cimport ENOMEM
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF, PyObject

from ...support.assertions cimport must, must_if
from ...support.collect cimport ul_traverse_own, visitproc
from ...support.guard cimport FREE_THREADED, own_memory
from ..addresses cimport AF_INET, AF_INET6, address_of, ul_name, ul_peer

cdef extern from "<sys/socket.h>" nogil:
    """
    #include <errno.h>
    #include <stddef.h>
    #include <stdlib.h>
    #include <string.h>
    #include <sys/socket.h>
    #include <sys/uio.h>
    #include <sys/un.h>

    /*
     * Where datagrams arrive, and the headers of those that leave, shared by the loops of an interpreter: they are
     * copied out before any Python code runs (the GIL is held).
     * Each arrives in two places.  Most fit into the first; these lie close together, so that a batch of small
     * datagrams touches little memory.  A longer one continues in the second, whose pages exist only once they were
     * used.
     */
    #define UL_NEAR_BYTES 2048
    #define UL_NEAR_STRIDE (UL_NEAR_BYTES + 64)      /* not all at the same place in the cache */
    #define UL_INTERNET_BYTES (64 * 1024)            /* no UDP datagram is longer */
    #define UL_BATCH_LARGE 16

    struct ul_place {
        struct mmsghdr messages[UL_BATCH];
        struct iovec vectors[UL_BATCH][2];
        ul_peer names[UL_BATCH];
    };
    struct ul_exchange {
        struct ul_place places[2];                   /* of internet sockets, and of others */
        struct mmsghdr sending[UL_BATCH];
        struct iovec sending_vectors[UL_BATCH];
        char near[UL_BATCH * UL_NEAR_STRIDE];
        char far[(size_t)UL_BATCH * UL_INTERNET_BYTES];
    };

    /* NULL without memory. */
    static struct ul_exchange *ul_new_exchange(void)
    {
        struct ul_exchange *made = malloc(sizeof *made);

        if (made == NULL)
            return NULL;
        memset(made, 0, offsetof(struct ul_exchange, near));
        for (int kind = 0; kind < 2; kind++) {
            struct ul_place *place = &made->places[kind];
            size_t n_bytes = kind ? UL_MOST_BYTES : UL_INTERNET_BYTES;

            for (int i = 0; i < (kind ? UL_BATCH_LARGE : UL_BATCH); i++) {
                place->vectors[i][0].iov_base = made->near + (size_t)i * UL_NEAR_STRIDE;
                place->vectors[i][0].iov_len = UL_NEAR_BYTES;
                place->vectors[i][1].iov_base = made->far + (size_t)i * n_bytes;
                place->vectors[i][1].iov_len = n_bytes - UL_NEAR_BYTES;
                place->messages[i].msg_hdr.msg_name = &place->names[i];
                place->messages[i].msg_hdr.msg_namelen = sizeof place->names[i];
                place->messages[i].msg_hdr.msg_iov = place->vectors[i];
                place->messages[i].msg_hdr.msg_iovlen = 2;
            }
        }
        return made;
    }

    /*
     * A seccomp filter may refuse recvmmsg(2) and sendmmsg(2), which are newer than the calls of stock asyncio,
     * with any errno, and that errno may also be the socket's (EPERM: a firewall).  A call that is not refused fails
     * with EBADF for fd -1; tried after an error that only a refusal or a firewall causes.
     */
    static int ul_has_recvmmsg = 1, ul_has_sendmmsg = 1;

    static int ul_is_usual(int error)
    {
        return error == EAGAIN || error == EINTR || error == EBADF || error == ECONNREFUSED;
    }

    /* Returns the number of datagrams, or a negated errno. */
    static int ul_receive(struct ul_exchange *here, int fd, int kind)
    {
        struct mmsghdr *messages = here->places[kind].messages;
        int n;
        ssize_t n_bytes;

        if (ul_has_recvmmsg) {
            n = recvmmsg(fd, messages, kind ? UL_BATCH_LARGE : UL_BATCH, MSG_DONTWAIT, NULL);
            if (n >= 0)
                return n;
            n = errno;
            if (ul_is_usual(n) || recvmmsg(-1, messages, 1, MSG_DONTWAIT, NULL) >= 0 || errno == EBADF)
                return -n;
            ul_has_recvmmsg = 0;
        }
        n_bytes = recvmsg(fd, &messages[0].msg_hdr, MSG_DONTWAIT);
        if (n_bytes < 0)
            return -errno;
        messages[0].msg_len = (unsigned)n_bytes;
        return 1;
    }

    #define ul_received_bytes(here, kind, i) ((Py_ssize_t)(here)->places[kind].messages[i].msg_len)
    #define ul_received_near(here, kind, i) ((char *)(here)->places[kind].vectors[i][0].iov_base)
    #define ul_received_far(here, kind, i) ((char *)(here)->places[kind].vectors[i][1].iov_base)
    #define ul_received_name(here, kind, i) (&(here)->places[kind].names[i])
    /* The length of the name; restores the length of the room for the next batch. */
    static unsigned ul_received_name_bytes(struct ul_exchange *here, int kind, int i)
    {
        struct msghdr *header = &here->places[kind].messages[i].msg_hdr;
        unsigned n_bytes = header->msg_namelen;
        header->msg_namelen = sizeof here->places[kind].names[i];
        return n_bytes;
    }

    static void ul_fill_sending(struct ul_exchange *here, int i, void *name, unsigned name_bytes,
                                char *data, size_t n_bytes)
    {
        here->sending_vectors[i].iov_base = data;
        here->sending_vectors[i].iov_len = n_bytes;
        here->sending[i].msg_hdr.msg_name = name;
        here->sending[i].msg_hdr.msg_namelen = name_bytes;
        here->sending[i].msg_hdr.msg_iov = &here->sending_vectors[i];
        here->sending[i].msg_hdr.msg_iovlen = 1;
    }
    static int ul_send_filled(struct ul_exchange *here, int fd, int count)
    {
        int n;

        if (ul_has_sendmmsg) {
            n = sendmmsg(fd, here->sending, (unsigned)count, MSG_DONTWAIT | MSG_NOSIGNAL);
            if (n >= 0)
                return n;
            n = errno;
            if (ul_is_usual(n) || sendmmsg(-1, here->sending, 1, MSG_DONTWAIT) >= 0 || errno == EBADF)
                return -n;
            ul_has_sendmmsg = 0;
        }
        for (n = 0; n < count; n++)
            if (sendmsg(fd, &here->sending[n].msg_hdr, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
                return n ? n : -errno;               /* as sendmmsg(2): the next call returns the error */
        return n;
    }
    /* Returns 1, or a negated errno. */
    static int ul_send_one(int fd, const char *data, size_t n_bytes)
    {
        return send(fd, data, n_bytes, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 1;
    }
    """
    struct ul_exchange:
        pass
    ul_exchange *ul_new_exchange() noexcept
    int ul_receive(ul_exchange *, int fd, int kind)
    Py_ssize_t ul_received_bytes(ul_exchange *, int kind, int i)
    char *ul_received_near(ul_exchange *, int kind, int i)
    char *ul_received_far(ul_exchange *, int kind, int i)
    ul_peer *ul_received_name(ul_exchange *, int kind, int i)
    unsigned ul_received_name_bytes(ul_exchange *, int kind, int i)
    void ul_fill_sending(ul_exchange *, int i, void *name, unsigned name_bytes, char *data, size_t n_bytes)
    int ul_send_filled(ul_exchange *, int fd, int count)
    int ul_send_one(int fd, const char *data, size_t n_bytes)
    enum:
        NEAR_BYTES "UL_NEAR_BYTES"

cdef enum:
    INTERNET = 0  # kinds of places
    OTHER = 1

cdef ul_exchange *shared_exchange = NULL  # made with the first transport


cdef void *new_exchange() noexcept nogil:
    return ul_new_exchange()


cdef ul_exchange *exchange() noexcept:
    """That of all loops, or without a GIL of this thread; NULL without memory."""
    global shared_exchange
    if FREE_THREADED:
        return <ul_exchange *>own_memory(new_exchange)
    if shared_exchange == NULL:
        shared_exchange = ul_new_exchange()
    return shared_exchange


cdef int need_exchange() except -1:
    if exchange() == NULL:
        raise MemoryError()
    return 0


cdef class Batch:
    """Received datagrams, oldest first: items[next:count]."""

    def __cinit__(self):
        need_exchange()
        self.items = <Incoming *>malloc(BATCH * sizeof(Incoming))
        if self.items == NULL:
            raise MemoryError()

    def __dealloc__(self):
        if self.items != NULL:
            self.clear()
            free(self.items)

    cdef int receive(self, int fd, int family) except -1:
        """Fill the empty batch with one call; for AF_INET, AF_INET6 and AF_UNIX.

        Returns: 0, or an errno when nothing was received.
        """
        cdef int kind = INTERNET if family == AF_INET or family == AF_INET6 else OTHER
        cdef int i
        cdef Py_ssize_t n_bytes
        cdef unsigned name_bytes
        cdef object data, address
        must(self.next == self.count, "a batch is filled when all of the last one was delivered")
        cdef ul_exchange *here = exchange()
        cdef int count = ul_receive(here, fd, kind) if here != NULL else -ENOMEM
        for i in range(count):
            n_bytes = ul_received_bytes(here, kind, i)
            name_bytes = ul_received_name_bytes(here, kind, i)
            if n_bytes <= NEAR_BYTES:
                data = PyBytes_FromStringAndSize(ul_received_near(here, kind, i), n_bytes)
            else:
                data = PyBytes_FromStringAndSize(NULL, n_bytes)
                memcpy(PyBytes_AS_STRING(data), ul_received_near(here, kind, i), NEAR_BYTES)
                memcpy(PyBytes_AS_STRING(data) + NEAR_BYTES, ul_received_far(here, kind, i), n_bytes - NEAR_BYTES)
            address = address_of(ul_received_name(here, kind, i), name_bytes)
            self.keep(data, address)
        return -count if count < 0 else 0

    cdef int keep(self, object data, object address) except -1:
        must(self.count < <size_t>BATCH, "a batch has room for what one call brings")
        Py_INCREF(data)  # undone by what takes it out, or by clear(), and the other
        Py_INCREF(address)
        self.items[self.count].data = <PyObject *>data
        self.items[self.count].address = <PyObject *>address
        self.count += 1
        return 0

    cdef int clear(self) noexcept:
        cdef size_t i
        for i in range(self.next, self.count):
            Py_DECREF(<object>self.items[i].data)  # taken by keep(), and the other
            Py_DECREF(<object>self.items[i].address)
        self.next = self.count = 0
        return 0


cdef class DatagramQueue:
    """Datagrams to send, oldest first: items[first:end].

    Parameters:
        header_bytes: what each counts in n_bytes besides its data.
    """

    def __cinit__(self, Py_ssize_t header_bytes):
        need_exchange()
        self.header_bytes = header_bytes

    def __dealloc__(self):
        self.drop(self.end - self.first)
        free(self.items)

    cdef size_t count(self) noexcept:
        return self.end - self.first

    cdef int push(self, bytes data, object address, const ul_name *name, unsigned name_bytes) except -1:
        """Append one: to `name`, if name_bytes is not 0; else to `address`, which is not ours to read."""
        cdef Outgoing *item
        cdef Outgoing *grown
        if self.end == self.capacity:
            grown = <Outgoing *>realloc(self.items, (2 * self.end + 8) * sizeof(Outgoing))
            if grown == NULL:
                raise MemoryError()
            self.items = grown
            self.capacity = 2 * self.end + 8
        must(self.end < self.capacity, "a datagram that is queued has its place")
        item = &self.items[self.end]
        item.name_bytes = name_bytes
        item.address = NULL
        if name_bytes:
            memcpy(&item.name, name, sizeof(ul_name))
        else:
            Py_INCREF(address)  # undone by drop()
            item.address = <PyObject *>address
        Py_INCREF(data)  # undone by drop()
        item.data = <PyObject *>data
        self.end += 1
        self.n_bytes += PyBytes_GET_SIZE(data) + self.header_bytes
        return 0

    cdef int drop(self, size_t count) noexcept:
        """Remove the oldest `count`, which were sent or are given up."""
        cdef size_t i
        cdef PyObject *data
        cdef PyObject *address
        while count and self.first != self.end:
            count -= 1
            # read before anything is released: an address may run user code, which may push and move the items
            data = self.items[self.first].data
            address = self.items[self.first].address
            self.first += 1
            self.n_bytes -= PyBytes_GET_SIZE(<object>data) + self.header_bytes
            Py_DECREF(<object>data)  # taken by push(), and the other
            Py_XDECREF(address)
        must(self.n_bytes >= 0, "no less than nothing is queued")
        must_if(self.first == self.end, self.n_bytes == 0, "an empty queue has no bytes")
        if self.first == self.end:
            self.first = self.end = 0
        elif self.first > 256:
            self.end -= self.first
            for i in range(self.end):
                self.items[i] = self.items[i + self.first]
            self.first = 0
        return 0

    cdef int send_named(self, int fd) noexcept:
        """Send those at the front that have names, as the first does; returns how many, or a negated errno."""
        cdef int count = 0
        cdef ul_exchange *here = exchange()
        cdef Outgoing *item = &self.items[self.first]
        cdef Outgoing *end = &self.items[self.end]
        must(self.first < self.end, "what is sent is queued")
        if here == NULL:
            return -ENOMEM  # another thread than the one that made the queue, and no memory for it
        while item < end and item.name_bytes and count < BATCH:
            ul_fill_sending(here, count, &item.name, item.name_bytes, PyBytes_AS_STRING(<object>item.data),
                            PyBytes_GET_SIZE(<object>item.data))
            count += 1
            item += 1
        return ul_send_filled(here, fd, count)


cdef int send_to_peer(int fd, object data) noexcept:
    """send(2) of bytes on a connected socket: 1, or a negated errno."""
    return ul_send_one(fd, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))


# -- garbage collection: see support/collect.h ---------------------------------------------------------------
#
# Addresses that are not ours to read may be any objects of the program; a Batch holds only what we made.

cdef extern from *:
    """
    UL_COLLECTED(DatagramQueue)
    """
    void ul_collect_DatagramQueue(object, ul_traverse_own)


cdef int traverse_own(PyObject *self, visitproc visit, void *arg) noexcept:
    cdef size_t at
    cdef int stop
    for at in range((<DatagramQueue>self).first, (<DatagramQueue>self).end):
        if (<DatagramQueue>self).items[at].address != NULL:
            stop = visit((<DatagramQueue>self).items[at].address, arg)
            if stop:
                return stop
    return 0


ul_collect_DatagramQueue(DatagramQueue, traverse_own)

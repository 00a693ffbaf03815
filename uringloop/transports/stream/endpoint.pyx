"""The socket under a stream transport, and accepting new ones without a Python object for each.

A connection that was accepted is a bare fd with the name of its peer.  Its socket.socket, its own name and the
TransportSocket of get_extra_info() are made on demand: most servers never need them, and making and closing them
took a quarter of the time of a short connection.  So is the address of an IPv4 peer, with the dict of
get_extra_info(): as objects they take 350 bytes.

Ownership: a Connection owns the kernel's new fd from the start, whatever fails then; the endpoint that takes it owns
the fd until `sock` is made, then the socket object does.  An endpoint that is deleted without having been closed
closes its fd through a socket object, which warns as any unclosed socket does.
Thread: the loop's.
"""

cimport cython
from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, errno
from posix.unistd cimport close as posix_close

from ...support.assertions cimport must
from ...support.errors cimport os_error
from ..addresses cimport (AF_INET, AF_INET6, AF_UNIX, address_of, address_of_packed, fresh_address_of, packed_four,
                          real_family, ul_peer)
from ..base cimport number_in
from .wire cimport WireEnd

import _socket
import socket

from ..trsock import TransportSocket

from .. import plain as _plain
from .. import stock as _stock

cdef extern from *:
    """
    #include <errno.h>
    #include <fcntl.h>
    #include <netinet/tcp.h>
    #include <unistd.h>
    static int ul_accept(int fd, ul_peer *peer, unsigned *n_bytes)
    {
        static int has_accept4 = 1;                  /* of the process: a seccomp filter stays */
        socklen_t length = sizeof *peer;
        int accepted, error;

        if (has_accept4) {
            accepted = accept4(fd, (struct sockaddr *)peer, &length, SOCK_CLOEXEC | SOCK_NONBLOCK);
            if (accepted >= 0 || errno == EAGAIN || errno == EMFILE || errno == ENFILE)
                goto out;
            /* Refused, with any errno?  Then fd -1 does not give EBADF; EPERM may be a firewall's. */
            error = errno;
            if (accept4(-1, NULL, NULL, SOCK_CLOEXEC) < 0 && errno != EBADF)
                has_accept4 = 0;
            else {
                errno = error;
                goto out;
            }
        }
        length = sizeof *peer;
        accepted = accept(fd, (struct sockaddr *)peer, &length);
        if (accepted >= 0 && (fcntl(accepted, F_SETFD, FD_CLOEXEC) < 0 || fcntl(accepted, F_SETFL, O_NONBLOCK) < 0)) {
            error = errno;
            close(accepted);
            errno = error;
            accepted = -1;
        }
    out:
        *n_bytes = length;
        return accepted;
    }
    static int ul_name_of(int fd, int of_peer, ul_peer *name, unsigned *n_bytes)
    {
        socklen_t length = sizeof *name;
        int result = of_peer ? getpeername(fd, (struct sockaddr *)name, &length)
                             : getsockname(fd, (struct sockaddr *)name, &length);
        *n_bytes = length;
        return result;
    }
    static int ul_no_delay(int fd)
    {
        int one = 1;
        return setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    }
    """
    int ul_accept(int fd, ul_peer *peer, unsigned *n_bytes)
    int ul_name_of(int fd, bint of_peer, ul_peer *name, unsigned *n_bytes)
    int ul_no_delay(int fd)
    int IPPROTO_TCP, IPPROTO_SCTP, SOCK_NONBLOCK, SOCK_SEQPACKET

# C variables: module globals may be gone when the interpreter ends
cdef object make_socket = _plain.ORIGINAL or socket.socket
cdef object closed_socket = make_socket.__new__
cdef object transport_socket = TransportSocket
# what a test may have patched
cdef object stock_class = _stock.Stream
cdef object stock_extra_info = stock_class.get_extra_info


cdef class Kind:
    """What the connections of one listener have in common.

    Parameters:
        listener: a listening socket.socket.
    """

    def __cinit__(self, listener):
        cdef int fd = listener.fileno()
        cdef int real
        self.family = _socket.socket.family.__get__(listener)
        self.type = _socket.socket.type.__get__(listener) | SOCK_NONBLOCK
        self.proto = listener.proto
        # `family` is the one given to the Python listener, and so to its connections, as in asyncio; names use this one
        real = real_family(fd, self.family)
        self.is_known = real in (AF_INET, AF_INET6, AF_UNIX)
        if real == AF_UNIX:
            self.sockname = name_of(fd, self, False)  # others may differ: wildcards, transparent proxies, BPF


@cython.freelist(64)
@cython.no_gc
cdef class Connection:
    """An accepted connection on its way to its owner; closed with the last reference if no owner takes it."""

    def __cinit__(self):
        self.fd = -1

    def __dealloc__(self):
        if self.fd >= 0:
            posix_close(self.fd)

    def peer(self):
        """The address of the peer, read from the socket if it is not known yet; None if it is gone."""
        if self.peer_four:
            return address_of_packed(self.peer_four)
        return name_of(self.fd, self.kind, True) if self.peername is None else self.peername

    def name(self):
        """Its own address; None if it is gone."""
        return name_of(self.fd, self.kind, False) if self.kind.sockname is None else self.kind.sockname

    def socket(self):
        """A socket.socket, which owns the fd from now on."""
        sock = make_socket(self.kind.family, self.kind.type, self.kind.proto, self.fd)
        self.fd = -1
        return sock

    def close(self):
        """Close it, unless it was taken."""
        cdef int fd = self.fd
        self.fd = -1
        if fd >= 0:
            posix_close(fd)


cdef Connection connection_of(int fd, Kind kind):
    """A Connection for an fd that the kernel has just made; if that fails the fd is closed."""
    cdef Connection connection
    cdef ul_peer peer
    cdef unsigned n_bytes = 0
    must(fd >= 0, "a connection has an fd")
    try:
        connection = Connection.__new__(Connection)
    except BaseException:
        posix_close(fd)
        raise
    connection.fd = fd
    connection.kind = kind
    if not kind.is_known:
        connection.peername = name_of(fd, kind, True)
    elif ul_name_of(fd, True, &peer, &n_bytes) == 0:
        keep_peer(connection, &peer, n_bytes)
    return connection


cdef int keep_peer(Connection connection, const ul_peer *peer, unsigned n_bytes) except -1:
    connection.peer_four = packed_four(peer, n_bytes)
    if not connection.peer_four:
        connection.peername = fresh_address_of(peer, n_bytes)
    return 0


cpdef Connection accept(int fd, Kind kind):
    """accept(2) on a non-blocking listener: a Connection, or None if there is none at the moment.

    Raises: OSError.
    """
    cdef ul_peer peer
    cdef unsigned n_bytes = 0
    cdef Connection connection = Connection.__new__(Connection)  # first: it may not be made when there is no memory
    connection.fd = ul_accept(fd, &peer, &n_bytes)
    if connection.fd < 0:
        if errno in (EAGAIN, EINTR, ECONNABORTED):
            return None  # without an exception, which takes longer than the call
        raise os_error(errno)
    connection.kind = kind
    if kind.is_known:
        keep_peer(connection, &peer, n_bytes)
    return connection


cdef object name_of(int fd, Kind kind, bint of_peer):
    """An address, or None where the kernel no longer has it (the connection was reset)."""
    cdef ul_peer name
    cdef unsigned n_bytes = 0
    if not kind.is_known:
        sock = make_socket(kind.family, kind.type, kind.proto, fd)
        try:
            return sock.getpeername() if of_peer else sock.getsockname()
        except OSError:
            return None
        finally:
            sock.detach()
    if ul_name_of(fd, of_peer, &name, &n_bytes) < 0:
        return None
    return fresh_address_of(&name, n_bytes) if of_peer else address_of(&name, n_bytes)


cdef bint keeps_records(int proto, int type) noexcept:
    """Whether each send is one record for the peer: two writes must not be joined, nor one be split."""
    return type == SOCK_SEQPACKET or proto == IPPROTO_SCTP


cdef class Endpoint(WireEnd):
    """The owner of the fd of a connection.  See StreamTransport."""

    def __cinit__(self, *args, **kwargs):
        self.number = -1

    def _take_socket(self, sock, extra, bint is_shared=False):
        """Own a connected, non-blocking socket.

        Parameters:
            sock: the Python socket.
            extra: what get_extra_info() also returns, a dict or None.
            is_shared: the program made the socket, and may still use it.
        """
        self.fd = self.number = sock.fileno()
        self.sock = sock
        self.fd_at = number_in(sock, self.fd)
        try:
            kind = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_TYPE)
        except OSError:  # refused by a sandbox, or a mock: use the object's attributes
            kind = sock.type
        self.keeps_records = keeps_records(sock.proto, kind)
        self.is_shared = is_shared or self.keeps_records
        if self.fd_at == NULL:
            self.fd_at = &self.fd
        self.extra = {} if extra is None else extra
        if sock.proto == IPPROTO_TCP:  # as asyncio: only where it was requested by name
            sock.setsockopt(IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        self.complete_extra()

    cdef int take_connection(self, Connection connection) except -1:
        """Own an accepted connection."""
        cdef Kind kind = connection.kind
        must(connection.fd >= 0, "a connection is taken once")
        must(self.fd < 0, "a transport owns one socket")
        self.peer_four = connection.peer_four
        if not self.peer_four:
            self.extra = {"peername": connection.peername}
            if kind.sockname is not None:
                self.extra["sockname"] = kind.sockname
        if kind.proto == IPPROTO_TCP:
            ul_no_delay(connection.fd)  # may fail, for a connection that is reset already
        self.kind = kind
        self.is_shared = self.keeps_records = keeps_records(kind.proto, kind.type & ~SOCK_NONBLOCK)
        self.fd = self.number = connection.fd
        connection.fd = -1
        return 0

    cdef object python_socket(self):
        """The Python socket, made now if there was none; None when closed."""
        if self.sock is None and self.fd >= 0:
            self.sock = make_socket(self.kind.family, self.kind.type, self.kind.proto, self.fd)
            self.fd_at = number_in(self.sock, self.fd)
            if self.fd_at == NULL:
                self.fd_at = &self.fd
        return self.sock

    cdef int share(self) except -1:
        """The program gets the socket, or its number: what it does with that must follow all earlier writes."""
        self.is_shared = True
        return 0

    def _share(self):
        self.share()

    cdef int complete_extra(self) except -1:
        """Everything that get_extra_info() can return."""
        self.unpack_peername()
        sock = self.python_socket()
        if "socket" not in self.extra:
            # after the end: a closed one, as it would be by then
            self.extra["socket"] = transport_socket(closed_socket(make_socket) if sock is None else sock, self)
        for key in ("sockname", "peername"):
            if key not in self.extra:
                if self.kind is not None and self.fd >= 0:
                    self.extra[key] = name_of(self.fd, self.kind, key == "peername")
                    continue
                try:
                    self.extra[key] = sock.getsockname() if key == "sockname" else sock.getpeername()
                except OSError:
                    self.extra[key] = None
        return 0

    cdef int unpack_peername(self) except -1:
        """Make the dict, if there is none, with an address that is packed."""
        if self.extra is None:
            self.extra = {}
        if self.peer_four:
            self.extra["peername"] = address_of_packed(self.peer_four)
            self.peer_four = 0
        return 0

    cdef int close_fd(self) except -1:
        """Close the socket; its names stay known.  The wire is detached.

        Not so in __del__, where another finalizer of the same garbage may still write: the wire forgets the number,
        else that data would be sent to the next socket with this number.
        """
        cdef int fd = self.fd
        if self.wire is not None:
            self.wire.fd = -1
        self.leave_table()
        self.fd = -1
        self.fd_at = &self.fd
        sock, self.sock = self.sock, None
        if sock is not None:
            sock.close()
        elif fd >= 0:
            try:
                if self.extra is None:
                    self.extra = {}
                if "sockname" not in self.extra:
                    self.extra["sockname"] = name_of(fd, self.kind, False)
            finally:
                posix_close(fd)
        return 0

    def _close_socket(self):
        """Give up before the connection is reported."""
        self.close_fd()

    def get_extra_info(self, name, default=None):
        """See asyncio.BaseTransport."""
        if stock_class.get_extra_info is not stock_extra_info:
            return _stock.bound(stock_class, "get_extra_info", self)(name, default)
        if self.extra is not None and name in self.extra:
            return self.extra[name]
        # asyncio.streams looks for "sslcontext" in each new connection: nothing is made for that
        if name == "peername" and self.peer_four:
            self.unpack_peername()
        elif name in ("sockname", "peername") and self.kind is not None and self.fd >= 0:
            if self.extra is None:
                self.extra = {}
            self.extra[name] = name_of(self.fd, self.kind, name == "peername")
        elif name in ("socket", "sockname", "peername"):
            self.complete_extra()
        else:
            return default
        return self.extra[name]

    # -- what asyncio's own modules access ---------------------------------------------------------------

    @property
    def _keeps_records(self):
        return self.keeps_records

    def _own_sock(self):
        """The Python socket for the loop's own use, which keeps the order by itself."""
        return self.python_socket()

    @property
    def _sock(self):
        self.share()
        return self.python_socket()

    @property
    def _sock_fd(self):
        self.share()
        return self.number

    @property
    def _extra(self):
        self.complete_extra()
        return self.extra

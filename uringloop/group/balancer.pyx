"""The balancer of a LoopGroup as objects: one for the group, and a Seat for each member, in the member's interpreter.

How it works: see balancer.h.  A member's loop finds its Seat when a server begins to listen (eventloop/serve.py); if
the socket is one of the group's, the Seat serves it in the place of the loop's own accepting.

Ownership: each Balancer and each Seat holds a reference to the C structure, whose address crosses interpreters.
Thread: a Balancer is for any thread of the interpreter that made it; a Seat for its loop's.
"""

from libc.errno cimport errno
from libc.stdint cimport uintptr_t

from ..fdmon.base cimport identity
from ..support.errors cimport os_error
from ..transports.stream.endpoint cimport Kind, connection_of

from asyncio import trsock

from ..eventloop.base.incoming import accepted
from .server import CountedOnce, CountedServer, count_clients

cdef extern from "../group/balancer.h" nogil:
    ctypedef struct ul_given:
        int fd
        int listener
    ctypedef struct ul_queue "ul_givens":
        unsigned count
    ctypedef struct ul_seat:
        int wake_fd
        unsigned n_open
        unsigned long long n_given, n_taken_back
        int is_stalled
        ul_queue queue
    ctypedef struct ul_balancer:
        int n_seats, n_listeners
        ul_seat *seats
    ul_balancer *ul_balancer_new(int n_seats)
    void ul_balancer_hold(ul_balancer *)
    void ul_balancer_drop(ul_balancer *)
    bint ul_balancer_is_ours(ul_balancer *)
    int ul_balancer_start(ul_balancer *)
    void ul_balancer_stop(ul_balancer *)
    void ul_balancer_close(ul_balancer *)
    int ul_balancer_listen(ul_balancer *, int fd)
    void ul_balancer_unlisten(ul_balancer *, int listener)
    void ul_balancer_serve(ul_balancer *, int listener, int member, unsigned generation, bint serves)
    int ul_balancer_take(ul_balancer *, int member, unsigned generation, ul_given *into, int room)
    void ul_balancer_return(ul_balancer *, int member, unsigned generation, ul_given one)
    void ul_balancer_ended(ul_balancer *, int member, unsigned generation)
    unsigned ul_balancer_vacate(ul_balancer *, int member)
    ul_seat ul_balancer_look_at(ul_balancer *, int member)
    void ul_balancer_look(ul_balancer *, unsigned *n_unclaimed, unsigned long long *n_accepted,
                          unsigned long long *n_errors, int *last_error)

cdef enum:
    AT_ONCE = 256  # connections that are taken in one turn


cdef class Balancer:
    """Accepts for a group.

    Parameters:
        n_members: how many can serve.

    Raises: OSError: there are no descriptors left, or no memory.
    """

    cdef ul_balancer *its

    def __cinit__(self, int n_members):
        self.its = ul_balancer_new(n_members)
        if self.its == NULL:
            raise os_error(errno, "eventfd")

    def __dealloc__(self):
        if self.its != NULL:
            self.stop()
            ul_balancer_drop(self.its)

    def start(self):
        """Start its thread.  Raises: OSError."""
        error = ul_balancer_start(self.its)
        if error:
            raise os_error(error, "pthread_create")

    cpdef stop(self):
        """Accept nothing more, and wait for its thread to end."""
        # the GIL is kept: the thread needs none, and ends at once
        if ul_balancer_is_ours(self.its):
            ul_balancer_stop(self.its)

    def close(self):
        """Close what is left, once all members have ended."""
        self.stop()
        if ul_balancer_is_ours(self.its):
            ul_balancer_close(self.its)

    @property
    def address(self):
        """For Seat(), in whichever interpreter of this process; valid as long as this object is."""
        return <uintptr_t>self.its

    def listen(self, int fd):
        """Accept on a listening socket, once a member serves it.

        Parameters: fd: it is duplicated.
        Returns: the number that this listener has in this group.
        Raises: OSError: no descriptor or memory is left, or the group has had 256 listeners (EMFILE).
        """
        result = ul_balancer_listen(self.its, fd)
        if result < 0:
            raise os_error(-result, "dup")
        return result

    def unlisten(self, int listener):
        """Accept nothing more on it; connections that no member has taken yet are closed."""
        self.check(listener, self.its.n_listeners)
        if ul_balancer_is_ours(self.its):
            ul_balancer_unlisten(self.its, listener)

    def vacate(self, int member):
        """The member has ended, with all its connections; what it has not taken goes to the others.

        Returns: the number of the next one in its place, which its Seat must have.
        """
        self.check(member, self.its.n_seats)
        return ul_balancer_vacate(self.its, member)

    def member_numbers(self, int member):
        """(connections open, given so far, that wait for it, taken back, whether it has stalled)"""
        cdef ul_seat seat
        self.check(member, self.its.n_seats)
        seat = ul_balancer_look_at(self.its, member)
        return seat.n_open, seat.n_given, seat.queue.count, seat.n_taken_back, bool(seat.is_stalled)

    def numbers(self):
        """(connections accepted, that no member serves, failed accept(2) calls, the errno of the last of those)"""
        cdef unsigned n_unclaimed
        cdef unsigned long long n_accepted, n_errors
        cdef int last_error
        ul_balancer_look(self.its, &n_unclaimed, &n_accepted, &n_errors, &last_error)
        return n_accepted, n_unclaimed, n_errors, last_error

    cdef int check(self, int number, int end) except -1:
        if not 0 <= number < end:
            raise IndexError(number)
        return 0


cdef class Seat:
    """A member's place at a balancer.

    Parameters:
        address: of the Balancer, which lives as long as the member.
        member: the member's number.
        generation: of the place, from Balancer.vacate(), or 0.
        loop: the member's.
        listeners: (number of the listener, fd of a duplicate of its socket) of each.
    """

    cdef ul_balancer *its
    cdef int member
    cdef unsigned generation
    cdef object loop
    cdef dict numbers                  # identity of a socket's file -> number of the listener
    cdef dict served                   # number of the listener -> (Kind, Listening)
    cdef public object on_ended        # called with each connection that ends, or None

    def __cinit__(self, uintptr_t address, int member, unsigned generation, loop):
        self.its = <ul_balancer *>address
        ul_balancer_hold(self.its)
        self.member = member
        self.generation = generation
        self.loop = loop
        self.numbers = {}
        self.served = {}

    def __dealloc__(self):
        if self.its != NULL:
            ul_balancer_drop(self.its)

    def know(self, sock, int listener):
        """A listening socket of the group, of which other objects may be duplicates."""
        self.numbers[identity(sock.fileno())] = listener

    def begin(self):
        """Connections are taken from now on; the loop has to be ready to run."""
        self.loop._add_reader(self.its.seats[self.member].wake_fd, self.take)

    def end(self):
        """Take no more; those that wait go to other members."""
        if self.its.seats[self.member].wake_fd >= 0:  # else the balancer is closed
            self.loop._remove_reader(self.its.seats[self.member].wake_fd)
        for listener in list(self.served):
            self.leave(listener)

    # -- for the loop ----------------------------------------------------------------------------------

    def serve(self, sock, listening):
        """A server of the loop begins to listen.  Returns: whether this is a socket of the group."""
        listener = self.numbers.get(identity(sock.fileno()))
        if listener is None:
            return False
        if listener in self.served:
            raise OSError(f"two servers of one member listen on {sock!r}")
        count_clients(listening.server, self.ended)
        self.served[listener] = Kind(sock), listening
        ul_balancer_serve(self.its, listener, self.member, self.generation, True)
        return True

    def before_handshake(self, server):
        """What stands for a server until a TLS connection has its transport."""
        return CountedOnce(server) if isinstance(server, CountedServer) else server

    def stop_serving(self, sock):
        """A server of the loop is closed, and its socket is still open."""
        for listener, (_, listening) in list(self.served.items()):
            if listening.sock is sock:
                self.leave(listener)

    cdef int leave(self, int listener) except -1:
        del self.served[listener]
        if ul_balancer_is_ours(self.its):
            ul_balancer_serve(self.its, listener, self.member, self.generation, False)
        return 0

    def ended(self):
        """A connection has ended."""
        if ul_balancer_is_ours(self.its):
            ul_balancer_ended(self.its, self.member, self.generation)
        if self.on_ended is not None:
            self.on_ended()

    def n_open(self):
        """The connections that were given to this member and have not ended."""
        return ul_balancer_look_at(self.its, self.member).n_open

    def take(self):
        """Serve the connections that wait for this member."""
        cdef ul_given taken[AT_ONCE]
        cdef int i = 0, n
        if not ul_balancer_is_ours(self.its):
            return
        n = ul_balancer_take(self.its, self.member, self.generation, taken, AT_ONCE)
        try:
            while i < n:
                i += 1
                self.take_one(taken[i - 1])
        finally:
            while i < n:  # SystemExit
                ul_balancer_return(self.its, self.member, self.generation, taken[i])
                i += 1

    cdef int take_one(self, ul_given one) except -1:
        cdef object found = self.served.get(one.listener)
        if found is None:
            ul_balancer_return(self.its, self.member, self.generation, one)
            return 0
        kind, listening = found
        server = listening.server
        n_before = server._n_attached
        is_taken = False
        try:
            connection = connection_of(one.fd, kind)  # which owns it, or has closed it
            accepted(self.loop, connection, None, listening)
            is_taken = True
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # MemoryError: this connection is lost
            self.loop.call_exception_handler({
                "message": "Exception in accepting a connection",
                "exception": error,
                "socket": trsock.TransportSocket(listening.sock),
            })
        finally:
            if not is_taken and server._n_attached == n_before:  # else it was detached
                self.ended()
        return 0

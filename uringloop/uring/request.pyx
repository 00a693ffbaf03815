"""Requests: one io_uring operation of ours from hold to the final completion.

The one rule about memory: while a request is in flight the kernel may touch whatever its SQE points to, so the
request is kept alive by `hold` and keeps everything else alive in `keepalive`; `release` ends both.

 1. The owner takes an SQE, fills it, sets `keepalive`, and calls `hold` last.  `hold` writes user_data, takes a
    reference and counts.
 2. Each CQE finds its request by user_data, never by fd: fd numbers are reused, addresses of held
    requests are not.
 3. On the final CQE (no IORING_CQE_F_MORE) the monitor calls `release`, once.

Invariant: state is IN_FLIGHT or CANCELLING exactly between hold and release.

Request and its subclasses are never cleared by the garbage collector (no_gc_clear): the kernel may still touch what
they keep; a loop that is left open is closed by its finalizer first.

Thread: the ring's owner.
"""

cimport cython
from libc.stdint cimport int32_t, uint32_t, uint64_t, uintptr_t
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject

from ..liburing.liburing cimport IORING_CQE_F_NOTIF, io_uring_sqe
from ..liburing.numbers cimport OP_PROVIDE_BUFFERS, OP_SENDMSG_ZC, OP_SEND_ZC

from ..support.assertions cimport is_none, length_of_list, must, must_if, must_not, references_of
from ..support.collect cimport ul_traverse_own, visitproc


cdef class InFlight:
    """The requests of one ring that the kernel holds."""

    cdef list snapshot(self):
        """All of them, newest first, as owned references."""
        cdef PyObject *at = self.head
        found = []
        while at != NULL:
            found.append(<Request>at)
            at = (<Request>at).after
        must(length_of_list(<void *>found) == self.count, "the count of requests is that of the list")
        return found

    cdef int release_all(self) except -1:
        while self.head != NULL:
            release(<Request>self.head)
        must(self.count == 0, "no request is in flight when all are released")
        return 0


@cython.no_gc_clear
cdef class Request:
    """One operation; subclasses say what its completions mean."""

    cdef int complete(self, int32_t res, uint32_t flags, char *data) except -1:
        """A completion is delivered (KIND_COMPLETION); may run user code.

        Parameters:
            res: cqe->res, a count or a negated errno.
            flags: cqe->flags; without IORING_CQE_F_MORE this was the last one and the state is DONE.
            data: the provided buffer's bytes, NULL without IORING_CQE_F_BUFFER; an override
                returns the buffer.
        """
        raise NotImplementedError

    cdef object subject(self):
        """The object that a report of a slow `complete` names; None: it cannot be slow."""
        return None

    cdef int reported(self, int32_t res, bint has_more) except -1:
        """A CQE of a KIND_INTERNAL was harvested, or it left its ring (-ECANCELED).  Runs no user code.

        Parameters: has_more: it is still in flight.
        """
        raise NotImplementedError

    cdef void settle(self, int32_t res) noexcept:
        """A KIND_SKIP_SEND is over: ALL_SENT, a short count, or a negated errno.  Runs no user code."""

    cdef void drop(self, int32_t res, uint32_t flags) noexcept:
        """A harvested completion that will never be delivered: close an fd in it.  Runs no user code."""

    def __dealloc__(self):
        # Invariant: hold keeps a reference, so a request in flight cannot get here.
        must(is_none(<void *>self.owner), "a request in flight is not freed")


cdef inline bint is_with_kernel(Request request) noexcept:
    return request.state == IN_FLIGHT or request.state == CANCELLING


cdef uint64_t encode(Request request) noexcept:
    """user_data of a request: its address.  0 means "not waited for"; objects are never at 0."""
    return <uint64_t><uintptr_t><PyObject *>request


cdef Request decode(uint64_t user_data):
    """The request of a CQE; user_data is not 0.  Valid because hold's reference still exists."""
    must_not(user_data == 0, "a request is at an address")
    must(references_of(<void *><uintptr_t>user_data) > 0, "the request of a CQE is alive: hold has a reference")
    return <Request><PyObject *><uintptr_t>user_data


cdef int hold(Request request, InFlight owner, io_uring_sqe *sqe) except -1:
    """Mark the request as in flight; the counterpart of `release`.

    Call it last, when the SQE is filled and `keepalive` is set: nothing between here and the submission
    may fail, or the request would wait for a completion that never comes.
    """
    if request.owner is not None:
        raise RuntimeError("uringloop bug: a request was submitted while in flight")
    must_not(is_with_kernel(request), "a request is idle or done before it is held")
    Py_INCREF(request)  # undone by release()
    sqe.user_data = encode(request)
    request.state = IN_FLIGHT
    link(request, owner)
    must(is_with_kernel(request), "a request is in flight from hold on")
    return 0


cdef void link(Request request, InFlight owner) noexcept:
    """Insert it first on the owner's list."""
    must(is_none(<void *>request.owner), "a request is on one list at most")
    must(request.before == NULL, "a request that is on no list has none before it")
    must(request.after == NULL, "a request that is on no list has none behind it")
    must_if(owner.head != NULL, (<Request>owner.head).before == NULL, "the newest request is the first on the list")
    must((owner.head == NULL) == (owner.count == 0), "a list without requests counts none")
    request.owner = owner
    request.before = NULL
    request.after = owner.head
    if owner.head != NULL:
        (<Request>owner.head).before = <PyObject *>request
    owner.head = <PyObject *>request
    owner.count += 1


cdef void unlink(Request request) noexcept:
    """Remove it from its owner's list."""
    cdef InFlight owner = request.owner
    must(owner.count > 0, "the list that a request leaves counts it")
    must_if(request.before == NULL, owner.head == <PyObject *>request, "the first request is the list's head")
    must_if(request.before != NULL, (<Request>request.before).after == <PyObject *>request, "neighbours agree")
    must_if(request.after != NULL, (<Request>request.after).before == <PyObject *>request, "neighbours agree")
    if request.before != NULL:
        (<Request>request.before).after = request.after
    else:
        owner.head = request.after
    if request.after != NULL:
        (<Request>request.after).before = request.before
    request.before = request.after = NULL
    request.owner = None
    owner.count -= 1
    must((owner.head == NULL) == (owner.count == 0), "a list without requests counts none")


cdef int release(Request request) except -1:
    """The kernel is done with the request; the counterpart of `hold`.

    The caller has its own reference, since this drops the one that hold took.
    """
    if request.owner is None:
        raise RuntimeError("uringloop bug: a request that was not in flight completed")
    must_not(request.state == IDLE, "a request that is released was held")
    must(references_of(<void *>request) > 1, "the caller of release has a reference of its own")
    unlink(request)
    request.state = DONE
    Py_DECREF(request)  # taken by hold()
    return 0


cdef bint note_sqe(Request request, const io_uring_sqe *sqe, bint is_behind_link) noexcept:
    """Record what must be known of an SQE that add_sqe() filled.

    Returns: whether buffers or a notification may stay in the ring when it is over, so that the ring must not be given
        to another loop.
    """
    request.may_notify_late = is_behind_link and (sqe.opcode == OP_SEND_ZC or sqe.opcode == OP_SENDMSG_ZC)
    return sqe.opcode == OP_PROVIDE_BUFFERS or request.may_notify_late


cdef int end(Request request, uint32_t flags, InFlight late) except -1:
    """The final completion came: release, except where one more with the same user_data may follow.

    A zero-copy send behind a link that fails ends by a completion without IORING_CQE_F_MORE, and the notification
    that was set aside for it is still posted (io_fail_links does not set the flag, as of Linux 6.18).  Such a
    request waits for it on `late`.  No notification follows where the SQE was refused before one was set aside; then
    it stays there, without what it kept alive, until the ring is closed.
    """
    if not request.may_notify_late or flags & IORING_CQE_F_NOTIF or request.owner is None:
        return release(request)
    must(is_with_kernel(request), "a request ends once")
    unlink(request)
    request.state = DONE
    link(request, late)
    return 0


# -- garbage collection: see support/collect.h ---------------------------------------------------------------

cdef extern from *:
    """
    UL_COLLECTED(InFlight)
    """
    void ul_collect_InFlight(object, ul_traverse_own)


cdef int traverse_own(PyObject *self, visitproc visit, void *arg) noexcept:
    cdef PyObject *at = (<InFlight>self).head
    cdef int stop
    while at != NULL:
        stop = visit(at, arg)
        if stop:
            return stop
        at = (<Request>at).after
    return 0


ul_collect_InFlight(InFlight, traverse_own)

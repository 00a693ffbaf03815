"""Once per process: does a SEND that falls short report how much it sent?

The rule for sends without a CQE on success (see engine) needs a MSG_WAITALL | MSG_DONTWAIT send that
falls short to post its partial count.  Kernels before about 6.1 post -EAGAIN and lose it; there every send posts a CQE.

It uses a separate ring, which is closed afterwards: nothing else can interfere.
"""

from libc.stdint cimport int32_t
from libc.stdlib cimport calloc, free

from ..liburing.liburing cimport *
from ..support.assertions cimport must, must_not
from .ring cimport Ring

import errno
import socket

from ..exceptions import MonitorUnavailable
from .ring import take_ring

cdef extern from "<sys/socket.h>" nogil:
    int MSG_WAITALL, MSG_DONTWAIT, MSG_NOSIGNAL

# More than any socketpair takes at once.
cdef enum:
    PROBE_BYTES = 4 * 1024 * 1024


cdef object failed_send_reports_count():
    """True where a short send's CQE has the count, with the SQE already over when the enter returns.

    None: it cannot be found out now, as locked memory, memory or descriptors are short.
    """
    cdef Ring ring
    cdef io_uring_sqe *sqe
    cdef char *payload
    cdef int32_t res
    cdef unsigned n_cqes
    try:
        # Not patient: the run that needs the result would begin later, and it works without one.
        ring = take_ring(is_patient=False)
    except MonitorUnavailable:
        return None
    try:
        left, right = socket.socketpair()
    except OSError:
        ring.close()
        return None
    payload = <char *>calloc(PROBE_BYTES, 1)
    try:
        if payload == NULL:
            return None
        ring.enable()
        sqe = ring.get_sqe()
        io_uring_prep_send(sqe, left.fileno(), payload, PROBE_BYTES, MSG_WAITALL | MSG_DONTWAIT | MSG_NOSIGNAL)
        sqe.flags |= IOSQE_CQE_SKIP_SUCCESS
        sqe.user_data = 1
        must(ring.is_mine(), "the probe's ring belongs to the thread that probes")
        ring.enter(0, -1)
        n_cqes = io_uring_cq_ready(&ring.ring)
        res = ring.ring.cq.cqes[ring.ring.cq.khead[0] & ring.ring.cq.ring_mask].res
        if n_cqes == 0:
            return False
        sent = 0
        right.setblocking(False)
        try:
            while sent < PROBE_BYTES:
                sent += len(right.recv(1 << 20))
        except BlockingIOError:
            return n_cqes == 1 and res > 0 and sent == res
        return False
    except OSError as error:
        if error.errno in (errno.EBADF, errno.EFAULT):
            raise
        return False
    finally:
        ring.close()
        left.close()
        right.close()
        must_not(ring.is_open, "the probe's ring is closed before its memory is freed")
        free(payload)  # the ring is closed and the send is over (DONTWAIT): it is not read any more

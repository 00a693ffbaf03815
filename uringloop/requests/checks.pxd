# Checks of a user's own SQE, and of the arguments of a prep function.
from ..liburing.liburing cimport io_uring_sqe
from .request cimport SqeRequest

cdef int fill_sqe(SqeRequest request, io_uring_sqe *sqe, object pointer, tuple call, object keepalive,
                  bint is_linked) except -1
cdef int check_callback(object callback) except -1

# probes.h: where this package can be traced from outside.
from libc.stdint cimport int64_t, uint64_t

cdef extern from "../support/probes.h" nogil:
    void ul_probe_turn(void *context, uint64_t number) noexcept
    void ul_probe_wait(void *context, int64_t timeout_ns) noexcept
    void ul_probe_woken(void *context) noexcept
    void ul_probe_callback(void *handle, void *callback) noexcept
    void ul_probe_returned(void *handle) noexcept
    void ul_probe_submit(int ring_fd, unsigned count, int result) noexcept
    void ul_probe_complete(void *request, int result, unsigned flags) noexcept
    void ul_probe_accept(int fd) noexcept
    void ul_probe_read(int fd, Py_ssize_t n_bytes) noexcept
    void ul_probe_write(int fd, Py_ssize_t n_bytes) noexcept

cdef bint failed_send_reports_count() except -1

cdef object failed_send_reports_count()

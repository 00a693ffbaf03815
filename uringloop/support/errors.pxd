# The one way from an errno to an exception.
cpdef object os_error(int number, str call=*, object filename=*)

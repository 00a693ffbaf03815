# fastcall.h: methods that take their arguments as the interpreter passes them.  A method is a
#
#   cdef object name(Class self, PyObject **args, Py_ssize_t n_args, PyObject *names)
#
# where `names` is NULL or a tuple of the keywords, whose values follow the n_args positional arguments in `args`.
from cpython.ref cimport PyObject

cdef extern from "../support/fastcall.h":
    struct PyMethodDef:
        pass
    int put_fast_method "ul_put_fast_method" (
        object type, PyMethodDef *definition, const char *name, void *function, const char *documentation) except -1


cdef inline object call_slowly(object method, object self, PyObject **args, Py_ssize_t n_args, PyObject *names):
    """Call the method that a fast one replaces."""
    cdef Py_ssize_t i
    cdef list positional = [<object>args[i] for i in range(n_args)]
    cdef dict keywords = {}
    if names != NULL:
        for i, name in enumerate(<tuple>names):
            keywords[name] = <object>args[n_args + i]
    return method(self, *positional, **keywords)

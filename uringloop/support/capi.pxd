# Python's C API where Cython's declarations (cpython.*) have no function, or one that does more.
from cpython.ref cimport PyObject

cdef extern from "Python.h":
    """
    static PyObject *ul_error_is_set(void) { return NULL; }
    """
    # References counted by hand: Cython's own functions take an object, and also count that.
    void incref "Py_INCREF" (PyObject *)
    void decref "Py_DECREF" (PyObject *)
    # After a call whose result is a PyObject *: raises the exception that is set.
    object error_is_set "ul_error_is_set" ()
    # Calls without a tuple of arguments.  The caller checks for NULL, and owns the result.
    size_t PY_VECTORCALL_ARGUMENTS_OFFSET  # args[-1] is the callee's meanwhile
    PyObject *PyObject_Vectorcall(object callable, PyObject **args, size_t n_args, PyObject *names)
    PyObject *PyObject_VectorcallMethod(PyObject *name, PyObject **args, size_t n_args, PyObject *names)
    # list[low:high] = items; with NULL, del list[low:high] without making a slice.
    int PyList_SetSlice(object list, Py_ssize_t low, Py_ssize_t high, PyObject *items) except -1
    PyObject *PyObject_CallMethodOneArg(object self, object name, object arg)

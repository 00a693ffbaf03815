/*
 * Methods that take their arguments as the interpreter passes them: METH_FASTCALL | METH_KEYWORDS, PEP 590.
 *
 * Cython has no way to declare one for `*args`; this puts a function into the dict of a class that Cython has made.
 */
#ifndef URINGLOOP_FASTCALL_H
#define URINGLOOP_FASTCALL_H
#include <Python.h>

/* The definition, name and documentation belong to the method from then on: they are never freed. */
static int ul_put_fast_method(PyObject *type, PyMethodDef *definition, const char *name, void *function,
                              const char *documentation)
{
    PyObject *method;
    int result;

    definition->ml_name = name;
    definition->ml_meth = (PyCFunction)function;
    definition->ml_flags = METH_FASTCALL | METH_KEYWORDS;
    definition->ml_doc = documentation;
    method = PyDescr_NewMethod((PyTypeObject *)type, definition);
    if (method == NULL)
        return -1;
    result = PyDict_SetItemString(((PyTypeObject *)type)->tp_dict, name, method);
    PyType_Modified((PyTypeObject *)type);
    Py_DECREF(method);
    return result;
}
#endif

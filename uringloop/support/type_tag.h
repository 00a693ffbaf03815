/* A number that changes with each change of a class or of its bases: what was looked up in it still holds. */
#ifndef URINGLOOP_TYPE_TAG_H
#define URINGLOOP_TYPE_TAG_H
#include <Python.h>

/* 0 where that cannot be known: nothing was looked up in the class since it changed. */
static inline unsigned ul_tag_of(PyObject *type)
{
#if PY_VERSION_HEX < 0x030D0000
    if (!PyType_HasFeature((PyTypeObject *)type, Py_TPFLAGS_VALID_VERSION_TAG))
        return 0;
#endif
    return ((PyTypeObject *)type)->tp_version_tag;
}
#endif

/* Negative arguments of unsigned parameters, as C takes them: io_uring_prep_read(sqe, fd, buf, n, -1) reads at the
 * current position.
 *
 * The wrappers that cffi generates convert by _cffi_to_c_u64 and its like, which raise OverflowError for everything
 * below zero.  Here they are replaced for this one module: -1 to -2**(width - 1) wrap around, values beyond the width
 * still raise OverflowError, and other arguments cost one comparison.
 *
 * Included by the source of build_ffi.py, after cffi's own header and before the wrappers.  Limited API only.
 */

static uint64_t ul_from_negative(PyObject *argument, long long lowest)
{
    PyObject *type, *value, *traceback, *number;
    long long found = 0;

    if (!PyErr_ExceptionMatches(PyExc_OverflowError))
        return (uint64_t)-1;
    PyErr_Fetch(&type, &value, &traceback);
    number = PyNumber_Long(argument); /* an int, or cffi's integers */
    if (number != NULL) {
        found = PyLong_AsLongLong(number);
        Py_DECREF(number);
    }
    if (found < 0 && found >= lowest && !PyErr_Occurred()) {
        Py_XDECREF(type);
        Py_XDECREF(value);
        Py_XDECREF(traceback);
        return (uint64_t)found;
    }
    PyErr_Restore(type, value, traceback); /* also instead of an error of the second lookup */
    return (uint64_t)-1;
}

#define UL_TAKE_NEGATIVE(name, convert, type, lowest)                                                                \
    static type name(PyObject *argument)                                                                              \
    {                                                                                                                 \
        type value = convert(argument);                                                                               \
        if (value == (type)-1 && PyErr_Occurred())                                                                    \
            value = (type)ul_from_negative(argument, lowest);                                                         \
        return value;                                                                                                 \
    }

UL_TAKE_NEGATIVE(ul_to_c_u8, _cffi_to_c_u8, uint8_t, INT8_MIN)
UL_TAKE_NEGATIVE(ul_to_c_u16, _cffi_to_c_u16, uint16_t, INT16_MIN)
UL_TAKE_NEGATIVE(ul_to_c_u32, _cffi_to_c_u32, uint32_t, INT32_MIN)
UL_TAKE_NEGATIVE(ul_to_c_u64, _cffi_to_c_u64, uint64_t, INT64_MIN)

#undef _cffi_to_c_u8
#undef _cffi_to_c_u16
#undef _cffi_to_c_u32
#undef _cffi_to_c_u64
#define _cffi_to_c_u8 ul_to_c_u8
#define _cffi_to_c_u16 ul_to_c_u16
#define _cffi_to_c_u32 ul_to_c_u32
#define _cffi_to_c_u64 ul_to_c_u64

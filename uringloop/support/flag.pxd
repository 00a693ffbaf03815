# A bool in one byte, for the fields of what there is once per connection: Cython's `bint` is an int.

cdef extern from *:
    """
    typedef _Bool ul_flag;
    """
    ctypedef bint flag "ul_flag"

"""The one way from an errno to an exception.

A name that the program looks for (FileNotFoundError, ConnectionResetError) is chosen by OSError itself.
"""

import os


cpdef object os_error(int number, str call=None, object filename=None):
    """The OSError, or subclass, of an errno.

    Parameters:
        number: the errno, above 0.
        call: the system call, for the text, where the caller of the loop cannot know which it was.
        filename: of the file that it is about, as the caller named it.
    """
    text = os.strerror(number)
    if call is not None:
        text = f"{call}: {text}"
    return OSError(number, text) if filename is None else OSError(number, text, filename)

"""The one way from an errno to an exception.

A name that the program looks for (FileNotFoundError, ConnectionResetError) is chosen by OSError itself.
"""

import os


cpdef object os_error(int number, str call=None):
    """The OSError, or subclass, of an errno.

    Parameters:
        number: the errno, above 0.
        call: the system call, for the text, where the caller of the loop cannot know which it was.
    """
    text = os.strerror(number)
    return OSError(number, text if call is None else f"{call}: {text}")

"""The one way from an errno to an exception.

OSError itself chooses the subclass that the program catches (FileNotFoundError, ConnectionResetError).
"""

import os


cpdef object os_error(int number, str call=None, object filename=None):
    """The OSError, or subclass, of an errno.

    Parameters:
        number: the errno, above 0.
        call: the system call, for the text, where the caller of the loop cannot know which it was.
        filename: that of the file concerned, as the caller named it.
    """
    text = os.strerror(number)
    if call is not None:
        text = f"{call}: {text}"
    return OSError(number, text) if filename is None else OSError(number, text, filename)

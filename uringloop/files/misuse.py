"""The words for code that forgets `async`: before Python 3.14 the interpreter only says what the object is not.

Type checkers do not see these methods, so that they report such code as before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING


class AsyncWith:
    """The base of what `async with` takes."""

    if not TYPE_CHECKING:

        def __enter__(self):
            raise TypeError(f"{type(self).__name__!r} object: use `async with`, not `with`")

        def __exit__(self, kind, error, where):
            raise TypeError(f"{type(self).__name__!r} object: use `async with`, not `with`")


class AsyncFor:
    """The base of what `async for` takes.

    `for` calls this where there is no __iter__, with which the object would be an Iterable: what takes both kinds may
    try that one first, as httpx does with the content of a request.
    """

    if not TYPE_CHECKING:

        def __getitem__(self, index):
            raise TypeError(
                f"{type(self).__name__!r} object has no items: iterate it with `async for`, not `for`"
            )

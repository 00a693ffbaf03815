"""Files without threads: the builtin `open` and the usual functions of `os`, as coroutines.

    async with uringloop.open("data.txt") as file:
        async for line in file:
            ...
    await uringloop.files.rename("data.txt", "old.txt")

On io_uring each operation is a request on the loop's ring; on epoll, poll and any other asyncio loop it runs in the
default executor, with the same results and exceptions. docs/files.md has the contract.
"""

from .buffered import BufferedFile
from .copying import copyfile, splice
from .functions import (
    Scanning,
    link,
    listdir,
    lstat,
    makedirs,
    mkdir,
    readlink,
    remove,
    rename,
    replace,
    rmdir,
    scandir,
    stat,
    symlink,
    unlink,
)
from .opening import Opening, open
from .raw import RawFile
from .temporary import NamedTemporaryFile, TemporaryDirectory, TemporaryFile
from .text import TextFile

__all__ = [
    "BufferedFile",
    "NamedTemporaryFile",
    "Opening",
    "RawFile",
    "Scanning",
    "TemporaryDirectory",
    "TemporaryFile",
    "TextFile",
    "copyfile",
    "link",
    "listdir",
    "lstat",
    "makedirs",
    "mkdir",
    "open",
    "readlink",
    "remove",
    "rename",
    "replace",
    "rmdir",
    "scandir",
    "splice",
    "stat",
    "symlink",
    "unlink",
]


def __dir__() -> list[str]:
    """Without the modules of this folder."""
    return sorted({*(name for name in globals() if name.startswith("_")), *__all__})

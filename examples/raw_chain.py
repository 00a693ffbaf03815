"""Open, read and close a file with a linked chain of raw io_uring requests: one system call for all three.

    python examples/raw_chain.py FILE...

The file is opened into a slot of the ring's own table, so that the read can name it before it is open.
"""

import argparse
import asyncio
import os

import uringloop
from uringloop.liburing import ffi, lib

SLOT = 0


async def head(path: str, n_bytes: int = 65536) -> bytes:
    """The first bytes of a file."""
    loop = asyncio.get_running_loop()
    memory = bytearray(n_bytes)

    def read_slot(sqe):  # type: ignore[no-untyped-def]
        lib.io_uring_prep_read(sqe, SLOT, ffi.from_buffer(memory), n_bytes, 0)
        sqe.flags |= lib.IOSQE_FIXED_FILE

    def close_slot(sqe):  # type: ignore[no-untyped-def]
        lib.io_uring_prep_close_direct(sqe, SLOT)

    def read_and_go_on(sqe):  # type: ignore[no-untyped-def]
        read_slot(sqe)
        sqe.flags |= lib.IOSQE_IO_HARDLINK  # also close it after a short read

    opened, read, closed = loop.add_sqes(
        [
            (lib.io_uring_prep_openat_direct, lib.AT_FDCWD, os.fsencode(path), os.O_RDONLY, 0, SLOT),
            (read_and_go_on,),
            (close_slot,),
        ],
        keepalive=memory,
    )
    await opened
    n = await read
    await closed
    return bytes(memory[:n])


async def main(paths: list[str]) -> None:
    loop = asyncio.get_running_loop()
    files = loop.register_files(1)
    await asyncio.sleep(0)
    before = loop.statistics()["syscalls"]
    for path in paths:
        try:
            data = await head(path)
        except OSError as error:
            print(f"{path}: {error.strerror}")
        else:
            print(f"{path}: {len(data)} bytes, {data.count(10)} lines")
    print(f"{loop.statistics()['syscalls'] - before} calls of io_uring_enter for {len(paths)} files")
    files.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="*", metavar="FILE", default=[__file__], help="default: this program")
    try:
        uringloop.run(main(parser.parse_args().files))
    except uringloop.SqeNotSupported as error:
        raise SystemExit(f"raw_chain: {error}") from None

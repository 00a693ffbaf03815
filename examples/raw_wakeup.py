"""Two loops in two threads wake each other through eventfds, with raw requests: a ping-pong without sockets.

    python examples/raw_wakeup.py [ROUNDS]

Each side writes 8 bytes to the other's eventfd and reads its own; both requests go out in one system call.
"""

import argparse
import asyncio
import os
import sys
import threading
import time

import uringloop
from uringloop.liburing import ffi, lib

ONE = (1).to_bytes(8, sys.byteorder)


async def play(own: int, other: int, rounds: int, *, begins: bool) -> None:
    loop = asyncio.get_running_loop()
    memory = bytearray(8)
    pointer = ffi.from_buffer(memory)
    for _ in range(rounds):
        if begins:
            await loop.add_sqe(lib.io_uring_prep_write, other, ONE, 8, 0)
        # an eventfd has no data until it is written to: the request waits in the kernel, and the loop can do other work
        await loop.add_sqe(lib.io_uring_prep_read, own, pointer, 8, 0)
        if not begins:
            await loop.add_sqe(lib.io_uring_prep_write, other, ONE, 8, 0)


def main(rounds: int) -> None:
    left, right = os.eventfd(0), os.eventfd(0)
    partner = threading.Thread(
        target=lambda: uringloop.run(play(right, left, rounds, begins=False)), name="partner"
    )
    partner.start()
    start_s = time.perf_counter()
    uringloop.run(play(left, right, rounds, begins=True))
    took_s = time.perf_counter() - start_s
    partner.join()
    print(f"{rounds} round trips between two loops, {took_s / rounds * 1e6:.1f} us each")
    os.close(left)
    os.close(right)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("rounds", nargs="?", type=int, default=2000, help="default: %(default)s")
    main(parser.parse_args().rounds)

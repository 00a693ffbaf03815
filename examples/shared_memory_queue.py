"""A queue between two processes in shared memory: no system call for a message while the reader busy-polls.

    python examples/shared_memory_queue.py [--messages N] [--bytes N] [--poll-us N]

One process writes, one reads. The memory has two counters and a circular buffer; each side changes its own counter
only, after it has copied the message. The reader's loop finds new messages with loop.add_poll_handler(): with --poll-us
it busy-polls, and needs a CPU of its own; without, it sleeps for some 50 us at a time. Each message is checked.

The counters need a CPU that shows writes to other CPUs in their order, as x86-64 does; aarch64 would need barriers,
which Python does not have.
"""

import argparse
import asyncio
import mmap
import os
import time
from collections.abc import Callable

import uringloop

CAPACITY_BYTES = 1 << 20
HEAD_BYTES = 128  # the two counters, a cache line each
LENGTH_BYTES = 4


class SharedQueue:
    """Messages of bytes in shared memory; made before fork(), then used by one writer and one reader."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, HEAD_BYTES + CAPACITY_BYTES)
        self.counters = memoryview(self.memory)[:HEAD_BYTES].cast("Q")  # bytes written, and bytes read
        self.data = memoryview(self.memory)[HEAD_BYTES:]

    def has_message(self) -> bool:
        return self.counters[0] != self.counters[8]

    def copy_in(self, at: int, data: bytes) -> int:
        at %= CAPACITY_BYTES
        n_first = min(len(data), CAPACITY_BYTES - at)
        self.data[at : at + n_first] = data[:n_first]
        self.data[: len(data) - n_first] = data[n_first:]
        return len(data)

    def copy_out(self, at: int, n_bytes: int) -> bytes:
        at %= CAPACITY_BYTES
        n_first = min(n_bytes, CAPACITY_BYTES - at)
        return bytes(self.data[at : at + n_first]) + bytes(self.data[: n_bytes - n_first])

    def put(self, message: bytes) -> bool:
        """Whether there was room for it; the writer's side."""
        written = self.counters[0]
        if written + LENGTH_BYTES + len(message) - self.counters[8] > CAPACITY_BYTES:
            return False
        written += self.copy_in(written, len(message).to_bytes(LENGTH_BYTES))
        written += self.copy_in(written, message)
        self.counters[0] = written  # only now is it visible to the reader
        return True

    def get(self) -> bytes:
        """The oldest message; the reader's side, after has_message()."""
        read = self.counters[8]
        n_bytes = int.from_bytes(self.copy_out(read, LENGTH_BYTES))
        message = self.copy_out(read + LENGTH_BYTES, n_bytes)
        self.counters[8] = read + LENGTH_BYTES + n_bytes  # only now may the writer use the room again
        return message


def message_number(number: int, n_bytes: int) -> bytes:
    return number.to_bytes(8) + bytes([number % 256]) * (n_bytes - 8)


def write_all(queue: SharedQueue, n_messages: int, n_bytes: int) -> None:
    for number in range(n_messages):
        message = message_number(number, n_bytes)
        while not queue.put(message):
            time.sleep(0.000_05)  # the queue is full: the reader needs the CPU


async def read_all(queue: SharedQueue, poll_us: int, is_last: Callable[[bytes], bool]) -> None:
    loop = asyncio.get_running_loop()
    loop.set_poll_params(poll_us * 1000)
    done = loop.create_future()

    def drain() -> None:
        try:
            while queue.has_message() and not done.done():
                if is_last(queue.get()):
                    done.set_result(None)
        except ValueError as error:
            done.set_exception(error)

    handler = loop.add_poll_handler(queue.has_message, drain)
    try:
        await done
    finally:
        handler.remove()


def main(n_messages: int, n_bytes: int, poll_us: int) -> None:
    queue = SharedQueue()
    pid = os.fork()
    if pid == 0:
        write_all(queue, n_messages, n_bytes)
        os._exit(0)
    n_seen = 0

    def is_last(message: bytes) -> bool:
        nonlocal n_seen
        if message != message_number(n_seen, n_bytes):
            raise ValueError(f"message {n_seen} is damaged")
        n_seen += 1
        return n_seen == n_messages

    started_s = time.perf_counter()
    uringloop.run(read_all(queue, poll_us, is_last))
    seconds = time.perf_counter() - started_s
    os.waitpid(pid, 0)
    print(f"{n_seen:,} messages of {n_bytes:,} bytes in {seconds:.2f} s: {n_seen / seconds:,.0f} a second")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--messages", type=int, default=100_000, help="how many; default: %(default)s")
    parser.add_argument("--bytes", type=int, default=200, help="of each, at least 8; default: %(default)s")
    parser.add_argument("--poll-us", type=int, default=0, help="busy-poll for so long; default: %(default)s")
    arguments = parser.parse_args()
    main(arguments.messages, max(arguments.bytes, 8), arguments.poll_us)

"""Two processes play ping-pong over shared memory, with loop.add_poll_handler(), and over a socket.

    python examples/shared_memory_pingpong.py [ROUNDS [MAX_NS]]

Each side writes its own counter of 8 bytes in a shared mapping, and the other side polls it. While both poll, a round
trip needs no file descriptor and no system call. The same is then played over a socketpair: on uringloop with the same
polling, without polling, and on uvloop if it is installed. Busy-polling needs a CPU for each side.
"""

import argparse
import asyncio
import mmap
import os
import resource
import socket
import time

import uringloop


class Counters:
    """Two counters in shared memory: this side's and the other side's."""

    def __init__(self, shared, side):
        self.words = memoryview(shared).cast("Q")
        self.mine, self.other = (0, 8) if side == 0 else (8, 0)  # one cache line each
        self.seen = 0

    def has_changed(self):
        return self.words[self.other] != self.seen

    def take(self):
        self.seen = self.words[self.other]
        return self.seen

    def publish(self, value):
        self.words[self.mine] = value


async def play_memory(shared, side, rounds, max_ns):
    """One side; returns when all rounds are played."""
    loop = asyncio.get_running_loop()
    loop.set_poll_params(max_ns)
    counters = Counters(shared, side)
    done = loop.create_future()

    def arrived():
        value = counters.take()
        if side == 1:
            counters.publish(value)  # pong
        if value == rounds:
            done.set_result(None)
        elif side == 0:
            counters.publish(value + 1)  # ping

    handler = loop.add_poll_handler(counters.has_changed, arrived)
    if side == 0:
        counters.publish(1)
    await done
    handler.remove()
    counters.words.release()


class Pong(asyncio.Protocol):
    """One side, over a socket, with the same numbers."""

    def __init__(self, side, rounds, done):
        self.side, self.rounds, self.done = side, rounds, done

    def connection_made(self, transport):
        self.transport = transport
        if self.side == 0:
            transport.write((1).to_bytes(8))

    def data_received(self, data):
        value = int.from_bytes(data)
        if self.side == 1:
            self.transport.write(data)
        if value == self.rounds:
            self.done.set_result(None)
        elif self.side == 0:
            self.transport.write((value + 1).to_bytes(8))


async def play_socket(sock, side, rounds, max_ns):
    loop = asyncio.get_running_loop()
    if max_ns:
        loop.set_poll_params(max_ns)
    done = loop.create_future()
    transport, _ = await loop.create_unix_connection(lambda: Pong(side, rounds, done), sock=sock)
    await done
    transport.close()


def cpu_seconds():
    """CPU time used by this process and its ended children."""
    usages = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def in_two_processes(new_loop, play):
    """Run play(side) in this process and in a child; returns the seconds it took, and the CPU seconds of both."""
    # each side gets its own CPUs if there are enough of them
    cpus = sorted(os.sched_getaffinity(0))
    pid = os.fork()
    side = 0 if pid else 1
    os.sched_setaffinity(0, cpus[side::2] or cpus)
    before_s = cpu_seconds()
    started = time.perf_counter()
    loop = new_loop()
    status = 1
    try:
        loop.run_until_complete(play(side))
        loop.close()
        status = 0
    finally:
        if side:
            os._exit(status)
    seconds = time.perf_counter() - started
    os.sched_setaffinity(0, cpus)
    if os.waitpid(pid, 0)[1]:
        raise SystemExit("the other side failed")
    return seconds, cpu_seconds() - before_s


def report(name, rounds, seconds, cpu_s):
    print(f"{name:34} {seconds / rounds * 1e6:8.1f} us a round trip {cpu_s / rounds * 1e6:8.1f} us of CPU")


def main(rounds, max_ns):
    for polling in (max_ns, 0):
        shared = mmap.mmap(-1, mmap.PAGESIZE)
        name = "shared memory" + (", polling" if polling else ", sleeping")
        # sleeping is slow: a round trip takes at least two sleeps of 50 us
        count = rounds if polling else max(rounds // 20, 1)

        def play(side, shared=shared, polling=polling, count=count):
            return play_memory(shared, side, count, polling)

        report(name, count, *in_two_processes(uringloop.new_event_loop, play))
        shared.close()
    loops = [
        ("uringloop, polling", uringloop.new_event_loop, max_ns),
        ("uringloop", uringloop.new_event_loop, 0),
    ]
    try:
        import uvloop
    except ImportError:
        print("uvloop is not installed")
    else:
        loops.append(("uvloop", uvloop.new_event_loop, 0))
    for name, new_loop, polling in loops:
        ends = socket.socketpair()

        def play(side, ends=ends, polling=polling):
            ends[1 - side].close()
            ends[side].setblocking(False)
            return play_socket(ends[side], side, rounds, polling)

        report(f"socket, {name}", rounds, *in_two_processes(new_loop, play))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("rounds", nargs="?", type=int, default=20_000, help="default: %(default)s")
    parser.add_argument("max_ns", nargs="?", type=int, default=1_000_000,
                        help="limit of busy-polling; default: %(default)s")  # fmt: skip
    arguments = parser.parse_args()
    main(arguments.rounds, arguments.max_ns)

"""Completions that name provided buffers: in any order that the kernel may post, and with any sizes."""

import itertools
import random

from drivers.ring import BUFFER_FLAG, BufferRingDriver, LentBuffersDriver, RingDriver

from uringloop.uring.ring import Ring

from .choices import Choices

BUFFER_SHIFT, BUFFER_MORE = 16, 1 << 4  # IORING_CQE_BUFFER_SHIFT, IORING_CQE_F_BUF_MORE
STEPS_MOST = 400


class KernelsBuffers:
    """What the kernel knows: the queue of buffers, and how much of the first is used up."""

    def __init__(self, driver: BufferRingDriver):
        ring = driver.buffers
        self.size, self.is_incremental = ring.buffer_bytes, ring.is_incremental
        self.queue = list(range(ring.n_buffers))
        self.used = 0  # of the first
        self.held: list[tuple[int, int, int, int]] = []  # flags, id, begin, end: taken and not given back
        self.spent: dict[int, int] = {}  # id -> chunks that are not given back

    def post(self, n_bytes: int) -> tuple[int, int, int, int] | None:
        """(res, flags, id, offset) of a completion with at most that many bytes; None without a buffer."""
        if not self.queue:
            return None
        id, offset = self.queue[0], self.used
        count = min(n_bytes, self.size - offset)
        flags = BUFFER_FLAG | id << BUFFER_SHIFT
        if self.is_incremental and offset + count < self.size:
            self.used += count
            flags |= BUFFER_MORE
        else:
            self.queue.pop(0)
            self.used = 0
            self.spent[id] = sum(1 for one in self.held if one[1] == id) + 1
        self.held.append((flags, id, offset, offset + count))
        return count, flags, id, offset

    def give_back(self, at: int) -> int:
        flags, id, _, _ = self.held.pop(at)
        if id in self.spent:
            self.spent[id] -= 1
            if not self.spent[id]:
                del self.spent[id]
                self.queue.append(id)
        return flags


def check_ring(choices: Choices) -> None:
    ring = RingDriver(Ring())
    try:
        ring.enable()
        try:
            driver = BufferRingDriver(ring)
        except OSError:
            return  # before Linux 5.19
        kernel = KernelsBuffers(driver)
        bases: dict[int, int] = {}
        for _ in range(STEPS_MOST):
            if not choices:
                break
            if choices.below(3):
                posted = kernel.post(
                    choices.of((1, 0, 100, 4096, 65536, kernel.size, choices.number(4) % kernel.size))
                )
                if posted is None:
                    continue
                count, flags, id, offset = posted
                base = driver.take_in_place(count, flags) - offset
                assert bases.setdefault(id, base) == base, (
                    "data is looked for where the kernel did not write it"
                )
                driver.read(base + offset, count)
            elif kernel.held:
                driver.give_back(kernel.give_back(choices.below(256) % len(kernel.held)))
        ordered = [bases[id] for id in sorted(bases)]
        assert all(later - earlier >= kernel.size for earlier, later in itertools.pairwise(ordered))
    finally:
        ring.close()


def check_lent(choices: Choices) -> None:
    """Buffers that requests provided: memory that the kernel may still write to is kept."""
    lent = LentBuffersDriver()
    order = random.Random(choices.number())  # in which the kernel uses them
    of_kernel: dict[int, list[tuple[int, object]]] = {}  # group -> (id, memory), oldest first
    for _ in range(STEPS_MOST):
        if not choices:
            break
        group = choices.below(3)
        buffers = of_kernel.setdefault(group, [])
        what = choices.below(5)
        if what <= 1:
            first, count, memory = choices.below(6), choices.below(4), object()
            lent.lend(group, first, count, memory)
            buffers += [(first + i, memory) for i in range(count)]
        elif what == 2 and buffers:
            id, _ = buffers.pop(order.randrange(len(buffers)))
            lent.use(group, id)
        elif what == 3:
            count = min(choices.below(5), len(buffers))
            del buffers[:count]
            lent.remove(group, count)
        elif what == 4:
            assert lent.use(group, choices.below(8) + 100) is None  # not one of these
        for number, left in of_kernel.items():
            for id, memory in left:
                assert any(one is memory for one in lent.groups[number][id]), (
                    "the kernel may write to freed memory"
                )


def check(data: bytes) -> None:
    choices = Choices(data)
    if choices.below(2):
        check_lent(choices)
    else:
        check_ring(choices)


SEEDS = [
    b"\0" + b"\1\2" * 40,
    b"\0" + b"\1\5\1\5\1\5\1\5\0\3\0\0\0\1\0\0\1\2",
    b"\0" + b"\1\6\x10\x20\0\0\1\6\0\0\1\0\0\0" * 10,
    b"\1\0" + b"\0\0\0\2\0\2\0\2\0\3\1" * 3,
    b"\1\5" + b"\1\0\2\3\1\0\2\3\1\2\1\2\1\2\1\3\4",
]

"""The provided-buffer ring: where the bytes are, when a buffer is given back, and that it recovers from ENOBUFS."""

import pytest

pytest.importorskip("drivers.ring")

from drivers.ring import (
    BUFFER_FLAG,
    MORE_FLAG,
    BufferRingDriver,
    RecordingRequest,
    RequestsDriver,
    RingDriver,
)
from support.helpers import pattern

from uringloop.uring.ring import Ring

ENOBUFS = 105


@pytest.fixture
def buffers(ring_driver):
    ring = RingDriver(Ring())
    ring.enable()
    try:
        driver = BufferRingDriver(ring)
    except OSError as error:
        ring.close()
        pytest.skip(f"no provided buffers: {error}")
    yield driver
    ring.close()


class Receiver:
    """A multishot receive that is armed again when it ends."""

    def __init__(self, buffers, fd, user_data=1):
        self.buffers = buffers
        self.ring = buffers.ring_driver
        self.fd = fd
        self.user_data = user_data
        self.held = []  # flags of chunks that were not given back
        self.ends = []
        self.arm()

    def arm(self):
        self.ring.recv_into_buffers(self.fd, self.buffers.buffers, self.user_data)

    def receive(self, *, give_back=True, rounds=1, arm=True):
        data = b""
        for _ in range(rounds):
            self.ring.enter(0)
            for _, res, flags in self.ring.reap():
                if flags & BUFFER_FLAG:
                    data += self.buffers.take(res, flags)
                    if give_back:
                        self.buffers.give_back(flags)
                    else:
                        self.held.append(flags)
                if not flags & MORE_FLAG:
                    self.ends.append(res)
                    if arm:
                        self.arm()
        return data

    def give_back_all(self, *, reverse=False):
        for flags in sorted(self.held, reverse=True) if reverse else self.held:
            self.buffers.give_back(flags)
        self.held.clear()


def test_sizes_fit_into_one_mebibyte(buffers):
    ring = buffers.buffers
    assert ring.n_buffers * ring.buffer_bytes == 1 << 20
    assert (ring.n_buffers, ring.is_incremental) in ((4, True), (64, False))
    assert ring.group >= 0xFF00


def test_small_messages_are_taken_where_the_kernel_wrote_them(buffers, fds):
    near, far = fds.socketpair()
    receiver = Receiver(buffers, near.fileno())
    receiver.receive()
    for number in range(200):
        message = pattern(1 + 37 * number % 500)
        far.send(message)
        assert receiver.receive() == message


def test_chunks_are_correct_although_none_was_given_back_yet(buffers, fds):
    near, far = fds.socketpair()
    receiver = Receiver(buffers, near.fileno())
    expected, received = b"", b""
    for number in range(40):
        message = bytes([number]) * 1000
        far.send(message)
        expected += message
        received += receiver.receive(give_back=False)
    assert received == expected
    receiver.give_back_all(reverse=True)
    far.send(b"more")
    assert receiver.receive(rounds=2) == b"more"


def test_more_data_than_all_buffers_hold_is_received_when_they_are_given_back(buffers, fds):
    near, far = fds.socketpair()
    receiver = Receiver(buffers, near.fileno())
    data = pattern(5 << 20)
    received = bytearray()
    sent = 0
    for _ in range(100_000):
        if sent < len(data):
            try:
                sent += far.send(data[sent : sent + 60_000])
            except BlockingIOError:
                pass
        received += receiver.receive()
        if len(received) == len(data):
            break
    assert received == data


def test_exhausted_buffers_end_the_receive_with_enobufs_and_lose_nothing(buffers, fds):
    near, far = fds.socketpair()
    receiver = Receiver(buffers, near.fileno())
    data = pattern(3 << 20)
    received, sent = b"", 0
    while -ENOBUFS not in receiver.ends and sent < len(data):
        try:
            sent += far.send(data[sent : sent + 60_000])
        except BlockingIOError:
            pass
        received += receiver.receive(give_back=False, arm=-ENOBUFS not in receiver.ends)
    assert -ENOBUFS in receiver.ends
    assert received == data[: len(received)]
    assert len(received) >= 1 << 19
    receiver.give_back_all(reverse=True)
    receiver.arm()
    for _ in range(100):
        received += receiver.receive()
        if len(received) == sent:
            break
    assert received == data[:sent]


def test_bytes_are_not_overwritten_until_their_chunk_is_given_back(buffers, fds):
    """A buffer returns to the kernel only when all of its chunks were given back."""
    near, far = fds.socketpair()
    ring = buffers.ring_driver
    ring.recv_into_buffers(near.fileno(), buffers.buffers, 1)
    data = pattern(3 << 20)
    sent, chunks = 0, []

    def receive():
        """Send and receive until the buffers are used up."""
        nonlocal sent
        while True:
            try:
                sent += far.send(data[sent : sent + 8_000])
            except BlockingIOError:
                pass
            ring.enter(0)
            for _, res, flags in ring.reap():
                if flags & BUFFER_FLAG:
                    chunks.append((buffers.take_in_place(res, flags), res, flags))
                elif res == -ENOBUFS:
                    return

    receive()
    position, kept = 0, []
    for number, (address, count, flags) in enumerate(chunks):
        if number % 50 == 49:
            kept.append((address, data[position : position + count], flags))
        else:
            buffers.give_back(flags)
        position += count
    chunks.clear()
    ring.recv_into_buffers(near.fileno(), buffers.buffers, 1)
    receive()
    assert kept
    assert all(buffers.read(address, len(expected)) == expected for address, expected, _ in kept)
    for _, _, flags in (*kept, *chunks):
        buffers.give_back(flags)


def test_two_receivers_share_the_buffers_without_mixing_bytes(buffers, fds):
    pairs = [fds.socketpair() for _ in range(2)]
    ring = buffers.ring_driver
    for number, (near, _) in enumerate(pairs, 1):
        ring.recv_into_buffers(near.fileno(), buffers.buffers, number)
    ring.enter(0)
    received = {1: b"", 2: b""}
    for turn in range(100):
        pairs[0][1].send(bytes([turn]) * 100)
        pairs[1][1].send(bytes([255 - turn]) * 33)
        ring.enter(0)
        for user_data, res, flags in ring.reap():
            received[user_data] += buffers.take(res, flags)
            buffers.give_back(flags)
    assert received[1] == b"".join(bytes([turn]) * 100 for turn in range(100))
    assert received[2] == b"".join(bytes([255 - turn]) * 33 for turn in range(100))


def test_end_of_stream_takes_no_buffer(buffers, fds):
    near, far = fds.socketpair()
    receiver = Receiver(buffers, near.fileno())
    far.send(b"last words")
    far.close()
    assert receiver.receive(rounds=3, arm=False) == b"last words"
    assert receiver.ends == [0]


def test_monitor_delivers_received_bytes_with_their_completions(ring_driver, fds):
    requests = RequestsDriver(ring_driver.monitor)
    near, far = fds.socketpair()
    request = RecordingRequest()
    requests.recv_multishot(request, near.fileno())
    ring_driver.wait(0)
    for message in (b"one", b"two", b"three"):
        far.send(message)
        ring_driver.wait(0)
    ring_driver.dispatch()
    assert request.calls == [
        ("complete", 3, True, b"one"),
        ("complete", 3, True, b"two"),
        ("complete", 5, True, b"three"),
    ]
    assert requests.in_flight == 1
    requests.cancel(request)
    ring_driver.wait(0)
    ring_driver.dispatch()
    assert request.calls[3:] == [("complete", -125, False, None)]
    assert requests.in_flight == 0


def test_bytes_harvested_before_a_cancel_are_still_delivered(ring_driver, fds):
    requests = RequestsDriver(ring_driver.monitor)
    near, far = fds.socketpair()
    request = RecordingRequest()
    requests.recv_multishot(request, near.fileno())
    ring_driver.wait(0)
    far.send(b"early")
    ring_driver.wait(0)
    requests.cancel(request)
    far.send(b"late")
    ring_driver.wait(0)
    ring_driver.dispatch()
    delivered = b"".join(call[3] or b"" for call in request.calls)
    assert delivered in (b"early", b"earlylate")
    rest = b"" if delivered == b"earlylate" else near.recv(10)
    assert delivered + rest == b"earlylate"
    assert request.calls[-1][2] is False

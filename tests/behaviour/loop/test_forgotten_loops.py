"""A loop forgotten without close() is collected, whatever it has pending, and warns: gc sees all its references."""

import asyncio
import gc
import socket
import weakref

import pytest
from support.helpers import make_loop


class Keeper(asyncio.Protocol):
    """Holds its transport, which holds the loop: only the collector can free them."""

    def __init__(self, loop):
        self.loop = loop

    def connection_made(self, transport):
        self.transport = transport


class Interrupting(Keeper):
    def data_received(self, data):
        raise KeyboardInterrupt


class Address(tuple):
    """An address of the program's own, with a reference back to the loop."""


def run_until_interrupted(loop):
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()


def connect(loop, protocol=Keeper):
    near, far = socket.socketpair()
    transport, _ = loop.run_until_complete(loop.create_connection(lambda: protocol(loop), sock=near))
    loop.kept = [*getattr(loop, "kept", []), far]
    return transport, far


def interrupt(loop, *_kept):
    raise KeyboardInterrupt


def with_a_callback(loop):
    loop.call_soon(print, loop)


def with_many_callbacks(loop):
    for _ in range(500):  # the queue has grown
        loop.call_soon(print, loop)


def with_a_timer(loop):
    loop.call_later(1000, print, loop)


def with_due_timers(loop):
    for _ in range(3):
        loop.call_later(0, interrupt, loop)
    run_until_interrupted(loop)


def with_ready_fds(loop):
    """One callback ended the run; the others are ready but were not called."""
    for _ in range(3):
        near, far = socket.socketpair()
        far.send(b"x")
        loop.add_reader(near, interrupt, loop, near, far)
    run_until_interrupted(loop)


def with_many_ready_fds(loop):
    pairs = [socket.socketpair() for _ in range(100)]  # the list has grown
    for near, far in pairs:
        far.send(b"x")
        loop.add_reader(near, interrupt, loop, pairs)
    run_until_interrupted(loop)


def with_received_data(loop):
    ends = [connect(loop, Interrupting)[1] for _ in range(3)]
    for far in ends:
        far.send(b"x")
    run_until_interrupted(loop)


def with_an_unsent_write(loop):
    connect(loop)[0].write(b"unsent")


def with_many_unsent_writes(loop):
    for _ in range(100):
        connect(loop)[0].write(b"unsent")


def with_a_write_that_waits_for_room(loop):
    connect(loop)[0].write(bytes(4_000_000))
    loop.run_until_complete(asyncio.sleep(0))


def with_an_unsent_datagram(loop):
    transport, _ = loop.run_until_complete(
        loop.create_datagram_endpoint(lambda: Keeper(loop), local_addr=("127.0.0.1", 0))
    )
    address = Address(transport.get_extra_info("sockname"))
    address.loop = loop
    transport.sendto(b"unsent", address)


def with_datagrams_that_wait_for_room(loop):
    """Their address is the program's own object; the socket's queue is full."""
    name = f"\0uringloop-forgotten-{id(loop)}"
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind(name)
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    transport, _ = loop.run_until_complete(loop.create_datagram_endpoint(lambda: Keeper(loop), sock=sender))

    class Name(str):
        pass

    address = Name(name)
    address.loop = loop
    for _ in range(1000):
        transport.sendto(bytes(100), address)
    assert transport.get_write_buffer_size()
    loop.kept = receiver


def with_a_server(loop):
    loop.kept = loop.run_until_complete(loop.create_server(lambda: Keeper(loop), "127.0.0.1", 0))


def with_stepped_callbacks(loop):
    """The turn ended between two callbacks."""
    for _ in range(3):
        loop.call_soon(interrupt, loop)
    run_until_interrupted(loop)


PENDING = [value for name, value in list(globals().items()) if name.startswith("with_")]


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("pend", PENDING, ids=lambda pend: pend.__name__)
def test_a_forgotten_loop_is_collected(monitor, pend):
    class Marker:
        """A weak reference to the loop itself would be cleared before its finalizer, even if the loop survived."""

    marker = Marker()
    gone = weakref.ref(marker)
    loop = make_loop(monitor)
    loop.marker = marker
    loop.marker.loop = loop
    pend(loop)
    del loop, marker
    gc.collect()
    gc.collect()  # frees what the loop's finalizer closed
    assert gone() is None


@pytest.mark.parametrize("pend", [with_an_unsent_write, with_ready_fds, with_datagrams_that_wait_for_room])
def test_a_forgotten_loop_warns(monitor, pend):
    loop = make_loop(monitor)
    pend(loop)
    with pytest.warns(ResourceWarning) as warned:  # noqa: PT031
        del loop
        gc.collect()
    texts = [str(warning.message) for warning in warned]
    assert any(text.startswith("unclosed event loop") for text in texts), texts


def test_an_unsent_write_of_a_forgotten_loop_is_sent(monitor):
    """As in stock asyncio, which sends it in write()."""
    loop = make_loop(monitor)
    transport, far = connect(loop)
    transport.write(b"written")
    del loop, transport
    with pytest.warns(ResourceWarning):
        gc.collect()
    with far:
        assert far.recv(100) == b"written"
        far.setblocking(False)
        assert far.recv(1) == b""

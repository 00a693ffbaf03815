"""Peers that have shut down their side, or whose connection is otherwise broken, and do not read what they are sent.
The kernel's poll always reports a socket in such a state as ready, although it has no room.
"""

import asyncio
import errno
import socket
import struct
import threading

import pytest
from support.connections import KINDS
from support.helpers import (
    Recorder,
    fill,
    kernel_workers,
    one_turn,
    open_transport,
    pattern,
    read_to_end,
    reset_on_close,
    shrink_buffers,
    socketpair,
    turn_until,
    turns,
    until,
)

ANSWER = pattern(6_000_000)  # more than any socket takes


class Answer(Recorder):
    """Answers the end of the request, and leaves the connection open."""

    keep_open = True

    def eof_received(self):
        self.transport.write(ANSWER)
        return super().eof_received()


async def half_closed(count, kind, protocols, peers):
    """Connect clients that send a request, shut down their side and do not read."""
    loop = asyncio.get_running_loop()
    for _ in range(count):
        near, peer = socketpair(kind)
        peer.setblocking(False)
        near.setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16
        )  # with defaults a thousand would take all memory for TCP
        peers.append(peer)
        protocols.append(Answer())
        await loop.create_connection(lambda: protocols[-1], sock=near)
        peer.send(b"request")
        peer.shutdown(socket.SHUT_WR)
    for protocol in protocols:
        await protocol.ended.wait()
    await turns(300)  # more often than the kernel retries a request that is ready and cannot proceed


async def abort_all(protocols):
    for protocol in protocols:
        if not protocol.lost.is_set():
            protocol.transport.abort()
    for protocol in protocols:
        await protocol.lost.wait()


def close_all(socks):
    for sock in socks:
        sock.close()


async def many_clients(count, kind):
    protocols, peers = [], []
    n_before = kernel_workers()
    try:
        await half_closed(count, kind, protocols, peers)
        assert kernel_workers() == n_before
        assert all(protocol.transport.get_write_buffer_size() for protocol in protocols)
        assert await read_to_end_of(protocols[0], peers[0]) == ANSWER
        await abort_all(protocols)
        await until(lambda: all(is_at_end(peer) for peer in peers))
        assert kernel_workers() == n_before
    finally:
        close_all(peers)


async def read_to_end_of(protocol, peer):
    protocol.transport.close()
    data = await read_to_end(peer)
    await protocol.lost.wait()
    return data


def is_at_end(peer):
    try:
        while peer.recv(1 << 20):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    return True


@KINDS
async def test_clients_that_do_not_read_start_no_kernel_threads(kind):
    await many_clients(20, kind)


@KINDS
@pytest.mark.slow
async def test_a_thousand_clients_that_do_not_read_start_no_kernel_threads(kind):
    await many_clients(1000, kind)


@KINDS
async def test_the_end_of_the_request_may_arrive_while_the_answer_waits(kind):
    n_before = kernel_workers()
    async with open_transport(Answer(), kind=kind) as (transport, protocol, peer):
        transport.write(ANSWER)
        await turns(3)
        peer.shutdown(socket.SHUT_WR)
        await protocol.ended.wait()
        await turns(300)
        assert kernel_workers() == n_before
        transport.close()
        assert await read_to_end(peer) == ANSWER + ANSWER


@KINDS
async def test_the_loop_sleeps_while_the_answer_waits(kind):
    loop = asyncio.get_running_loop()
    if not hasattr(loop, "statistics"):
        pytest.skip("stock asyncio does not count its turns")
    async with open_transport(Answer(), kind=kind) as (_transport, protocol, peer):
        peer.shutdown(socket.SHUT_WR)
        await protocol.ended.wait()
        await turns(3)
        n_before = loop.statistics()["turns"]
        await asyncio.sleep(0.05)
        assert loop.statistics()["turns"] - n_before < 20


@KINDS
def test_a_run_ends_at_once_while_the_answer_waits(loop, kind):
    protocols, peers = [], []
    loop.run_until_complete(half_closed(5, kind, protocols, peers))
    one_turn(loop)
    size = protocols[0].transport.get_write_buffer_size()
    assert size
    received = bytearray()

    def more():
        with_data = peers[0].recv(1 << 20) if can_read(peers[0]) else b""
        received.extend(with_data)
        return len(received) == len(ANSWER)

    turn_until(loop, more)
    assert received == ANSWER
    loop.run_until_complete(abort_all(protocols))
    close_all(peers)


def can_read(peer):
    try:
        return bool(peer.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False


@KINDS
def test_an_answer_that_waits_is_sent_by_another_thread(loop, kind):
    protocols, peers = [], []

    def begin():
        asyncio.set_event_loop(loop)
        loop.run_until_complete(half_closed(1, kind, protocols, peers))
        asyncio.set_event_loop(None)

    thread = threading.Thread(target=begin)
    thread.start()
    thread.join()
    assert loop.run_until_complete(read_to_end_of(protocols[0], peers[0])) == ANSWER
    close_all(peers)


@KINDS
async def test_a_reset_ends_a_half_closed_connection(kind):
    async with open_transport(Answer(), kind=kind) as (_transport, protocol, peer):
        peer.shutdown(socket.SHUT_WR)
        await protocol.ended.wait()
        await turns(3)
        if kind == "tcp":
            reset_on_close(peer)
        peer.close()
        await protocol.lost.wait()
        assert isinstance(protocol.error, ConnectionResetError | BrokenPipeError)


@KINDS
async def test_a_peer_that_stops_reading_for_good_starts_no_kernel_thread(kind):
    n_before = kernel_workers()
    async with open_transport(Answer(), kind=kind) as (transport, protocol, peer):
        transport.write(ANSWER)
        await turns(3)
        peer.shutdown(socket.SHUT_RD)
        await turns(300)
        assert kernel_workers() == n_before
        assert not protocol.lost.is_set()  # the kernel wakes a writer only when there is room


@KINDS
async def test_shutdown_of_the_transports_socket_ends_the_connection(kind):
    async with open_transport(Answer(), kind=kind) as (transport, protocol, peer):
        peer.shutdown(socket.SHUT_WR)
        await protocol.ended.wait()
        await turns(3)
        transport.get_extra_info("socket")._sock.shutdown(socket.SHUT_RDWR)
        await protocol.lost.wait()
        assert protocol.error.errno == errno.EPIPE


@KINDS
async def test_data_reaches_a_half_closed_client_as_room_appears(kind):
    """Room appears piece by piece, and each piece is used."""
    async with open_transport(Answer(), kind=kind) as (transport, protocol, peer):
        filled = fill(transport.get_extra_info("socket")._sock)
        peer.shutdown(socket.SHUT_WR)
        await protocol.ended.wait()
        transport.close()
        data = await read_to_end(peer)
        assert data[filled:] == ANSWER
        await protocol.lost.wait()
        assert protocol.error is None


# Writers of the program


def unacknowledged(sock):
    """How many segments of what was sent to a TCP peer are not acknowledged (tcpi_unacked)."""
    return struct.unpack_from("I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104), 24)[0]


async def fill_for_good(kind, sock):
    """Like fill(), but also waits for acknowledgements on their way, which would make room again."""
    count = 0
    while n_sent := fill(sock):
        count += n_sent
        if kind == "tcp":
            await until(lambda: not unacknowledged(sock))
    return count


@KINDS
async def test_a_writer_that_waits_for_room_costs_nothing_and_is_called(kind):
    loop = asyncio.get_running_loop()
    near, peer = socketpair(kind)
    near.setblocking(False)
    shrink_buffers(near, peer, count=1 << 16)  # otherwise TCP enlarges them later, and there is room again
    filled = await fill_for_good(kind, near)
    peer.shutdown(socket.SHUT_WR)
    calls = []
    try:
        loop.add_writer(near, calls.append, None)
        for _ in range(2):
            await turns(3)
            if hasattr(loop, "statistics"):
                n_before = loop.statistics()["turns"]
                await asyncio.sleep(0.05)
                assert loop.statistics()["turns"] - n_before < 20
            assert not calls
            peer.setblocking(False)
            while filled:
                filled -= len(await loop.sock_recv(peer, 1 << 20))
            await until(lambda: len(calls) >= 3)  # as long as there is room
            filled = await fill_for_good(kind, near)
            await turns(3)
            calls.clear()
        assert loop.remove_writer(near)
        peer.setblocking(True)
    finally:
        near.close()
        peer.close()


@KINDS
async def test_sock_sendall_to_a_half_closed_client_sends_everything(kind):
    loop = asyncio.get_running_loop()
    near, peer = socketpair(kind)
    near.setblocking(False)
    peer.shutdown(socket.SHUT_WR)
    sending = loop.create_task(loop.sock_sendall(near, ANSWER))
    try:
        await turns(3)
        assert not sending.done()
        peer.setblocking(False)
        received = bytearray()
        while len(received) < len(ANSWER):
            received += await loop.sock_recv(peer, 1 << 20)
        await sending
        assert received == ANSWER
    finally:
        near.close()
        peer.close()

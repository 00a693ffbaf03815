"""Protocols that pause in each call, and loops that read at the same time: data arrives whole and in order."""

import contextlib
import threading

import pytest
from support.connections import KINDS
from support.helpers import (
    BufferedRecorder,
    Recorder,
    connect_unshared,
    open_transport,
    pattern,
    run,
    socketpair,
    turn_until,
    until,
)

# Protocols that pause in the middle


class PausingBuffered(BufferedRecorder):
    """Takes pieces that are smaller than what the loop reads, and pauses after each."""

    def __init__(self):
        super().__init__(9000)
        self.is_paused = False

    def get_buffer(self, size_hint):
        assert not self.is_paused
        return super().get_buffer(size_hint)

    def buffer_updated(self, count):
        super().buffer_updated(count)
        self.is_paused = True
        self.transport.pause_reading()


class Pausing(Recorder):
    is_paused = False

    def data_received(self, data):
        assert not self.is_paused
        super().data_received(data)
        self.is_paused = True
        self.transport.pause_reading()


@KINDS
@pytest.mark.parametrize("make", [PausingBuffered, Pausing])
async def test_much_data_arrives_in_order_although_reading_is_paused_in_every_turn(kind, make):
    data = memoryview(pattern(2_000_000))
    n_sent = 0
    async with open_transport(make(), kind=kind) as (transport, protocol, peer):
        while len(protocol.data) < len(data):
            with contextlib.suppress(BlockingIOError):
                n_sent += peer.send(data[n_sent : n_sent + 500_000])
            protocol.is_paused = False
            transport.resume_reading()
            before = len(protocol.data)
            await until(lambda before=before: len(protocol.data) > before)
        assert protocol.data == data
        peer.close()
        protocol.is_paused = False
        transport.resume_reading()
        await protocol.lost.wait()
        assert protocol.calls[-2:] == ["eof_received", "connection_lost"]


# Two loops


class Meddling(BufferedRecorder):
    """Calls `meddle` once in get_buffer, when the bytes are read but not yet copied."""

    meddle = None

    def get_buffer(self, size_hint):
        meddle, self.meddle = self.meddle, None
        if meddle is not None:
            meddle()
        return super().get_buffer(size_hint)


@KINDS
@pytest.mark.parametrize("make", [Recorder, BufferedRecorder])
def test_a_loop_that_reads_in_another_thread_leaves_a_buffered_protocols_bytes_alone(new_loop, kind, make):
    loops = [new_loop(), new_loop()]
    protocols = [Meddling(), make()]
    peers = []
    for loop, protocol in zip(loops, protocols, strict=True):
        near, peer = socketpair(kind)
        run(loop, connect_unshared(loop, lambda protocol=protocol: protocol, near))
        peers.append(peer)

    def meddle():
        """The second loop reads in a thread of its own while the first one waits inside get_buffer."""
        peers[1].send(b"B" * 1000)
        thread = threading.Thread(
            target=turn_until, args=(loops[1], lambda: len(protocols[1].data) == 1000), daemon=True
        )
        thread.start()
        thread.join(20)
        assert not thread.is_alive(), "the other loop hangs"

    protocols[0].meddle = meddle
    peers[0].send(b"A" * 1000)
    turn_until(loops[0], lambda: len(protocols[0].data) == 1000)
    assert protocols[0].data == b"A" * 1000
    assert protocols[1].data == b"B" * 1000
    for loop, protocol, peer in zip(loops, protocols, peers, strict=True):
        peer.close()
        protocol.transport.abort()
        turn_until(loop, protocol.lost.is_set)

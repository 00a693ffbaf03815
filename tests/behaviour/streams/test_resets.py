"""A reset is not reported as end of file, however it is found."""

import socket

import pytest
from support.helpers import Recorder, open_transport, reset_on_close, shrink_buffers, turns, until


class KeepingOpen(Recorder):
    keep_open = True


@pytest.mark.parametrize("n_bytes", [1, 100_000])
@pytest.mark.parametrize("with_data", [False, True], ids=["", "after_data"])
async def test_a_reset_found_by_a_write_is_not_reported_as_eof(n_bytes, with_data):
    for _ in range(50):
        async with open_transport(KeepingOpen()) as (transport, protocol, peer):
            if with_data:
                peer.send(b"data")
                await protocol.received(4)
            reset_on_close(peer)
            peer.close()
            transport.write(b"x" * n_bytes)
            await protocol.lost.wait()
            assert isinstance(protocol.error, ConnectionError)
            assert "eof_received" not in protocol.calls


async def test_a_reset_caused_by_unread_data_is_not_reported_as_eof():
    for _ in range(50):
        async with open_transport(KeepingOpen()) as (transport, protocol, peer):
            transport.write(b"never read")
            await until(lambda peer=peer: is_readable(peer))
            peer.close()
            transport.write(b"x")
            await protocol.lost.wait()
            assert isinstance(protocol.error, ConnectionError)
            assert "eof_received" not in protocol.calls


def is_readable(sock):
    try:
        return bool(sock.recv(1, socket.MSG_PEEK))
    except BlockingIOError:
        return False


async def test_a_reset_found_by_a_waiting_send_is_not_reported_as_eof():
    for _ in range(20):
        async with open_transport(KeepingOpen()) as (transport, protocol, peer):
            sock = transport.get_extra_info("socket")
            shrink_buffers(peer)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
            transport.write(bytes(1_000_000))
            await turns(5)
            assert transport.get_write_buffer_size() > 0
            reset_on_close(peer)
            peer.close()
            await protocol.lost.wait()
            assert isinstance(protocol.error, ConnectionError)
            assert "eof_received" not in protocol.calls

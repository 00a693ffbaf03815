"""Rules of the data plane: close() closes in time, and only the transport's own reference to the file."""

import asyncio
import contextlib
import gc
import os
import socket
import threading

import pytest
from support import helpers
from support.connections import KINDS, connect, end
from support.helpers import (
    STOCK,
    Datagrams,
    Recorder,
    close_with_open_transport,
    connect_unshared,
    monitor_of,
    one_turn,
    open_transport,
    read_to_end,
    reset_on_close,
    run,
    run_script,
    socketpair,
    tcp_socketpair,
    turns,
    wait_until,
)

# Closed is closed


@KINDS
@pytest.mark.parametrize("how", ["close", "abort"])
async def test_the_peer_sees_the_end_no_later_than_with_asyncio(kind, how):
    """connection_lost is called in the next turn, and the descriptor is closed right after it."""
    async with open_transport(kind=kind) as (transport, protocol, peer):
        await turns(3)
        getattr(transport, how)()
        await protocol.lost.wait()
        await turns(1)
        assert await read_to_end(peer) == b""


@KINDS
def test_the_peer_sees_the_end_although_the_loop_stops_right_after_close(loop, kind):
    protocol, peer = connect(loop, kind)
    protocol.transport.close()
    one_turn(loop)
    one_turn(loop)
    assert protocol.lost.is_set()
    assert peer.recv(10) == b""
    end(loop, protocol, peer)


@KINDS
def test_the_peer_sees_the_end_when_the_loop_is_closed_with_open_transports(new_loop, kind):
    loop = new_loop()
    protocol, peer = connect(loop, kind)
    with pytest.warns(ResourceWarning):
        close_with_open_transport(loop, protocol)
    assert peer.recv(10) == b""
    peer.close()


@KINDS
def test_data_written_after_the_loop_was_closed_is_sent(new_loop, kind):
    loop = new_loop()
    protocol, peer = connect(loop, kind)
    loop.close()
    protocol.transport.write(b"late")
    protocol.transport.writelines([b"r", b"!"])
    assert peer.recv(4) == b"late"
    assert peer.recv(10) in (b"r!", b"r")
    with pytest.warns(ResourceWarning):
        close_with_open_transport(loop, protocol)
    peer.close()


def test_a_datagram_sent_after_the_loop_was_closed_arrives(new_loop):
    loop = new_loop()
    receiver = socket.socket(type=socket.SOCK_DGRAM)
    receiver.bind(("127.0.0.1", 0))
    receiver.settimeout(10)
    _, protocol = run(loop, loop.create_datagram_endpoint(Datagrams, ("127.0.0.1", 0)))
    del _
    loop.close()
    protocol.transport.sendto(b"late", receiver.getsockname())
    assert receiver.recv(10) == b"late"
    receiver.close()
    with pytest.warns(ResourceWarning):
        close_with_open_transport(loop, protocol)


def test_a_closed_listener_accepts_nothing_although_the_loop_stops(loop):
    server = run(loop, loop.create_server(Recorder, "127.0.0.1", 0))
    address = server.sockets[0].getsockname()
    one_turn(loop)
    server.close()
    one_turn(loop)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


def test_a_listener_of_a_closed_loop_accepts_nothing(new_loop):
    loop = new_loop()
    server = run(loop, loop.create_server(Recorder, "127.0.0.1", 0))
    address = server.sockets[0].getsockname()
    server.close()
    loop.close()
    del server
    gc.collect()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


async def test_a_shared_listener_survives_the_servers_close():
    """No shutdown(): it would stop the other owner's listener as well."""
    listener = socket.create_server(("127.0.0.1", 0))
    other = listener.dup()
    server = await asyncio.get_running_loop().create_server(Recorder, sock=listener)
    await turns(3)
    server.close()
    await turns(3)
    assert listener.fileno() == -1
    other.settimeout(10)
    with socket.create_connection(other.getsockname()) as client:
        accepted, address = other.accept()
        assert address == client.getsockname()
        accepted.close()
    other.close()


def test_a_listener_shared_with_a_child_survives_the_servers_close(monitor):
    run_script(
        """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        listener = socket.create_server(("127.0.0.1", 0))
        address = listener.getsockname()
        go_read, go_write = os.pipe()
        pid = os.fork()
        if not pid:
            os.read(go_read, 1)          # the parent has closed its copy
            listener.settimeout(10)
            accepted, _ = listener.accept()
            accepted.sendall(b"from the child")
            accepted.close()
            os._exit(0)

        async def main():
            server = await asyncio.get_running_loop().create_server(Recorder, sock=listener)
            await turns(3)
            server.close()
            await turns(3)

        loop = make_loop(MONITOR)
        loop.run_until_complete(main())
        loop.close()
        os.write(go_write, b"x")
        with socket.create_connection(address) as client:
            client.settimeout(10)
            assert client.recv(100) == b"from the child"
        assert os.waitpid(pid, 0)[1] == 0
        """,
        monitor,
    )


@KINDS
@pytest.mark.parametrize("how", ["close", "abort"])
async def test_a_duplicated_stream_stays_open_after_the_transports_close(kind, how):
    loop = asyncio.get_running_loop()
    near, peer = socketpair(kind)
    peer.settimeout(10)
    duplicate = near.dup()
    transport, protocol = await connect_unshared(loop, Recorder, near)
    await turns(3)
    getattr(transport, how)()
    await protocol.lost.wait()
    await turns(3)
    duplicate.sendall(b"still open")
    assert peer.recv(100) == b"still open"
    peer.sendall(b"both ways")
    duplicate.settimeout(10)
    assert duplicate.recv(100) == b"both ways"
    duplicate.close()
    peer.close()


async def test_abort_with_linger_zero_still_sends_a_reset():
    for _ in range(5):
        near, peer = tcp_socketpair()
        peer.settimeout(10)
        reset_on_close(near)
        transport, protocol = await connect_unshared(asyncio.get_running_loop(), Recorder, near)
        await turns(3)
        transport.write(bytes(20_000_000))
        transport.abort()
        await protocol.lost.wait()
        await turns(1)
        with pytest.raises(ConnectionResetError):
            while peer.recv(1 << 20):
                pass
        peer.close()


async def test_the_number_of_a_closed_connection_can_be_reused_at_once():
    """A late completion of the old connection must not reach the new one with the same number."""
    loop = asyncio.get_running_loop()
    for number in range(50):
        near, peer = socketpair("unix")
        transport, protocol = await connect_unshared(loop, Recorder, near)
        await turns(number % 3)
        peer.send(b"old")
        transport.abort()
        await turns(1)
        after, other = socketpair("unix")
        _, fresh = await loop.create_connection(Recorder, sock=after)
        other.send(b"new")
        assert await fresh.received(3) == b"new"
        await protocol.lost.wait()
        assert protocol.data in (b"", b"old")
        for sock in (peer, other):
            sock.close()
        await fresh.lost.wait()


# When descriptors run out


@pytest.mark.slow
def test_accept_recovers_once_there_are_descriptors_again(monitor):
    run_script(
        """
        import resource

        async def main():
            loop = asyncio.get_running_loop()
            errors, protocols = [], []
            loop.set_exception_handler(lambda loop, context: errors.append(context["exception"].errno))
            def factory():
                protocols.append(Recorder())
                return protocols[-1]
            # The limit is set before the server starts: an accept in flight keeps the one it started with.
            limit = max(map(int, os.listdir("/proc/self/fd"))) + 16
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
            server = await loop.create_server(factory, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            clients = [socket.socket() for _ in range(3)]
            taken = []
            try:
                while True:
                    taken.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                pass
            for client in clients:
                client.connect(address)
            await until(lambda: errors)
            import errno
            assert set(errors) == {errno.EMFILE}, errors
            count = len(errors)
            await asyncio.sleep(0.2)
            assert len(errors) <= count + 1, "accept is tried again without a pause"
            assert not protocols
            for fd in taken:
                os.close(fd)
            await until(lambda: sum(protocol.connected.is_set() for protocol in protocols) == 3)
            for client in clients:
                client.send(b"alive")
            for protocol in protocols:
                await protocol.received(5)
            for client in clients:
                client.close()
            for protocol in protocols:
                await protocol.lost.wait()
            server.close()
            await turns(3)

        loop = make_loop(MONITOR)
        loop.run_until_complete(main())
        loop.close()
        """,
        monitor,
    )


def test_a_server_can_be_closed_while_it_waits_for_descriptors(monitor):
    run_script(
        """
        import resource

        async def main():
            loop = asyncio.get_running_loop()
            errors = []
            loop.set_exception_handler(lambda loop, context: errors.append(context["message"]))
            limit = max(map(int, os.listdir("/proc/self/fd"))) + 16
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            server = await loop.create_server(Recorder, "127.0.0.1", 0)
            client = socket.socket()
            taken = []
            try:
                while True:
                    taken.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                pass
            client.connect(server.sockets[0].getsockname())
            await until(lambda: errors)
            server.close()
            await turns(3)
            for fd in taken:
                os.close(fd)
            client.close()

        loop = make_loop(MONITOR)
        loop.run_until_complete(main())
        loop.close()
        """,
        monitor,
    )


# Loops that never ran, or ran in another thread


def test_a_loop_with_readers_that_never_ran_is_closed_without_trouble(new_loop):
    loop = new_loop()
    near, far = socket.socketpair()
    loop.add_reader(near, print)
    loop.add_writer(near, print)
    loop.call_later(1000, print)
    loop.call_soon(print)
    loop.call_soon_threadsafe(print)
    loop.close()
    near.close()
    far.close()


def test_a_loop_that_ran_in_a_thread_with_live_connections_is_closed_here(new_loop):
    loop = new_loop()
    near, peer = socketpair("tcp")
    peer.settimeout(10)
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    protocol = Recorder()

    async def main():
        await connect_unshared(loop, lambda: protocol, near)
        server = await loop.create_server(Recorder, sock=listener)
        await turns(5)
        protocol.transport.write(b"hello")
        return server

    thread = threading.Thread(target=lambda: servers.append(run(loop, main())))
    servers = []
    thread.start()
    thread.join()
    assert peer.recv(10) == b"hello"
    servers.pop().close()
    with pytest.warns(ResourceWarning):
        close_with_open_transport(loop, protocol)
    assert peer.recv(10) == b""
    if (
        helpers.glib_is_outer
    ):  # nothing reported the end of the thread: the kernel releases the fd a little later
        wait_until(lambda: is_refused(address))
    assert is_refused(address)
    peer.close()


def is_refused(address):
    try:
        socket.create_connection(address).close()
    except ConnectionRefusedError:
        return True
    return False


def test_pending_sock_recv_does_not_outlive_its_loop(new_loop):
    loop = new_loop()
    near, far = socket.socketpair()
    near.setblocking(False)
    task = loop.create_task(loop.sock_recv(near, 10))
    one_turn(loop)
    one_turn(loop)
    task.cancel()
    one_turn(loop)
    loop.close()
    near.close()
    far.settimeout(10)
    assert far.recv(10) == b""
    far.close()


async def test_a_transport_whose_descriptor_the_program_closed_leaves_no_handler():
    """It waits in both directions: the kernel refuses the first change, and the end must still remove the handler."""
    loop = asyncio.get_running_loop()
    near, peer = socketpair("tcp")
    protocol = Recorder()
    transport, _ = await loop.create_connection(lambda: protocol, sock=near)
    await turns(2)
    before = loop.statistics()["handlers"] if monitor_of(loop) != STOCK else 0
    transport.write(bytes(10_000_000))
    await turns(2)
    assert transport.get_write_buffer_size()
    os.close(near.detach())
    with contextlib.suppress(OSError):
        transport.pause_reading()
    with contextlib.suppress(OSError):
        transport.abort()
    transport.abort()
    await turns(3)
    peer.close()
    if monitor_of(loop) != STOCK:
        assert protocol.lost.is_set()
        assert loop.statistics()["handlers"] == before - (monitor_of(loop) != "io_uring")

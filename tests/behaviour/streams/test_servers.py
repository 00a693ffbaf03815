"""Servers: serving, closing, and what happens to the clients."""

import asyncio
import gc
import os
import socket
import sys

import pytest
from support.helpers import Recorder, run_script, turns, until


async def connect(server, number=0):
    transport, protocol = await asyncio.get_running_loop().create_connection(
        Recorder, *server.sockets[number].getsockname()[:2]
    )
    return transport, protocol


async def make(**kwargs):
    """(server, protocols)"""
    protocols = []

    def factory():
        protocols.append(Recorder())
        return protocols[-1]

    server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0, **kwargs)
    return server, protocols


async def close_all(server, *protocols):
    server.close()
    for protocol in protocols:
        if protocol.transport is not None:
            protocol.transport.abort()
            await protocol.lost.wait()
    await turns(5)


async def test_server_is_an_instance_of_asyncios_classes():
    server, _ = await make()
    assert isinstance(server, asyncio.AbstractServer)
    assert isinstance(server, asyncio.Server)
    assert server.get_loop() is asyncio.get_running_loop()
    await close_all(server)


async def test_is_serving_and_sockets_show_the_state():
    server, _ = await make()
    assert server.is_serving()
    assert len(server.sockets) == 1
    assert isinstance(server.sockets[0], asyncio.trsock.TransportSocket)
    server.close()
    assert not server.is_serving()
    assert server.sockets == ()
    server.close()
    await server.wait_closed()


async def test_start_serving_starts_a_server_made_with_start_serving_false():
    server, protocols = await make(start_serving=False)
    assert not server.is_serving()
    with pytest.raises(ConnectionRefusedError):
        await connect(server)
    await server.start_serving()
    await server.start_serving()
    assert server.is_serving()
    _, client = await connect(server)
    await until(lambda: protocols)
    await close_all(server, client, *protocols)


async def test_the_context_manager_closes():
    server, _ = await make()
    async with server as entered:
        assert entered is server
    assert not server.is_serving()


async def test_closed_server_accepts_nothing():
    server, _ = await make()
    address = server.sockets[0].getsockname()
    server.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.get_running_loop().create_connection(Recorder, *address)
    await server.wait_closed()


async def test_the_port_is_free_again_after_close():
    server, _ = await make()
    host, port = server.sockets[0].getsockname()
    server.close()
    await server.wait_closed()
    again = await asyncio.get_running_loop().create_server(Recorder, host, port)
    await close_all(again)


async def test_the_port_is_free_as_soon_as_close_returns():
    server, protocols = await make()
    address = server.sockets[0].getsockname()
    for number in range(3):
        _, client = await connect(server)
        await until(lambda number=number: len(protocols) > number and protocols[number].transport)
        protocols[number].transport.abort()
        await client.lost.wait()
    server.close()
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(address)
        again.listen()
    await turns(5)


async def test_a_port_in_use_raises_and_names_the_address():
    server, _ = await make()
    host, port = server.sockets[0].getsockname()
    with pytest.raises(OSError, match=str(port)):
        await asyncio.get_running_loop().create_server(Recorder, host, port)
    await close_all(server)


async def test_connections_outlive_the_server():
    server, protocols = await make()
    transport, client = await connect(server)
    await until(lambda: protocols)
    server.close()
    await turns(3)
    transport.write(b"still here")
    assert await protocols[0].received(10) == b"still here"
    await close_all(server, client, *protocols)


async def test_wait_closed_waits_as_long_as_in_this_version_of_python():
    server, protocols = await make()
    _, client = await connect(server)
    await until(lambda: protocols and protocols[0].connected.is_set())
    server.close()
    waiting = asyncio.ensure_future(server.wait_closed())
    await turns(5)
    if sys.version_info >= (3, 12, 1):
        assert not waiting.done()
        client.transport.close()
        await waiting
    else:
        assert waiting.done()
        client.transport.close()
    await client.lost.wait()
    await protocols[0].lost.wait()


@pytest.mark.skipif(sys.version_info < (3, 12, 1), reason="wait_closed returned at once before Python 3.12.1")
async def test_wait_closed_waits_for_close_even_without_clients():
    server, _ = await make()
    waiting = asyncio.ensure_future(server.wait_closed())
    await turns(5)
    assert not waiting.done()
    server.close()
    await waiting


async def serve_one(server, protocols):
    """A client comes and goes."""
    n_before = len(protocols)
    _, client = await connect(server)
    await until(lambda: len(protocols) > n_before and protocols[-1].connected.is_set())
    client.transport.abort()
    await protocols[-1].lost.wait()
    await turns(3)


@pytest.mark.parametrize("name", ["_attach", "_detach"])
async def test_the_methods_with_which_a_server_counts_may_be_replaced(monkeypatch, name):
    """Tools that count the connections of each server do that, also while it serves."""
    server, protocols = await make()
    await serve_one(server, protocols)
    plain, calls = getattr(asyncio.Server, name), []
    monkeypatch.setattr(asyncio.Server, name, lambda self, *args: calls.append(self) or plain(self, *args))
    await serve_one(server, protocols)
    assert set(calls) == {server}
    monkeypatch.undo()
    n_calls = len(calls)
    await serve_one(server, protocols)
    assert len(calls) == n_calls
    server.close()
    await server.wait_closed()


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="since Python 3.13 a server has a set of connections")
async def test_a_connection_that_the_server_does_not_count_is_reported():
    loop = asyncio.get_running_loop()
    seen = []
    loop.set_exception_handler(lambda _loop, context: seen.append(type(context["exception"])))
    server, protocols = await make()
    _, client = await connect(server)
    await until(lambda: protocols and protocols[0].connected.is_set())
    server._active_count = 0
    client.transport.abort()
    await protocols[0].lost.wait()
    await turns(3)
    assert seen == [AssertionError]
    assert server._active_count == 0
    server.close()


async def test_a_closed_server_waits_for_its_last_connection():
    server, protocols = await make()
    clients = [await connect(server) for _ in range(2)]
    await until(lambda: len(protocols) == 2 and protocols[1].connected.is_set())
    waiting = asyncio.ensure_future(server.wait_closed())
    await turns(1)  # in Python 3.11 it does not wait after close()
    server.close()
    for transport, _ in clients:
        await turns(5)
        assert not waiting.done()
        transport.abort()
    await waiting


@pytest.mark.skipif(sys.version_info < (3, 13), reason="close_clients is new in Python 3.13")
async def test_close_clients_closes_but_sends_unsent_data():
    server, protocols = await make()
    _, client = await connect(server)
    await until(lambda: protocols and protocols[0].connected.is_set())
    protocols[0].transport.write(b"bye" * 1000)
    server.close()
    server.close_clients()
    await server.wait_closed()
    await client.lost.wait()
    assert client.data == b"bye" * 1000
    assert client.error is None
    assert protocols[0].calls[-1] == "connection_lost"


@pytest.mark.skipif(sys.version_info < (3, 13), reason="abort_clients is new in Python 3.13")
async def test_abort_clients_drops_unsent_data():
    server, protocols = await make()
    _, client = await connect(server)
    client.transport.pause_reading()
    await until(lambda: protocols and protocols[0].connected.is_set())
    protocols[0].transport.write(bytes(1 << 24))
    server.close()
    server.abort_clients()
    await server.wait_closed()
    assert protocols[0].lost.is_set()
    client.transport.resume_reading()
    await client.lost.wait()
    assert len(client.data) < 1 << 24


async def test_serve_forever_ends_with_cancel_and_closes_the_server():
    server, _ = await make(start_serving=False)
    task = asyncio.ensure_future(server.serve_forever())
    await turns(3)
    assert server.is_serving()
    with pytest.raises(RuntimeError, match="already"):
        await server.serve_forever()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not server.is_serving()
    with pytest.raises(RuntimeError, match="closed"):
        await server.serve_forever()


async def test_serve_forever_ends_when_the_server_is_closed():
    server, _ = await make()
    task = asyncio.ensure_future(server.serve_forever())
    await turns(3)
    server.close()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_several_hosts_make_several_sockets():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Recorder, ["127.0.0.1", "127.0.0.2"], 0)
    assert {sock.getsockname()[0] for sock in server.sockets} == {"127.0.0.1", "127.0.0.2"}
    clients = [await connect(server, number) for number in range(2)]
    await turns(10)
    server.close()
    for transport, protocol in clients:
        transport.abort()
        await protocol.lost.wait()
    await turns(10)


async def test_a_given_socket_is_used():
    sock = socket.create_server(("127.0.0.1", 0))
    server = await asyncio.get_running_loop().create_server(Recorder, sock=sock)
    assert server.sockets[0].fileno() == sock.fileno()
    await close_all(server)
    assert sock.fileno() == -1


async def test_contradictory_arguments_are_refused():
    loop = asyncio.get_running_loop()
    with pytest.raises(ValueError):
        await loop.create_server(Recorder)
    with socket.socket() as sock:
        with pytest.raises(ValueError):
            await loop.create_server(Recorder, "127.0.0.1", 0, sock=sock)
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        with pytest.raises(ValueError):
            await loop.create_server(Recorder, sock=sock)
    with pytest.raises(TypeError):
        await loop.create_server(Recorder, "127.0.0.1", 0, ssl=True)
    with pytest.raises(ValueError):
        await loop.create_server(Recorder, "127.0.0.1", 0, ssl_handshake_timeout=1)


async def test_reuse_port_lets_two_servers_listen():
    first, one = await make(reuse_port=True)
    host, port = first.sockets[0].getsockname()
    second = await asyncio.get_running_loop().create_server(Recorder, host, port, reuse_port=True)
    await close_all(second)
    await close_all(first, *one)


@pytest.mark.skipif(sys.version_info < (3, 13), reason="keep_alive is new in Python 3.13")
async def test_keep_alive_is_set():
    server, _ = await make(keep_alive=True)
    assert server.sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    await close_all(server)


async def test_a_burst_of_clients_is_accepted():
    server, protocols = await make(backlog=200)
    address = server.sockets[0].getsockname()
    socks = [socket.create_connection(address) for _ in range(150)]
    await until(lambda: len([protocol for protocol in protocols if protocol.connected.is_set()]) == 150)
    for number, sock in enumerate(socks):
        sock.sendall(b"%03d" % number)
    await until(lambda: all(len(protocol.data) == 3 for protocol in protocols))
    assert {bytes(protocol.data) for protocol in protocols} == {b"%03d" % number for number in range(150)}
    for sock in socks:
        sock.close()
    for protocol in protocols:
        await protocol.lost.wait()
    await close_all(server)


async def test_a_burst_after_single_clients_is_accepted_in_a_few_turns():
    """A server that is used to one client at a time does not ask for a second each time, and learns quickly."""
    server, protocols = await make(backlog=200)
    address = server.sockets[0].getsockname()
    socks = []
    for _ in range(5):
        socks.append(socket.create_connection(address))
        await until(lambda: len(protocols) == len(socks) and protocols[-1].connected.is_set())
        await turns(5)
    socks += [socket.create_connection(address) for _ in range(60)]
    await turns(20)  # 1, 2, 4, 8, 16, 29 connections, and until the last are made
    assert len(protocols) == 65
    for sock in socks:
        sock.close()
    for protocol in protocols:
        await protocol.connected.wait()
        await protocol.lost.wait()
    await close_all(server)


async def test_client_that_resets_before_it_is_accepted_does_not_stop_the_server():
    from support.helpers import reset_on_close

    server, protocols = await make()
    address = server.sockets[0].getsockname()
    for _ in range(5):
        sock = socket.create_connection(address)
        reset_on_close(sock)
        sock.close()
    _, client = await connect(server)
    client.transport.write(b"x")
    await until(lambda: any(protocol.data for protocol in protocols))
    await until(lambda: sum(protocol.lost.is_set() for protocol in protocols) == len(protocols) - 1)
    await close_all(server, client, *protocols)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.expects_loop_errors
async def test_a_factory_that_returns_no_protocol_is_reported_only_in_debug_mode(debug, loop_errors):
    loop = asyncio.get_running_loop()
    made = []

    def factory():
        made.append(Recorder() if made else None)
        return made[-1]

    server = await loop.create_server(factory, "127.0.0.1", 0)
    loop.set_debug(debug)
    refused, accepted = [socket.create_connection(server.sockets[0].getsockname()) for _ in range(2)]
    await until(lambda: len(made) == 2 and made[1].transport)
    messages = [context["message"] for context in loop_errors]
    assert messages == (["Error on transport creation for incoming connection"] if debug else [])
    assert all(isinstance(context["exception"], AttributeError) for context in loop_errors)
    loop_errors.clear()
    gc.collect()  # stock asyncio leaves the unfinished transport to the collector
    refused.close()
    accepted.close()
    await made[1].lost.wait()
    await close_all(server)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_a_client_whose_factory_returns_no_protocol_gets_the_error():
    loop = asyncio.get_running_loop()
    server, _ = await make()
    with pytest.raises(AttributeError, match="connection_made"):
        await loop.create_connection(lambda: None, *server.sockets[0].getsockname())
    gc.collect()
    await close_all(server)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_protocol_factory_that_raises_is_reported_and_the_server_goes_on():
    loop = asyncio.get_running_loop()
    seen = []
    loop.set_exception_handler(lambda _loop, context: seen.append(type(context.get("exception"))))
    protocols = []

    def factory():
        if not protocols:
            protocols.append(None)
            raise ZeroDivisionError
        protocols.append(Recorder())
        return protocols[-1]

    server = await loop.create_server(factory, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    with socket.create_connection(address), socket.create_connection(address):
        await until(lambda: len(protocols) == 2 and protocols[1].connected.is_set())
    await protocols[1].lost.wait()
    await close_all(server)
    assert seen in ([ZeroDivisionError], [])  # stock asyncio reports it only in debug mode
    gc.collect()  # and leaves the accepted socket to the collector


async def test_listening_sockets_are_not_inheritable_and_do_not_block():
    server, _ = await make()
    fd = server.sockets[0].fileno()
    assert not os.get_inheritable(fd)
    assert not os.get_blocking(fd)
    await close_all(server)


async def test_accepted_sockets_are_not_inheritable_and_do_not_block():
    server, protocols = await make()
    for number in range(3):
        _, client = await connect(server)
        await until(lambda number=number: len(protocols) > number and protocols[number].transport)
        fd = protocols[number].transport.get_extra_info("socket").fileno()
        assert not os.get_inheritable(fd)
        assert not os.get_blocking(fd)
        client.transport.abort()
        await client.lost.wait()
    await close_all(server, *protocols)


async def test_repr_of_a_server():
    server, _ = await make()
    assert "Server" in repr(server)
    await close_all(server)


@pytest.mark.slow
def test_a_given_listener_is_shared_fairly_by_processes(monitor):
    """An armed ACCEPT is an exclusive waiter: with one, the first process would get every connection."""
    run_script(
        """
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)

        def serve():
            async def main():
                async def answer(reader, writer):
                    writer.write(b"%d" % os.getpid())
                    await writer.drain()
                    time.sleep(0.003)  # a request costs CPU time, so that the other process gets its share
                    writer.close()
                server = await asyncio.start_server(answer, sock=listener)
                await asyncio.to_thread(sys.stdin.buffer.read)  # until the parent is done
                server.close()
            run(make_loop(MONITOR), main())

        reading, writing = os.pipe()
        children = []
        for _ in range(2):
            child = os.fork()
            if not child:
                os.close(writing)
                os.dup2(reading, 0)
                serve()
                os._exit(0)
            children.append(child)
        answers = set()
        deadline = time.monotonic() + 10
        while len(answers) < 2 and time.monotonic() < deadline:
            peers = [socket.create_connection(listener.getsockname()) for _ in range(8)]
            answers.update(peer.recv(100) for peer in peers)
            for peer in peers:
                peer.close()
        os.close(writing)
        for child in children:
            os.waitpid(child, 0)
        assert answers == {b"%d" % child for child in children}, answers
        """,
        monitor,
    )


class Wrapper:
    """A listener like gunicorn's: not a socket, but with all attributes of one."""

    def __init__(self, sock):
        self.sock = sock

    def __getattr__(self, name):
        return getattr(self.sock, name)


async def test_a_listener_may_be_a_wrapper_of_a_socket():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        protocols = []
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: protocols.append(Recorder()) or protocols[-1], sock=Wrapper(sock)
        )
        transport, _ = await loop.create_connection(Recorder, *sock.getsockname())
        await until(lambda: protocols and protocols[0].transport is not None)
        transport.abort()
        await protocols[0].lost.wait()
        server.close()

"""asyncio's private names that programs use: views of what is queued, the loop's thread, names of classes."""

import asyncio
import socket
import threading
import unittest.mock

import pytest
from support import helpers
from support.helpers import (
    STOCK,
    Datagrams,
    Recorder,
    client_tls,
    monitor_of,
    one_turn,
    open_transport,
    run,
    server_tls,
    turns,
)

# _ready and _scheduled


def skip_inside_glib():
    if helpers.inside_glib:
        pytest.skip("inside GLib the main context runs the loop's turns: there is no _run_once()")


def test_a_drain_over_what_is_ready_and_scheduled_runs_it(loop):
    skip_inside_glib()
    hits = []
    loop.call_soon(hits.append, 1)
    loop.call_later(0.002, hits.append, 2)
    while loop._ready or loop._scheduled:
        loop._run_once()
    assert hits == [1, 2]
    assert (len(loop._ready), len(loop._scheduled)) == (0, 0)


def test_ready_is_what_the_next_turn_runs(loop):
    first = loop.call_soon(print, 1)
    second = loop.call_soon_threadsafe(print, 2)
    assert list(loop._ready) == [first, second]
    assert len(loop._ready) == 2
    assert loop._ready[0] is first
    assert loop._ready[-1] is second
    assert second in loop._ready
    assert loop.call_later(50, print) not in loop._ready
    first.cancel()
    second.cancel()
    one_turn(loop)
    assert not loop._ready


def test_in_a_callback_ready_is_what_comes_after_it(loop):
    skip_inside_glib()
    seen = []
    loop.call_soon(lambda: seen.append([handle._args for handle in loop._ready]))
    loop.call_soon(seen.append, 1)
    loop.call_soon(seen.append, 2, context=None)
    loop._run_once()
    assert seen == [[(1,), (2,)], 1, 2]


@pytest.mark.parametrize("count", [1, 200])
def test_scheduled_are_the_timers(loop, count):
    handles = [loop.call_later(100 + (number * 7) % count, print, number) for number in range(count)]
    scheduled = list(loop._scheduled)
    assert len(loop._scheduled) == count
    assert {id(handle) for handle in scheduled} == {id(handle) for handle in handles}
    assert loop._scheduled[0].when() == min(handle.when() for handle in handles)
    assert all(handle in loop._scheduled for handle in handles)
    assert all(isinstance(handle, asyncio.TimerHandle) for handle in loop._scheduled)
    for handle in loop._scheduled:  # as at the end of Home Assistant's tests
        if not handle.cancelled():
            assert handle._args
            handle.cancel()
    assert all(handle.cancelled() for handle in loop._scheduled)


def test_timers_can_be_fired_by_hand(loop):
    """As Home Assistant's async_fire_time_changed() does."""
    fired = []
    for number in range(3):
        loop.call_later(1000 * number + 1000, fired.append, number)
    horizon = loop.time() + 2500
    for handle in list(loop._scheduled):
        if not handle.cancelled() and handle.when() < horizon:
            handle._run()
            handle.cancel()
    assert sorted(fired) == [0, 1]
    for handle in list(loop._scheduled):
        handle.cancel()


def test_what_is_ready_and_scheduled_can_be_cleared(loop):
    hits = []
    loop.call_soon(hits.append, 1)
    loop.call_later(0, hits.append, 2)
    loop._ready.clear()
    loop._scheduled.clear()
    one_turn(loop)
    one_turn(loop)
    assert hits == []


def test_ready_callbacks_can_be_taken_and_given_back(loop):
    hits = []
    loop.call_soon(hits.append, 1)
    loop.call_soon(hits.append, 2)
    handle = loop._ready.popleft()
    assert handle._args == (1,)
    loop._ready.append(handle)
    one_turn(loop)
    assert hits == [2, 1]
    with pytest.raises(IndexError):
        loop._ready.popleft()


def test_unsupported_changes_of_ready_and_scheduled_raise(loop):
    if monitor_of(loop) == STOCK:
        pytest.skip("a deque and a list")
    with pytest.raises(AttributeError):
        loop._ready.rotate(1)
    with pytest.raises(AttributeError):
        loop._ready = []
    with pytest.raises(TypeError):
        loop._scheduled[0] = None


def test_a_closed_loop_has_nothing_that_is_ready_or_scheduled(new_loop):
    loop = new_loop()
    loop.call_soon(print)
    loop.call_later(100, print)
    loop.close()
    assert (list(loop._ready), list(loop._scheduled)) == ([], [])


# Other names of the loop


def test_the_thread_id_is_in_the_loops_dictionary(loop):
    async def main():
        return loop.__dict__["_thread_id"]

    assert run(loop, main()) == threading.get_ident()
    assert loop.__dict__["_thread_id"] is None


def test_the_selector_map_has_the_handles_of_reader_and_writer(loop):
    near, far = socket.socketpair()
    loop.add_reader(near, print, 1)
    loop.add_writer(near, print, 2)
    found = loop._selector.get_map()
    assert near.fileno() in list(found)
    key = found[near.fileno()]
    reader, writer = key.data
    assert (reader._args, writer._args) == ((1,), (2,))
    loop.remove_reader(near)
    loop.remove_writer(near)
    assert near.fileno() not in list(loop._selector.get_map())
    near.close()
    far.close()


# Transports


async def stream(**kwargs):
    """A transport and a function that ends it."""
    near, far = socket.socketpair()
    near.setblocking(False)
    protocol = Recorder()
    transport, _ = await asyncio.get_running_loop().create_connection(lambda: protocol, sock=near, **kwargs)

    async def end():
        far.close()
        transport.abort()
        await protocol.lost.wait()

    return transport, end


async def datagrams():
    protocol = Datagrams()
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: protocol, local_addr=("127.0.0.1", 0)
    )

    async def end():
        transport.abort()
        await protocol.lost.wait()

    return transport, end


async def secured():
    loop = asyncio.get_running_loop()
    accepted = Recorder()
    server = await loop.create_server(lambda: accepted, "127.0.0.1", 0, ssl=server_tls())
    protocol = Recorder()
    transport, _ = await loop.create_connection(
        lambda: protocol, *server.sockets[0].getsockname(), ssl=client_tls(), server_hostname="localhost"
    )
    await accepted.connected.wait()

    async def end():
        for side in (protocol, accepted):
            side.transport.abort()
            await side.lost.wait()
        server.close()
        await server.wait_closed()

    return transport, end


KINDS = pytest.mark.parametrize(
    ("make", "name"),
    [
        (stream, "_SelectorSocketTransport"),
        (datagrams, "_SelectorDatagramTransport"),
        (secured, "_SSLProtocolTransport"),
    ],
)


@KINDS
async def test_a_transport_has_the_name_of_asyncios_class(make, name):
    transport, end = await make()
    assert type(transport).__name__ == transport.__class__.__name__ == name
    assert name in repr(transport)
    stock = asyncio.sslproto if make is secured else asyncio.selector_events
    assert isinstance(transport, getattr(stock, name))
    await end()


@KINDS
@pytest.mark.parametrize("patched", ["asyncio.BaseTransport", "asyncio.Transport", "private"])
async def test_a_patched_get_extra_info_is_called(make, name, patched):
    """websockets' tests patch asyncio.Transport's; a TLS transport calls that of the transport below."""
    stock = getattr(asyncio.sslproto if make is secured else asyncio.selector_events, name)
    target = f"{stock.__module__}.{name}" if patched == "private" else patched
    transport, end = await make()
    real = transport.get_extra_info("sockname")
    with unittest.mock.patch(f"{target}.get_extra_info", return_value="mocked") as mocked:
        assert transport.get_extra_info("sockname") == "mocked"
        assert [call.args[0] for call in mocked.call_args_list] == ["sockname"]
    original = stock.get_extra_info

    def wrapper(self, key, default=None):
        return original(self, key, default), self

    with unittest.mock.patch.object(stock, "get_extra_info", wrapper):
        assert transport.get_extra_info("sockname") == (real, transport)
    assert transport.get_extra_info("sockname") == real
    assert transport.get_extra_info("nothing", 7) == 7
    await end()


async def test_private_attributes_of_a_stream_transport():
    async with open_transport() as (transport, _protocol, _peer):
        assert transport._server is None
        assert transport._eof is False
        transport.write_eof()
        assert transport._eof is True
        await turns(1)

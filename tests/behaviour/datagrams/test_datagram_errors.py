"""Datagram endpoints: what fails, where errors are reported, and what happens after the end."""

import asyncio
import contextvars
import socket

import pytest
from support.datagram_tools import Sender, everything, sending
from support.helpers import STOCK, monitor_of, turns


async def test_refused_datagrams_of_a_connected_endpoint_are_reported():
    """The next sendto() gets the error of a datagram; it is reported and the endpoint stays open."""
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        unused = sock.getsockname()
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(Sender, remote_addr=unused)
    for _ in range(6):
        transport.sendto(b"hello?")
    assert protocol.calls == ["ConnectionRefusedError"] * 3
    transport.abort()
    await protocol.lost.wait()


async def test_an_error_is_reported_before_connection_lost():
    async with sending() as (transport, protocol, far):
        transport.sendto(b"x", ("127.0.0.1", 0))
        transport.sendto(b"y", far.getsockname())
        transport.close()
        assert everything(far) == [b"y"]
        await protocol.lost.wait()
        assert protocol.calls == ["OSError", "lost"]


async def test_an_error_is_reported_in_the_context_of_the_sendto():
    variable = contextvars.ContextVar("variable", default="default")
    async with sending() as (transport, protocol, _):
        seen = []
        protocol.error_received = lambda error: seen.append(variable.get())
        variable.set("the sender's")
        transport.sendto(b"x", ("127.0.0.1", 0))
        variable.set("another")
        await turns(3)
        assert seen == ["the sender's"]


async def test_error_received_may_send_again_and_close():
    async with sending() as (transport, protocol, far):
        name = far.getsockname()

        def error_received(error):
            transport.sendto(b"shorter", name)
            transport.close()

        protocol.error_received = error_received
        transport.sendto(b"x", ("127.0.0.1", 0))
        await protocol.lost.wait()
        assert everything(far) == [b"shorter"]


async def test_an_error_received_that_raises_is_reported_for_each_error():
    """Each exception is reported; where it is raised depends on when asyncio sends."""
    async with sending() as (transport, protocol, _):
        loop = asyncio.get_running_loop()
        raised = []
        loop.set_exception_handler(lambda _loop, context: raised.append(type(context["exception"])))

        def error_received(error):
            raise ZeroDivisionError

        protocol.error_received = error_received
        for _ in range(2):
            try:
                transport.sendto(b"x", ("127.0.0.1", 0))
            except ZeroDivisionError:
                raised.append(ZeroDivisionError)
        await turns(4)
        assert raised == [ZeroDivisionError] * 2
        assert not transport.is_closing()


async def test_sends_after_the_end_are_counted_and_logged(caplog):
    async with sending() as (_, _, far):
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.create_datagram_endpoint(Sender, remote_addr=far.getsockname())
        transport.close()
        for _ in range(7):
            transport.sendto(b"x")
        await protocol.lost.wait()
        assert [record.message for record in caplog.records] == ["socket.send() raised exception."] * 3
        transport.sendto(b"x")
        assert everything(far) == []


async def test_sendto_on_a_closed_endpoint_does_nothing():
    loop = asyncio.get_running_loop()
    if monitor_of(loop) == STOCK:
        pytest.skip("stock asyncio raises AttributeError")
    async with sending() as (transport, protocol, far):
        transport.abort()
        await protocol.lost.wait()
        transport.sendto(b"x", far.getsockname())
        transport.close()
        transport.abort()
        assert everything(far) == []

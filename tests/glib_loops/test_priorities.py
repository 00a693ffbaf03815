"""Loops and GLib sources that are always ready run by priority and starve nothing."""

import asyncio
import os
import socket

import pytest

pytest.importorskip("gi", reason="PyGObject is not installed for this Python")
from gi.repository import GLib


@pytest.mark.parametrize("name", ["PRIORITY_DEFAULT_IDLE", "PRIORITY_LOW", "PRIORITY_DEFAULT"])
def test_a_busy_asyncio_starves_no_lower_priority(glib_loop, main_loop, name):
    def again():
        if main_loop.is_running():
            glib_loop.call_soon(again)

    GLib.idle_add(main_loop.quit, priority=getattr(GLib, name))
    glib_loop.call_soon(again)
    main_loop.run()


@pytest.mark.parametrize("name", ["PRIORITY_DEFAULT_IDLE", "PRIORITY_DEFAULT"])
def test_fds_that_are_always_ready_starve_no_lower_priority(glib_loop, main_loop, name):
    """For GLib a source with a ready fd is ready, whatever its check says."""
    pairs = [socket.socketpair() for _ in range(3)]
    for near, far in pairs:
        far.send(b"x")
        glib_loop.add_reader(near, len, b"")  # does not read
    for _ in range(3):
        GLib.idle_add(main_loop.quit, priority=getattr(GLib, name))
        main_loop.run()
    for near, far in pairs:
        assert glib_loop.remove_reader(near)
        near.close()
        far.close()


@pytest.mark.parametrize("name", ["PRIORITY_DEFAULT_IDLE", "PRIORITY_DEFAULT"])
def test_an_fd_with_a_permanent_hang_up_starves_no_lower_priority(glib_loop, main_loop, name):
    """poll() reports POLLHUP even if no event was requested."""
    reading, writing = os.pipe()
    os.close(writing)
    glib_loop.add_reader(reading, len, b"")  # does not handle the end
    for _ in range(3):
        GLib.idle_add(main_loop.quit, priority=getattr(GLib, name))
        main_loop.run()
    assert glib_loop.remove_reader(reading)
    os.close(reading)


def test_an_endless_echo_starves_no_lower_priority(glib_loop, main_loop):
    """GTK draws at a lower priority than that of the loop."""

    class Echo(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport
            transports.append(transport)

        def data_received(self, data):
            self.transport.write(data)

    async def begin():
        for _ in range(20):
            for sock in socket.socketpair():
                transport, _ = await glib_loop.create_connection(Echo, sock=sock)
            transport.write(b"x" * 1024)

    transports = []
    glib_loop.run_until_complete(begin())
    for _ in range(3):
        GLib.idle_add(main_loop.quit)
        main_loop.run()
    for transport in transports:
        transport.abort()
    glib_loop.run_until_complete(asyncio.sleep(0))


def test_a_busy_glib_of_the_same_priority_does_not_starve_asyncio(glib_loop, main_loop):
    source = GLib.idle_add(lambda: True, priority=GLib.PRIORITY_DEFAULT)
    glib_loop.call_later(0.01, main_loop.quit)
    main_loop.run()
    GLib.source_remove(source)


def test_priority_is_that_of_the_glib_source(new_glib_loop, main_loop):
    loop = new_glib_loop(priority=GLib.PRIORITY_LOW)
    order = []
    loop.call_soon(order.append, "asyncio")
    loop.call_soon(main_loop.quit)
    GLib.idle_add(order.append, "idle")
    main_loop.run()
    assert order == ["idle", "asyncio"]

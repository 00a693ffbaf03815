"""Loops and contexts that are attached to a GLib.MainContext and detached again, and what is refused."""

import asyncio
import os
import select
import socket
import subprocess
import sys
import textwrap
import threading

import pytest

pytest.importorskip("gi", reason="PyGObject is not installed for this Python")
from gi.repository import GLib

import uringloop
import uringloop.glib

from .common import echo_once


def test_a_loop_may_have_a_main_context_of_its_own(new_glib_loop):
    context = GLib.MainContext()
    loop = new_glib_loop(context)
    assert loop.run_until_complete(echo_once(b"x")) == b"x"
    loop.run_until_complete(loop.shutdown_default_executor())


def test_a_context_that_another_thread_owns_is_refused(monitor):
    context = GLib.MainContext()
    owned, over = threading.Event(), threading.Event()

    def own():
        context.acquire()
        owned.set()
        over.wait(10)
        context.release()

    thread = threading.Thread(target=own)
    thread.start()
    owned.wait(10)
    try:
        with pytest.raises(RuntimeError, match="another thread"):
            uringloop.glib.new_event_loop(context, fdmon=monitor)
    finally:
        over.set()
        thread.join()


def test_attaching_twice_is_refused(glib_loop):
    with pytest.raises(RuntimeError, match="attached"):
        uringloop.glib.attach(glib_loop.aio_context)


@pytest.mark.parametrize("wrong", [object(), 0, "default", GLib.MainLoop])
def test_other_objects_are_refused_as_main_context(monitor, wrong):
    with pytest.raises(TypeError, match=r"GLib\.MainContext"):
        uringloop.glib.new_event_loop(wrong, fdmon=monitor)
    with pytest.raises(TypeError, match=r"GLib\.MainContext"):
        uringloop.glib.GLibLoop(wrong, monitor, 0)
    loop = uringloop.new_event_loop(fdmon=monitor)
    with pytest.raises(TypeError, match=r"GLib\.MainContext"):
        uringloop.glib.Source(loop.aio_context, wrong, 0, None)
    loop.close()


def test_the_classes_load_glib_themselves(monitor):
    script = f"""
        import asyncio
        import uringloop.glib
        loop = uringloop.glib.GLibLoop(None, {monitor!r}, 0)
        assert loop.run_until_complete(asyncio.sleep(0, 5)) == 5
        loop.close()
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(script)], timeout=20).returncode == 0


def test_a_context_without_asyncio_is_attached_and_detached(monitor, main_loop):
    loop = uringloop.new_event_loop(fdmon=monitor)
    source = uringloop.glib.attach(loop.aio_context)
    loop.call_soon(main_loop.quit)
    main_loop.run()
    source.detach()
    assert not source.is_attached
    assert loop.run_until_complete(asyncio.sleep(0, 1)) == 1
    loop.close()


def test_without_pygobject_the_error_names_the_package_to_install(monitor):
    script = """
        import sys
        sys.modules["gi"] = None
        import uringloop.glib
        try:
            uringloop.glib.new_event_loop()
        except ImportError as error:
            assert "pip install PyGObject" in str(error), error
            sys.exit(7)
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(script)], timeout=20).returncode == 7


# Attaching and detaching


def test_a_busy_loop_is_attached_and_detached(monitor, main_loop):
    """The ring and its requests in flight change; the program does not notice."""
    loop = uringloop.new_event_loop(fdmon=monitor)
    peers = []

    async def start():
        server = await asyncio.start_server(lambda *pair: peers.append(pair), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        while not peers:
            await asyncio.sleep(0)
        return server, reader, writer

    async def exchange():
        for index in range(3):
            peers[0][1].write(b"%d" % index)
            assert await reader.readexactly(1) == b"%d" % index
        writer.write(b"x" * 1_000_000)
        assert len(await peers[0][0].readexactly(1_000_000)) == 1_000_000
        _, other = await asyncio.open_connection(*server.sockets[0].getsockname())
        other.close()
        assert await asyncio.to_thread(lambda: 5) == 5
        main_loop.quit()

    async def end():
        for _, each in [*peers, (None, writer)]:
            each.close()
        server.close()
        await loop.shutdown_default_executor()

    server, reader, writer = loop.run_until_complete(start())
    for _ in range(2):
        loop.run_until_complete(exchange())
        source = uringloop.glib.attach(loop)
        task = loop.create_task(exchange())
        main_loop.run()
        assert task.done()
        source.detach()
    loop.run_until_complete(end())
    loop.close()


def test_requests_in_flight_keep_a_context_from_being_attached(monitor):
    if monitor != "io_uring":
        return  # no other monitor has requests
    loop = uringloop.new_event_loop(fdmon=monitor)
    from uringloop.liburing import lib

    reader, writer = os.pipe()
    request = loop.add_sqe(lib.io_uring_prep_poll_add, reader, select.POLLIN)
    loop.run_until_complete(asyncio.sleep(0))
    with pytest.raises(RuntimeError, match="in flight"):
        uringloop.glib.attach(loop.aio_context)
    os.write(writer, b"x")

    async def answer():
        return await request

    assert loop.run_until_complete(answer()) & select.POLLIN
    uringloop.glib.attach(loop.aio_context).detach()
    loop.close()
    os.close(reader)
    os.close(writer)


def test_closing_an_attached_loop_detaches_it_silently(monitor, main_loop, capfd):
    loop = uringloop.new_event_loop(fdmon=monitor)
    source = uringloop.glib.attach(loop)
    GLib.idle_add(main_loop.quit)
    main_loop.run()
    loop.close()
    assert not source.is_attached
    GLib.idle_add(main_loop.quit)
    main_loop.run()
    assert capfd.readouterr().err == ""


def test_a_callback_of_glib_may_close_an_attached_loop_that_is_ready(monitor, main_loop, capfd):
    """GLib has already checked both sources, and dispatches that of the loop after the loop is closed."""
    loop = uringloop.new_event_loop(fdmon=monitor)
    GLib.idle_add(loop.close, priority=GLib.PRIORITY_DEFAULT)
    source = uringloop.glib.attach(loop)
    loop.call_soon(print, "not any more")
    GLib.idle_add(main_loop.quit)
    main_loop.run()
    assert not source.is_attached
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("where", ["call_soon", "data_received"])
def test_a_running_ordinary_loop_may_be_attached_for_a_dialog(monitor, main_loop, where):
    """One of its callbacks attaches it; afterwards it keeps running by itself."""
    loop = uringloop.new_event_loop(fdmon=monitor)
    near, far = socket.socketpair()
    got = b""

    def dialog():
        source = uringloop.glib.attach(loop)
        far.send(b"2")
        loop.call_later(0.01, main_loop.quit)
        main_loop.run()
        source.detach()
        far.send(b"3")

    class Talk(asyncio.Protocol):
        def data_received(self, data):
            nonlocal got
            got += data
            if data == b"1":
                loop.call_soon(dialog) if where == "call_soon" else dialog()
            elif got == b"123":
                done.set_result(None)

    async def main():
        transport, _ = await loop.create_connection(Talk, sock=near)
        far.send(b"1")
        await asyncio.wait_for(done, 10)
        transport.close()
        await asyncio.sleep(0)

    done = loop.create_future()
    loop.run_until_complete(main())
    loop.close()
    far.close()


def test_run_inside_a_running_loop_is_refused(glib_loop, monitor):
    async def main():
        other = asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="cannot be called from a running event loop"):
            uringloop.glib.run(other, fdmon=monitor)
        other.close()

    glib_loop.run_until_complete(main())


def test_a_running_ordinary_loop_that_was_attached_keeps_running(monitor):
    """On its new ring, before GLib has called any of its functions."""
    loop = uringloop.new_event_loop(fdmon=monitor)

    async def main():
        source = uringloop.glib.attach(loop)
        assert await asyncio.to_thread(lambda: 5) == 5
        source.detach()
        await loop.shutdown_default_executor()

    loop.run_until_complete(main())
    loop.close()

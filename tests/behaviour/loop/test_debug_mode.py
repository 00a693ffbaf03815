"""What debug mode checks and reports."""

import asyncio
import socket
import threading

import pytest
from support.helpers import one_turn, run, run_script, turns


@pytest.fixture
def debugged(loop):
    loop.set_debug(True)
    yield loop
    loop.set_debug(False)


def test_debug_can_be_switched_on_and_off(loop):
    assert loop.get_debug() is False
    loop.set_debug(True)
    assert loop.get_debug() is True
    assert "debug=True" in repr(loop)
    loop.set_debug(False)


def test_the_environment_switches_debug_on(monitor):
    run_script(
        "loop = make_loop(MONITOR); assert loop.get_debug(); loop.close()",
        monitor,
        env={"PYTHONASYNCIODEBUG": "1"},
    )


@pytest.mark.parametrize("method", ["call_soon", "call_later", "call_at"])
def test_calls_from_the_wrong_thread_raise(debugged, method):
    """Only while the loop runs, as in stock asyncio."""
    caught = []

    def other():
        arguments = () if method == "call_soon" else (0,)
        try:
            getattr(debugged, method)(*arguments, print)
        except RuntimeError as error:
            caught.append(error)

    async def main():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()

    run(debugged, main())
    assert len(caught) == 1
    assert "Non-thread-safe" in str(caught[0])


@pytest.mark.parametrize("method", ["call_soon", "call_later", "call_at", "call_soon_threadsafe"])
@pytest.mark.parametrize("callback", [5, None, "text"])
def test_what_cannot_be_called_is_refused(debugged, method, callback):
    arguments = (0,) if method in ("call_later", "call_at") else ()
    with pytest.raises(TypeError, match="callable"):
        getattr(debugged, method)(*arguments, callback)


@pytest.mark.parametrize("method", ["call_soon", "call_later", "call_at", "call_soon_threadsafe"])
def test_coroutine_functions_are_refused(debugged, method):
    async def coroutine():
        pass

    arguments = (0,) if method in ("call_later", "call_at") else ()
    with pytest.raises(TypeError, match="coroutines"):
        getattr(debugged, method)(*arguments, coroutine)


def test_handles_remember_where_they_were_made(debugged):
    handle = debugged.call_soon(print)
    assert "created at" in repr(handle)
    assert __file__ in repr(handle)
    handle.cancel()


@pytest.mark.parametrize("debug", [False, True])
def test_handles_show_arguments_where_asyncio_shows_them(loop, debug):
    """Newer versions in debug mode only: arguments may be secret."""
    loop.set_debug(debug)
    handles = (loop.call_soon(print, "secret"), asyncio.Handle(print, ("secret",), loop))
    assert repr(handles[0]) == repr(handles[1])
    seen = []
    loop.set_exception_handler(lambda _loop, context: seen.append(context["message"]))
    loop.call_soon(divmod, 1, 0)
    one_turn(loop)
    asyncio.Handle(divmod, (1, 0), loop)._run()
    assert seen[0] == seen[1]
    loop.set_debug(False)


def test_the_repr_of_a_handle_names_asyncios_class(loop):
    for handle in (loop.call_soon(print), loop.call_later(1, print), loop.call_soon_threadsafe(print)):
        assert repr(handle).startswith(f"<{handle.__class__.__name__} ")
        handle.cancel()


def test_tracebacks_of_callbacks_name_their_origin(debugged):
    seen = []
    debugged.set_exception_handler(lambda _loop, context: seen.append("source_traceback" in context))
    debugged.call_soon(divmod, 1, 0)
    one_turn(debugged)
    assert seen == [True]


def test_coroutines_remember_where_they_were_made(debugged):
    async def inner():
        pass

    async def main():
        coroutine = inner()
        origin = coroutine.cr_origin
        await coroutine
        return origin

    assert run(debugged, main()) is not None
    debugged.set_debug(False)
    assert run(debugged, main()) is None


def test_blocking_sockets_are_refused(debugged):
    async def main():
        with socket.socket() as sock:
            with pytest.raises(ValueError, match="non-blocking"):
                await debugged.sock_connect(sock, ("127.0.0.1", 1))

    run(debugged, main())


def test_signal_handlers_must_not_be_coroutine_functions(debugged):
    async def coroutine():
        pass

    with pytest.raises(TypeError):
        debugged.add_signal_handler(10, coroutine)


def test_connections_work_in_debug_mode(debugged):
    async def main():
        async def handle(reader, writer):
            writer.write(await reader.readline())
            await writer.drain()
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"debugged\n")
        assert await reader.readline() == b"debugged\n"
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()

    run(debugged, main())


def test_transports_forgotten_without_close_warn_in_debug_mode_too(debugged):
    import gc

    async def main():
        near, far = socket.socketpair()
        transport, _ = await debugged.create_connection(asyncio.Protocol, sock=near)
        transport.pause_reading()
        await asyncio.sleep(0)
        with pytest.warns(ResourceWarning, match="unclosed transport"):  # noqa: PT031
            del transport, _
            gc.collect()
            await turns(3)  # a receive in flight may hold it a little longer
            gc.collect()
        far.close()

    run(debugged, main())


def test_the_default_handler_shows_where_a_failing_task_was_made(debugged):
    seen = []
    debugged.set_exception_handler(lambda _loop, context: seen.append(context["message"]))

    async def bad():
        raise ZeroDivisionError

    async def main():
        task = asyncio.ensure_future(bad())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        del task

    run(debugged, main())
    assert seen == ["Task exception was never retrieved"]

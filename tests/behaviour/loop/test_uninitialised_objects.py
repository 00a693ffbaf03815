"""Objects whose __init__ never ran raise an exception and do not crash."""

import pytest
from support.helpers import run_script

LOOP = "uringloop.eventloop.loop", "Loop"
TRANSPORTS = [
    ("uringloop.transports.stream.classes", "_SelectorSocketTransport"),
    ("uringloop.transports.stream.transport", "StreamTransport"),
]
HANDLES = [("uringloop.aio.handles", "Handle"), ("uringloop.aio.handles", "TimerHandle")]


@pytest.mark.parametrize(
    ("made", "uses"),
    [
        (
            LOOP,
            """
            repr(it)
            it.time()
            it.call_soon(print)
            it.call_soon(print, 1, 2, 3)
            it.call_soon_threadsafe(print)
            it._run_once()
            it._write_to_self()
            it.call_later(0, print)
            it.call_at(0, print)
            it.create_future()
            it.stop()
            it.is_running()
            it.is_closed()
            it.get_debug()
            it.set_debug(True)
            it.run_forever()
            it.add_reader(0, print)
            it.remove_reader(0)
            it.add_writer(0, print)
            it.remove_writer(0)
            it.call_exception_handler({"message": "none"})
            it.statistics()
            it.fdmon
            it.aio_context
            it.close()
            """,
        ),
        *[
            (
                transport,
                """
                repr(it)
                it.write(b"x")
                it.write(bytes(1_000_000))
                it.writelines([b"x", b"y"])
                it.write_eof()
                it.can_write_eof()
                it.get_extra_info("socket")
                it.get_write_buffer_size()
                it.get_write_buffer_limits()
                it.set_write_buffer_limits(high=10)
                it.pause_reading()
                it.resume_reading()
                it.is_reading()
                it.is_closing()
                it.get_protocol()
                it.set_protocol(asyncio.Protocol())
                it.start()
                it.abort()
                it.close()
                """,
            )
            for transport in TRANSPORTS
        ],
        (
            ("uringloop.transports.datagram.classes", "DatagramTransport"),
            """
            repr(it)
            it.sendto(b"x")
            it.sendto(b"x", ("127.0.0.1", 1))
            it._read_ready()
            it._sendto_ready()
            it._force_close(None)
            it.pause_reading()
            it.resume_reading()
            it.get_write_buffer_size()
            it.set_write_buffer_limits(high=10)
            it.abort()
            it.close()
            """,
        ),
        (
            ("uringloop.transports.tls.protocol", "TlsProtocol"),
            """
            repr(it)
            it.data_received(b"x")
            it.eof_received()
            it.pause_writing()
            it.resume_writing()
            it.connection_lost(None)
            it._sslobj
            """,
        ),
        *[
            (
                handle,
                """
                repr(it)
                hash(it)
                it == it
                it.cancel()
                it.cancelled()
                it.get_context()
                it.when()
                it._run()
                """,
            )
            for handle in HANDLES
        ],
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else "",
)
def test_an_object_that_was_never_initialised_raises_and_does_not_crash(made, uses):
    """Each use runs in a process of its own, so that a crash hides none of the others."""
    uses = [line.strip() for line in uses.strip().splitlines()]
    run_script(
        f"""
        import importlib, logging, signal, traceback
        kind = getattr(importlib.import_module({made[0]!r}), {made[1]!r})
        logging.disable()
        failed = []
        for use in {uses!r}:
            pid = os.fork()
            if pid == 0:
                status = 3
                try:
                    signal.alarm(20)
                    it = kind.__new__(kind)
                    try:
                        eval(use)
                    except Exception as error:
                        assert not isinstance(error, SystemError), error
                    del it
                    gc.collect()
                    status = 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(status)
            status = os.waitpid(pid, 0)[1]
            if status:
                failed.append((use, status))
        assert not failed, failed
        """
    )

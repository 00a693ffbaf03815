"""The server continues after a failed accept."""

import asyncio
import errno
import os
import socket

import pytest
from support.helpers import Recorder, until

EXPECTS_LOOP_ERRORS = pytest.mark.expects_loop_errors


@EXPECTS_LOOP_ERRORS
async def test_serving_goes_on_after_the_listeners_fd_was_another_file(monkeypatch, loop_errors):
    monkeypatch.setattr(asyncio.constants, "ACCEPT_RETRY_DELAY", 0.01)
    loop = asyncio.get_running_loop()
    protocol = Recorder()
    server = await loop.create_server(lambda: protocol, "127.0.0.1", 0, start_serving=False)
    listener = server.sockets[0]
    saved = os.dup(listener.fileno())
    pipe = os.pipe()
    os.write(pipe[1], b"x")
    address = listener.getsockname()
    start_serving = loop._start_serving

    def replace_and_serve(*args, **kwargs):  # after listen(2), and before anything waits for connections
        monkeypatch.setattr(loop, "_start_serving", start_serving)
        os.dup2(pipe[0], listener.fileno())
        return start_serving(*args, **kwargs)

    monkeypatch.setattr(loop, "_start_serving", replace_and_serve)
    await server.start_serving()
    with socket.create_connection(address):
        await until(lambda: loop_errors)
        for context in loop_errors:
            assert context["exception"].errno == errno.ENOTSOCK
        os.dup2(saved, listener.fileno())
        await protocol.connected.wait()
        protocol.transport.abort()
        await protocol.lost.wait()
    server.close()
    await server.wait_closed()
    for fd in (saved, *pipe):
        os.close(fd)


class FailingListener(socket.socket):
    """Its accept() fails once."""

    error = errno.EPROTO

    def accept(self):
        if self.error:
            error, self.error = self.error, None
            raise OSError(error, os.strerror(error))
        return super().accept()


@EXPECTS_LOOP_ERRORS
async def test_serving_goes_on_after_the_accept_of_a_given_socket_failed(loop_errors):
    loop = asyncio.get_running_loop()
    protocol = Recorder()
    listener = FailingListener()
    listener.bind(("127.0.0.1", 0))
    server = await loop.create_server(lambda: protocol, sock=listener)
    with socket.create_connection(listener.getsockname()):
        await protocol.connected.wait()
        assert [context["exception"].errno for context in loop_errors] == [errno.EPROTO]
        protocol.transport.abort()
        await protocol.lost.wait()
    server.close()
    await server.wait_closed()

"""TLS sessions: clients that keep theirs resume it, and nothing renegotiates."""

import asyncio
import shutil
import socket
import ssl
import subprocess

import pytest
from support.helpers import Recorder, client_tls, server_tls

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


class Echo(Recorder):
    def data_received(self, data):
        super().data_received(data)
        self.transport.write(data)


def talk(address, context, session):
    """Make one connection, in a thread; return its session, and whether it was resumed."""
    with socket.create_connection(address, timeout=10) as plain:
        plain.settimeout(10)
        with context.wrap_socket(plain, server_hostname="localhost", session=session) as sock:
            sock.sendall(b"hello")
            # with TLS 1.3 the session follows the handshake
            assert sock.recv(100) == b"hello"
            return sock.session, sock.session_reused


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
async def test_a_client_resumes_its_session(version):
    loop = asyncio.get_running_loop()
    protocols = []

    def factory():
        protocols.append(Echo())
        return protocols[-1]

    server = await loop.create_server(factory, "127.0.0.1", 0, ssl=server_tls())
    context = client_tls()
    context.minimum_version = context.maximum_version = version
    session, seen = None, []
    for _ in range(3):
        session, reused = await loop.run_in_executor(
            None, talk, server.sockets[0].getsockname(), context, session
        )
        seen.append(reused)
    assert seen == [False, True, True]
    for protocol in protocols:
        await protocol.lost.wait()
    server.close()
    await server.wait_closed()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
@pytest.mark.expects_loop_errors
async def test_a_client_that_renegotiates_is_refused():
    """openssl s_client renegotiates after a line that starts with R; TLS 1.3 has no renegotiation."""
    loop = asyncio.get_running_loop()
    protocol = Echo()
    server = await loop.create_server(lambda: protocol, "127.0.0.1", 0, ssl=server_tls())
    port = server.sockets[0].getsockname()[1]
    command = ["openssl", "s_client", "-tls1_2", "-connect", f"127.0.0.1:{port}"]
    client = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    async with asyncio.timeout(20):
        await client.stdout.readuntil(b"Verify return code")
        client.stdin.write(b"hello\n")
        await client.stdout.readuntil(b"hello\n")
        client.stdin.write(b"R\n")
        output = await client.stdout.read()
        await client.wait()
    assert b"RENEGOTIATING" in output
    assert b"no renegotiation" in output
    assert bytes(protocol.data) == b"hello\n"
    async with asyncio.timeout(10):
        await protocol.lost.wait()
    # the server continues
    session, _ = await loop.run_in_executor(None, talk, server.sockets[0].getsockname(), client_tls(), None)
    assert session is not None
    server.close()
    await server.wait_closed()

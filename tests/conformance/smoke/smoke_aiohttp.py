"""aiohttp: a server under load, and server and client in one process, also over TLS."""

import asyncio
import os
import ssl
import sys

import pytest
import trustme
from aiohttp import ClientSession, TCPConnector, web
from conftest import free_port, load, running

SERVER = """
import sys
from aiohttp import web

async def hello(request):
    return web.Response(text="hello")

app = web.Application()
app.router.add_get("/", hello)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)
"""


def test_a_server_under_load():
    port = free_port()
    with running([sys.executable, "-c", SERVER, "PORT"], port, statuses=(0, -15)):
        load(port)


async def echo(request):
    return web.Response(body=await request.read())


async def echo_messages(request):
    socket = web.WebSocketResponse(max_msg_size=1 << 24)
    await socket.prepare(request)
    async for message in socket:
        await socket.send_bytes(message.data)
    return socket


async def talk(base, connector):
    async with ClientSession(connector=connector) as session:

        async def post(size):
            data = os.urandom(size)
            async with session.post(base, data=data) as answer:
                assert await answer.read() == data

        await asyncio.gather(*(post(size) for size in [0, 1, 1000, 70_000, 3_000_000] * 8))
        async with session.ws_connect(base + "/messages", max_msg_size=1 << 24) as socket:
            for size in (1, 126, 70_000, 1_000_000):
                data = os.urandom(size)
                await socket.send_bytes(data)
                assert await socket.receive_bytes() == data


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_server_and_client_in_one_process(scheme):
    async def main():
        server_tls, client_tls = None, True
        if scheme == "https":
            authority = trustme.CA()
            server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert("localhost").configure_cert(server_tls)
            client_tls = ssl.create_default_context()
            authority.configure_trust(client_tls)
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/", echo)
        app.router.add_get("/messages", echo_messages)
        runner = web.AppRunner(app)
        await runner.setup()
        port = free_port()
        await web.TCPSite(runner, "localhost", port, ssl_context=server_tls).start()
        await talk(f"{scheme}://localhost:{port}", TCPConnector(ssl=client_tls))
        await runner.cleanup()

    asyncio.run(main())

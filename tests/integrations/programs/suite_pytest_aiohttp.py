"""Tests for pytest-aiohttp; the row's conftest.py chooses the loop."""

from aiohttp import web
from inside import blob, check_loop


async def test_a_server(aiohttp_client):
    async def echo(request):
        check_loop()
        return web.Response(body=await request.read())

    app = web.Application(client_max_size=2_000_000)
    app.router.add_post("/", echo)
    client = await aiohttp_client(app)
    answer = await client.post("/", data=blob(900_000))
    assert await answer.read() == blob(900_000)

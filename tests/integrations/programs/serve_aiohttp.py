"""aiohttp: the whole server, or only its application for gunicorn."""

import sys

from aiohttp import WSMsgType, web
from inside import CHUNKS, check_loop

import uringloop


async def show_loop(request):
    return web.json_response(check_loop())


async def echo(request):
    return web.Response(body=await request.read())


async def stream(request):
    response = web.StreamResponse()
    await response.prepare(request)
    for chunk in CHUNKS:
        await response.write(chunk)
    await response.write_eof()
    return response


async def websocket(request):
    check_loop()
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        if message.type == WSMsgType.TEXT:
            await socket.send_str(message.data)
        else:
            await socket.send_bytes(message.data)
    return socket


async def make_app():
    app = web.Application(client_max_size=2_000_000)
    app.router.add_get("/loop", show_loop)
    app.router.add_post("/echo", echo)
    app.router.add_get("/stream", stream)
    app.router.add_get("/ws", websocket)
    return app


if __name__ == "__main__":
    web.run_app(make_app(), host="127.0.0.1", port=int(sys.argv[1]), loop=uringloop.new_event_loop())

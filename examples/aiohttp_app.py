"""An ordinary aiohttp application, which deliberately does not mention uringloop.

Alone:          python examples/aiohttp_app.py
On uringloop:   python examples/serve.py --loop uringloop aiohttp_app:make_app
"""

import argparse
import asyncio

from aiohttp import WSMsgType, web

STREAM_CHUNKS = 16


async def hello(request: web.Request) -> web.Response:
    return web.Response(text="Hello, World!")


async def numbers(request: web.Request) -> web.Response:
    return web.json_response({"message": "Hello, World!", "numbers": list(range(10))})


async def echo(request: web.Request) -> web.Response:
    return web.Response(body=await request.read(), content_type="application/octet-stream")


async def stream(request: web.Request) -> web.StreamResponse:
    """A response of unknown length: chunks are sent one by one, with a turn of the loop between them."""
    response = web.StreamResponse()
    await response.prepare(request)
    for number in range(STREAM_CHUNKS):
        await response.write(b"chunk %d\n" % number)
        await asyncio.sleep(0)
    await response.write_eof()
    return response


async def websocket(request: web.Request) -> web.WebSocketResponse:
    """Echo each text message until the peer closes."""
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)
    return socket


async def make_app() -> web.Application:
    app = web.Application()
    app.router.add_get("/", hello)
    app.router.add_get("/json", numbers)
    app.router.add_post("/echo", echo)
    app.router.add_get("/stream", stream)
    app.router.add_get("/ws", websocket)
    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, default=8080, help="default: %(default)s")
    arguments = parser.parse_args()
    web.run_app(make_app(), host="127.0.0.1", port=arguments.port)

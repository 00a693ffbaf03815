"""Sanic, in one process."""

import sys

from inside import CHUNKS, check_loop
from sanic import Sanic, json, raw

import uringloop

uringloop.install()
app = Sanic("echo", configure_logging=False)
app.config.USE_UVLOOP = False


@app.get("/loop")
async def show_loop(request):
    return json(check_loop())


@app.post("/echo")
async def echo(request):
    return raw(request.body)


@app.get("/stream")
async def stream(request):
    response = await request.respond(content_type="application/octet-stream")
    for chunk in CHUNKS:
        await response.send(chunk)
    await response.eof()


@app.websocket("/ws")
async def echo_messages(request, socket):
    check_loop()
    async for message in socket:
        await socket.send(message)


if __name__ == "__main__":
    app.run("127.0.0.1", int(sys.argv[1]), single_process=True, motd=False)

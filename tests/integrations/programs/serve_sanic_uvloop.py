"""Sanic as its users write it, for a command that provides uvloop."""

from inside import CHUNKS, check_loop
from sanic import Sanic, json, raw

app = Sanic("echo", configure_logging=False)


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

"""A plain ASGI application: echo, a streamed answer, a WebSocket echo, and a report of its loop."""

import json

from inside import CHUNKS, check_loop


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["type"] == "websocket":
        await websocket(receive, send)
    else:
        await {"/loop": show_loop, "/echo": echo, "/stream": stream}[scope["path"]](receive, send)


async def lifespan(receive, send):
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            check_loop()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def start(send, kind=b"application/octet-stream"):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})


async def show_loop(receive, send):
    await start(send, b"application/json")
    await send({"type": "http.response.body", "body": json.dumps(check_loop()).encode()})


async def echo(receive, send):
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    await start(send)
    await send({"type": "http.response.body", "body": body})


async def stream(receive, send):
    await start(send)
    for chunk in CHUNKS:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def websocket(receive, send):
    while True:
        message = await receive()
        if message["type"] == "websocket.connect":
            check_loop()
            await send({"type": "websocket.accept"})
        elif message["type"] == "websocket.receive":
            if message.get("text") is not None:
                await send({"type": "websocket.send", "text": message["text"]})
            else:
                await send({"type": "websocket.send", "bytes": message["bytes"]})
        else:
            return

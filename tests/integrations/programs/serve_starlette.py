"""Starlette."""

from inside import CHUNKS, check_loop
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute


async def show_loop(request):
    return JSONResponse(check_loop())


async def echo(request):
    return Response(await request.body())


async def pieces():
    for chunk in CHUNKS:
        yield chunk


async def stream(request):
    return StreamingResponse(pieces())


async def websocket(socket):
    check_loop()
    await socket.accept()
    while (message := await socket.receive())["type"] == "websocket.receive":
        if message.get("text") is not None:
            await socket.send_text(message["text"])
        else:
            await socket.send_bytes(message["bytes"])


app = Starlette(
    routes=[
        Route("/loop", show_loop),
        Route("/echo", echo, methods=["POST"]),
        Route("/stream", stream),
        WebSocketRoute("/ws", websocket),
    ]
)

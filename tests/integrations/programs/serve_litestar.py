"""Litestar."""

from typing import Any

from inside import CHUNKS, check_loop
from litestar import Litestar, MediaType, Request, Response, WebSocket, get, post, websocket
from litestar.response import Stream


@get("/loop")
async def show_loop() -> dict[str, Any]:
    return check_loop()


@post("/echo", status_code=200)
async def echo(request: Request) -> Response[bytes]:
    return Response(await request.body(), media_type=MediaType.TEXT)


@get("/stream")
async def stream() -> Stream:
    async def pieces():
        for chunk in CHUNKS:
            yield chunk

    return Stream(pieces())


@websocket("/ws")
async def echo_messages(socket: WebSocket) -> None:
    check_loop()
    await socket.accept()
    while (message := await socket.receive())["type"] == "websocket.receive":
        if message.get("text") is not None:
            await socket.send_text(message["text"])
        else:
            await socket.send_bytes(message["bytes"])


app = Litestar([show_loop, echo, stream, echo_messages], request_max_body_size=2_000_000)

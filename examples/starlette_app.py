"""An ordinary Starlette application, which deliberately does not mention uringloop.

Alone:          uvicorn --app-dir examples starlette_app:app
On uringloop:   uvicorn --app-dir examples --loop uringloop:new_event_loop starlette_app:app
"""

import asyncio
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

STREAM_CHUNKS = 16


async def hello(request: Request) -> Response:
    return PlainTextResponse("Hello, World!")


async def numbers(request: Request) -> Response:
    return JSONResponse({"message": "Hello, World!", "numbers": list(range(10))})


async def echo(request: Request) -> Response:
    return Response(await request.body(), media_type="application/octet-stream")


async def stream(request: Request) -> Response:
    """A response of unknown length: chunks are sent one by one, with a turn of the loop between them."""

    async def chunks() -> AsyncIterator[bytes]:
        for number in range(STREAM_CHUNKS):
            yield b"chunk %d\n" % number
            await asyncio.sleep(0)

    return StreamingResponse(chunks())


async def websocket(socket: WebSocket) -> None:
    """Echo each text message until the peer closes."""
    await socket.accept()
    async for message in socket.iter_text():
        await socket.send_text(message)


app = Starlette(
    routes=[
        Route("/", hello),
        Route("/json", numbers),
        Route("/echo", echo, methods=["POST"]),
        Route("/stream", stream),
        WebSocketRoute("/ws", websocket),
    ]
)

"""FastAPI."""

from fastapi import FastAPI, Request, Response, WebSocket
from fastapi.responses import StreamingResponse
from inside import CHUNKS, check_loop

app = FastAPI()


@app.get("/loop")
async def show_loop():
    return check_loop()


@app.post("/echo")
async def echo(request: Request):
    return Response(await request.body())


@app.get("/stream")
async def stream():
    async def pieces():
        for chunk in CHUNKS:
            yield chunk

    return StreamingResponse(pieces())


@app.websocket("/ws")
async def websocket(socket: WebSocket):
    check_loop()
    await socket.accept()
    while (message := await socket.receive())["type"] == "websocket.receive":
        if message.get("text") is not None:
            await socket.send_text(message["text"])
        else:
            await socket.send_bytes(message["bytes"])

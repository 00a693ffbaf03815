"""BlackSheep."""

from blacksheep import Application, Content, Request, Response, StreamedContent, WebSocket, json
from blacksheep.server.websocket import WebSocketDisconnectError
from inside import CHUNKS, check_loop

app = Application()


@app.router.get("/loop")
async def show_loop():
    return json(check_loop())


@app.router.post("/echo")
async def echo(request: Request):
    return Response(200, content=Content(b"application/octet-stream", await request.read() or b""))


@app.router.get("/stream")
async def stream():
    async def pieces():
        for chunk in CHUNKS:
            yield chunk

    return Response(200, content=StreamedContent(b"application/octet-stream", pieces))


@app.router.ws("/ws")
async def websocket(socket: WebSocket):
    check_loop()
    await socket.accept()
    try:
        while True:
            message = await socket._receive()
            if message["type"] != "websocket.receive":
                break
            if message.get("text") is not None:
                await socket.send_text(message["text"])
            else:
                await socket.send_bytes(message["bytes"])
    except WebSocketDisconnectError:
        pass

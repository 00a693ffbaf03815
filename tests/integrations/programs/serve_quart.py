"""Quart."""

from inside import CHUNKS, check_loop
from quart import Quart, request, websocket

app = Quart(__name__)


@app.get("/loop")
async def show_loop():
    return check_loop()


@app.post("/echo")
async def echo():
    return await request.get_data()


@app.get("/stream")
async def stream():
    async def pieces():
        for chunk in CHUNKS:
            yield chunk

    return pieces()


@app.websocket("/ws")
async def echo_messages():
    check_loop()
    while True:
        await websocket.send(await websocket.receive())

"""Starlette's TestClient, which FastAPI has, too: the application runs on the loop of its thread."""

from inside import CHUNKS, blob
from serve_starlette import app
from starlette.testclient import TestClient

import uringloop

OPTIONS = {"loop_factory": uringloop.new_event_loop}

with TestClient(app, backend_options=OPTIONS) as client:
    assert client.get("/loop").json()["loop"].startswith("uringloop.")
    assert client.post("/echo", content=blob(900_000)).content == blob(900_000)
    assert client.get("/stream").content == b"".join(CHUNKS)
    with client.websocket_connect("/ws") as socket:
        socket.send_text("text")
        assert socket.receive_text() == "text"

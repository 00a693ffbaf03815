"""robyn, which imports uvloop by name."""

import sys

from inside import CHUNKS, check_loop
from robyn import Robyn, StreamingResponse

app = Robyn(__file__)


@app.get("/loop")
async def show_loop(request):
    return check_loop()


@app.post("/echo")
async def echo(request):
    body = request.body
    return body.encode() if isinstance(body, str) else bytes(body)


@app.get("/stream")
async def stream(request):
    async def pieces():
        for chunk in CHUNKS:
            yield chunk.decode()

    return StreamingResponse(pieces())


if __name__ == "__main__":
    app.start(host="127.0.0.1", port=int(sys.argv[1]))

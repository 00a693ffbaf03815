"""Sanic: a route that answers JSON, in one process, on a loop that runs already."""

import asyncio

from sanic import Sanic, json

app = Sanic("benchmark", configure_logging=False)


@app.get("/json")
async def greet(request):
    return json({"message": "Hello, World!"})


async def main(sock):
    server = await app.create_server(sock=sock, access_log=False)
    await server.startup()
    await server.serve_forever()


def run(sock, make_loop):
    sock.setblocking(False)
    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(main(sock))

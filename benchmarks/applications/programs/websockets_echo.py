"""websockets: a server that echoes messages."""

import asyncio

from websockets.asyncio.server import serve


async def echo(websocket):
    async for message in websocket:
        await websocket.send(message)


async def main(sock):
    async with serve(echo, sock=sock) as server:
        await server.serve_forever()


def run(sock, make_loop):
    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(main(sock))

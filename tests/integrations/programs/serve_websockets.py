"""websockets: a server with plain HTTP answers for the loop, and clients in the same loop."""

import asyncio
import http
import json
import signal
import sys

import websockets
from inside import blob, check_loop
from websockets.datastructures import Headers
from websockets.http11 import Response

import uringloop


async def echo(socket):
    async for message in socket:
        await socket.send(message)


def answer(connection, request):
    if request.path == "/loop":
        body = json.dumps(check_loop()).encode()
        headers = Headers({"Content-Length": str(len(body)), "Connection": "close"})
        return Response(http.HTTPStatus.OK, "OK", headers, body)
    return None


async def own_client(port):
    async with websockets.connect(f"ws://127.0.0.1:{port}/ws", max_size=2**21, proxy=None) as socket:
        for size in (0, 1, 900_000):
            await socket.send(blob(size))
            assert await socket.recv() == blob(size)


async def main():
    port = int(sys.argv[1])
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with websockets.serve(echo, "127.0.0.1", port, process_request=answer):
        await own_client(port)
        await stop.wait()


uringloop.run(main())

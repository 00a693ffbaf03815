"""grpc.aio: server and client with unary and streaming calls."""

import asyncio

import grpc
from inside import CHUNKS, blob, check_loop

import uringloop


async def echo(request, context):
    check_loop()
    return request


async def stream(request, context):
    for chunk in CHUNKS:
        yield chunk


async def both(requests, context):
    async for request in requests:
        yield request[::-1]


HANDLERS = {
    "Echo": grpc.unary_unary_rpc_method_handler(echo),
    "Stream": grpc.unary_stream_rpc_method_handler(stream),
    "Both": grpc.stream_stream_rpc_method_handler(both),
}


async def main():
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("Test", HANDLERS)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary("/Test/Echo")
        sizes = [0, 1, 70_000, 900_000] * 10
        assert await asyncio.gather(*(call(blob(size)) for size in sizes)) == [blob(size) for size in sizes]
        assert [chunk async for chunk in channel.unary_stream("/Test/Stream")(b"")] == CHUNKS
        words = [f"word {number}".encode() for number in range(100)]
        answers = channel.stream_stream("/Test/Both")(iter(words))
        assert [answer async for answer in answers] == [word[::-1] for word in words]
    await server.stop(None)


uringloop.run(main())

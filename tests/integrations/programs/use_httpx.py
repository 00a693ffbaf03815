"""httpx: concurrent echoes over a pool, a streamed answer."""

import asyncio

import httpx
from inside import CHUNKS, blob, check_loop
from loopback_http import serving

import uringloop


async def main(port):
    check_loop()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:

        async def echo(size):
            return (await client.post("/echo", content=blob(size))).content

        sizes = [0, 1, 70_000, 900_000] * 5
        assert await asyncio.gather(*map(echo, sizes)) == [blob(size) for size in sizes]
        async with client.stream("GET", "/stream") as answer:
            assert b"".join([piece async for piece in answer.aiter_bytes()]) == b"".join(CHUNKS)


with serving() as port:
    uringloop.run(main(port))

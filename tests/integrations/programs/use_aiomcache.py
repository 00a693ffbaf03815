"""aiomcache: values up to 900 KB, concurrent commands."""

import asyncio
import os

import aiomcache
from inside import blob, check_loop

import uringloop


async def main():
    check_loop()
    client = aiomcache.Client("127.0.0.1", int(os.environ["MEMCACHED_PORT"]))
    sizes = [0, 1, 5_000, 70_000, 900_000]
    await asyncio.gather(*(client.set(b"key%d" % size, blob(size)) for size in sizes))
    assert await asyncio.gather(*(client.get(b"key%d" % size) for size in sizes)) == [
        blob(size) for size in sizes
    ]
    await client.close()


uringloop.run(main())

"""redis-py: values, a pipeline, a subscription, concurrent clients."""

import asyncio
import os

import redis.asyncio
from inside import blob, check_loop

import uringloop

PREFIX = f"redis on {os.environ['URINGLOOP_FDMON']}"


async def listen(client, ready, count):
    async with client.pubsub() as subscription:
        await subscription.subscribe("channel")
        found = []
        async for message in subscription.listen():
            if message["type"] == "subscribe":
                ready.set()
            else:
                found.append(message["data"])
            if len(found) == count:
                return found


async def main():
    check_loop()
    async with redis.asyncio.Redis.from_url(os.environ["REDIS_URL"]) as client:
        for size in (0, 1, 70_000, 900_000):
            await client.set("value", blob(size))
            assert await client.get("value") == blob(size)
        async with client.pipeline() as pipeline:
            for number in range(500):
                pipeline.set(f"key {number}", number).get(f"key {number}")
            answers = await pipeline.execute()
        assert [int(value) for value in answers[1::2]] == list(range(500))
        assert await asyncio.gather(*(client.incrby(f"{PREFIX} {n}", n) for n in range(50))) == list(
            range(50)
        )
        ready = asyncio.Event()
        listener = asyncio.create_task(listen(client, ready, 20))
        await ready.wait()
        for number in range(20):
            await client.publish("channel", number)
        assert [int(data) for data in await listener] == list(range(20))


uringloop.run(main())

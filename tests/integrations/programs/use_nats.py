"""nats-py: subscriptions and requests."""

import asyncio
import os

import nats
from inside import blob, check_loop

import uringloop


async def main():
    check_loop()
    client = await nats.connect(os.environ["NATS_URL"])
    other = await nats.connect(os.environ["NATS_URL"])

    async def answer(message):
        await message.respond(message.data[::-1])

    await other.subscribe("reverse", cb=answer)
    await other.flush()
    data = [blob(size) for size in (0, 1, 5_000, 900_000)]
    assert [(await client.request("reverse", one, timeout=10)).data for one in data] == [
        one[::-1] for one in data
    ]
    subscription = await other.subscribe("numbers")
    await other.flush()
    for number in range(2000):
        await client.publish("numbers", b"%d" % number)
    assert [int((await subscription.next_msg(timeout=10)).data) for _ in range(2000)] == list(range(2000))
    await asyncio.gather(client.drain(), other.drain())


uringloop.run(main())

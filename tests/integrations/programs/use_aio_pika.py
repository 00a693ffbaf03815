"""aio-pika: publish with confirms, consume, large messages."""

import os

import aio_pika
from inside import blob, check_loop

import uringloop


async def main():
    check_loop()
    connection = await aio_pika.connect_robust(os.environ["AMQP_URL"])
    async with connection:
        channel = await connection.channel()
        await channel.set_qos(20)
        queue = await channel.declare_queue(exclusive=True)
        sizes = [0, 1, 5_000, 900_000, *range(100, 300)]
        for size in sizes:
            await channel.default_exchange.publish(aio_pika.Message(blob(size)), queue.name)
        found = []
        async with queue.iterator() as messages:
            async for message in messages:
                async with message.process():
                    found.append(message.body)
                if len(found) == len(sizes):
                    break
        assert found == [blob(size) for size in sizes]


uringloop.run(main())

"""aiomqtt, which drives paho through add_reader and add_writer."""

import os

import aiomqtt
from inside import blob, check_loop

import uringloop


async def main():
    check_loop()
    async with aiomqtt.Client("127.0.0.1", int(os.environ["MQTT_PORT"])) as client:
        await client.subscribe("data/#", qos=1)
        sizes = [0, 1, 5_000, 900_000, *range(100, 200)]
        for number, size in enumerate(sizes):
            await client.publish(f"data/{number}", blob(size), qos=1)
        found = {}
        async for message in client.messages:
            found[int(str(message.topic).partition("/")[2])] = message.payload
            if len(found) == len(sizes):
                break
        assert found == {number: blob(size) for number, size in enumerate(sizes)}


uringloop.run(main())

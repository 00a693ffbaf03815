"""dramatiq's AsyncIO middleware: a worker in the process, coroutines as actors."""

import asyncio
import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware.asyncio import AsyncIO
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend
from inside import check_loop

import uringloop.adopt

uringloop.adopt.make_default()

broker = RedisBroker(url=os.environ["REDIS_URL"])
broker.add_middleware(AsyncIO())
broker.add_middleware(Results(backend=RedisBackend(url=os.environ["REDIS_URL"])))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
async def double(number):
    check_loop()
    await asyncio.sleep(0)
    return number * 2


if __name__ == "__main__":
    worker = dramatiq.Worker(broker, worker_threads=4, worker_timeout=100)
    worker.start()
    messages = [double.send(number) for number in range(20)]
    assert [message.get_result(block=True) for message in messages] == [number * 2 for number in range(20)]
    worker.stop()
    broker.close()

"""arq: a worker and what enqueues its jobs, on one loop."""

import asyncio
import os

from arq import create_pool
from arq.connections import RedisSettings
from arq.jobs import Job
from arq.worker import Worker
from inside import check_loop

import uringloop
import uringloop.adopt

uringloop.adopt.make_default()

QUEUE = f"queue of {os.environ['URINGLOOP_FDMON']} in one process"


async def double(context, number):
    check_loop()
    await asyncio.sleep(0)
    return number * 2


async def enqueue():
    pool = await create_pool(RedisSettings.from_dsn(os.environ["REDIS_URL"]), default_queue_name=QUEUE)
    for number in range(20):
        await pool.enqueue_job("double", number, _job_id=f"{QUEUE} {number}")
    await pool.aclose()


async def results():
    pool = await create_pool(RedisSettings.from_dsn(os.environ["REDIS_URL"]), default_queue_name=QUEUE)
    found = [
        await Job(f"{QUEUE} {number}", pool, _queue_name=QUEUE).result(timeout=10) for number in range(20)
    ]
    await pool.aclose()
    return found


if __name__ == "__main__":
    uringloop.run(enqueue())
    settings = RedisSettings.from_dsn(os.environ["REDIS_URL"])
    asyncio.set_event_loop(asyncio.new_event_loop())
    Worker([double], redis_settings=settings, queue_name=QUEUE, burst=True, handle_signals=False).run()
    asyncio.set_event_loop(None)
    assert uringloop.run(results()) == [number * 2 for number in range(20)]

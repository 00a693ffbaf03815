"""arq's command with a module that knows nothing of uringloop."""

import asyncio
import os
import signal
import subprocess

from arq import create_pool
from arq.connections import RedisSettings
from inside import check_loop

QUEUE = f"queue of {os.environ['URINGLOOP_FDMON']}"


async def double(context, number):
    check_loop()
    await asyncio.sleep(0)
    return number * 2


class WorkerSettings:
    functions = [double]
    redis_settings = RedisSettings.from_dsn(os.environ["REDIS_URL"])
    queue_name = QUEUE
    handle_signals = True


async def main():
    pool = await create_pool(WorkerSettings.redis_settings, default_queue_name=QUEUE)
    jobs = [await pool.enqueue_job("double", number) for number in range(20)]
    assert [await job.result(timeout=30) for job in jobs] == [number * 2 for number in range(20)]
    await pool.aclose()


if __name__ == "__main__":
    command = ["arq", "jobs_of_arq.WorkerSettings"]
    worker = subprocess.Popen(
        command, env={**os.environ, "URINGLOOP_AS": "asyncio"}, stderr=subprocess.DEVNULL
    )
    try:
        asyncio.run(main())
    finally:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) in (0, 1, -signal.SIGTERM)

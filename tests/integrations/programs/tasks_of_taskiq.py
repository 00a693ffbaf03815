"""taskiq: `taskiq worker` in processes of its own, and tasks with results through Redis."""

import asyncio
import os
import signal
import subprocess

from inside import check_loop
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

broker = ListQueueBroker(os.environ["REDIS_URL"]).with_result_backend(
    RedisAsyncResultBackend(os.environ["REDIS_URL"])
)


@broker.task(task_name="double")
async def double(number):
    check_loop()
    await asyncio.sleep(0)
    return number * 2


async def main():
    await broker.startup()
    tasks = [await double.kiq(number) for number in range(20)]
    results = [await task.wait_result(timeout=30) for task in tasks]
    await broker.shutdown()
    assert [result.return_value for result in results] == [number * 2 for number in range(20)]


if __name__ == "__main__":
    command = ["taskiq", "worker", "--workers", "1", "--log-level", "WARNING", "tasks_of_taskiq:broker"]
    worker = subprocess.Popen(command, env={**os.environ, "URINGLOOP_AS": "uvloop"})
    try:
        asyncio.run(main())
    finally:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) in (0, -signal.SIGTERM)

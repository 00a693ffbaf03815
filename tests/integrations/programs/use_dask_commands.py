"""`dask scheduler` and two `dask worker` by command line, and a client in a third process."""

import contextlib
import os
import signal
import subprocess

from distributed import Client
from inside import blob, check_loop

ENVIRONMENT = {
    **os.environ,
    "DASK_TEMPORARY_DIRECTORY": os.getcwd(),
    "DASK_DISTRIBUTED__ADMIN__EVENT_LOOP": "uvloop",
    "URINGLOOP_AS": "uvloop",
}


def reverse(data):
    return data[::-1]


def worker_loop(dask_worker):
    return check_loop(dask_worker.loop.asyncio_loop)["loop"]


def scheduler_loop(dask_scheduler):
    return check_loop(dask_scheduler.loop.asyncio_loop)["loop"]


@contextlib.contextmanager
def running(*command):
    process = subprocess.Popen(command, env=ENVIRONMENT)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


SCHEDULER = ["dask", "scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", "where"]
SCHEDULER += ["--dashboard-address", "127.0.0.1:0"]
WORKER = ["dask", "worker", "--scheduler-file", "where", "--nthreads", "1", "--no-nanny", "--no-dashboard"]


def main():
    with (
        running(*SCHEDULER, "--no-dashboard"),
        running(*WORKER, "--no-dashboard"),
        running(*WORKER, "--no-dashboard"),
    ):
        with Client(scheduler_file="where", timeout=60) as client:
            client.wait_for_workers(2, timeout=60)
            assert set(client.run(worker_loop).values()) == {"uringloop.eventloop.loop.Loop"}
            assert client.run_on_scheduler(scheduler_loop) == "uringloop.eventloop.loop.Loop"
            for size in (1, 70_000, 900_000):
                assert client.submit(reverse, blob(size)).result() == blob(size)[::-1]


if __name__ == "__main__":
    main()

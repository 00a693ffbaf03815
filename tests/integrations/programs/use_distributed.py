"""dask.distributed: a scheduler, two workers in processes of their own, and a client."""

import uringloop
import uringloop.adopt

uringloop.adopt.make_default()

from distributed import Client, LocalCluster, get_worker  # noqa: E402
from inside import blob, check_loop  # noqa: E402


def reverse(data):
    return data[::-1]


def worker_loop(dask_worker):
    return check_loop(dask_worker.loop.asyncio_loop)["loop"]


def scheduler_loop(dask_scheduler):
    return check_loop(dask_scheduler.loop.asyncio_loop)["loop"]


def where(number):
    return get_worker().address


def main():
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:
        with Client(cluster) as client:
            assert set(client.run(worker_loop).values()) == {"uringloop.eventloop.loop.Loop"}
            assert client.run_on_scheduler(scheduler_loop) == "uringloop.eventloop.loop.Loop"
            assert sum(client.gather(client.map(int, range(500)))) == sum(range(500))
            for size in (1, 70_000, 900_000):
                assert client.submit(reverse, blob(size)).result() == blob(size)[::-1]
            assert len(set(client.gather(client.map(where, range(100), pure=False)))) == 2


if __name__ == "__main__":
    main()

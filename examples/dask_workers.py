"""dask.distributed on uringloop: a scheduler and several worker processes count words, each on a loop of uringloop.

    python examples/dask_workers.py [--workers N] FILE ...

Worker processes import this file again, so that make_default() below counts in them, too. Needs `distributed`.
"""

import argparse
import asyncio
import collections
import pathlib

from distributed import Client, LocalCluster

import uringloop.adopt

uringloop.adopt.make_default()


def count_words(path: str) -> collections.Counter[str]:
    """Runs in a worker."""
    return collections.Counter(pathlib.Path(path).read_text(errors="replace").split())


async def loop_of(dask_worker: object = None, dask_scheduler: object = None) -> str:
    """Runs in the loop of each worker, and of the scheduler."""
    loop = asyncio.get_running_loop()
    return f"{type(loop).__module__}, {getattr(loop, 'fdmon', '-')}"


def main(paths: list[str], n_workers: int) -> None:
    with (
        LocalCluster(
            n_workers=n_workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            host="127.0.0.1",
        ) as cluster,
        Client(cluster) as client,
    ):
        print("scheduler:", client.run_on_scheduler(loop_of))
        for number, loop in enumerate(client.run(loop_of).values()):
            print(f"worker {number}:", loop)
        words = sum(client.gather(client.map(count_words, paths)), collections.Counter())
    for word, count in words.most_common(10):
        print(f"{count:8} {word}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="*", metavar="FILE", default=[__file__], help="default: this program")
    parser.add_argument("--workers", type=int, default=2, help="how many processes; default: %(default)s")
    arguments = parser.parse_args()
    main(arguments.files, arguments.workers)

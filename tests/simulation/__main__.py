"""Simulated runs of fresh seeds: python -m tests.simulation [--runs 100] [--seed N] [--monitor NAME ...].

A run that fails is made smaller and printed as a command that repeats it.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import sys
import time
from collections import Counter

sys.path[:0] = [str(pathlib.Path(__file__).parents[1])]

from simulation import simulator  # noqa: E402

MONITORS = ("io_uring", "epoll", "poll", "asyncio")


def replay(text: str, trace: bool) -> int:
    found = simulator.run(simulator.Settings(**json.loads(text)), trace=trace)
    print(found.failure or f"passed: {found.digest} {found.counts}")
    return int(found.failure is not None)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=100, help="for each monitor")
    parser.add_argument(
        "--seed", type=int, default=time.time_ns() % 1_000_000, help="the first one (default: fresh)"
    )
    parser.add_argument("--monitor", nargs="+", choices=MONITORS, default=list(MONITORS[:3]))
    parser.add_argument("--clients", type=int, default=simulator.Settings.n_clients)
    parser.add_argument("--hours", type=float, default=simulator.Settings.hours)
    parser.add_argument("--replay", metavar="JSON", help="one run, as a failed one was printed")
    parser.add_argument("--trace", action="store_true", help="with --replay: each event")
    options = parser.parse_args()
    if reason := simulator.missing():
        parser.error(reason)
    if options.replay:
        return replay(options.replay, options.trace)

    start, end = ("\r", "") if sys.stderr.isatty() else ("", "\n")
    simulator.library()  # compiled once, and not by each thread
    total: Counter[str] = Counter()
    failed = []
    all_settings = [
        simulator.settings_of(seed, monitor, n_clients=options.clients, hours=options.hours)
        for seed in range(options.seed, options.seed + options.runs)
        for monitor in options.monitor
    ]
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for number, (settings, found) in enumerate(
            zip(all_settings, pool.map(simulator.run, all_settings), strict=True), 1
        ):
            total.update(found.counts)
            if found.failure:
                failed.append(settings)
                print(
                    f"\nseed {settings.seed} on {settings.monitor}: {found.failure}\n  {settings.command()}",
                    flush=True,
                )
            if end and number % 50 and number != len(all_settings):
                continue
            print(
                f"{start}{number} of {len(all_settings)} runs, {total['connection_hours']:,.0f} connection-hours, "
                f"{total['messages']:,.0f} messages, {len(failed)} failed",
                end=end,
                file=sys.stderr,
                flush=True,
            )
    print(file=sys.stderr)
    for name, count in sorted(total.items()):
        print(f"{name}: {count:,.0f}")
    for settings in failed[:3]:
        print(f"\nmaking seed {settings.seed} on {settings.monitor} smaller")
        print(simulator.shrunk(settings).command())
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())

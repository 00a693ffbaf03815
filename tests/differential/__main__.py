"""Fresh random programs, compared: python -m tests.differential [--minutes 10] [--seed N] [--machine NAME ...].

A program that differs is made smaller and printed, with the difference and the command that repeats it.
"""

import argparse
import ast
import faulthandler
import pathlib
import sys
import time
from collections import Counter

sys.path[:0] = [str(pathlib.Path(__file__).parents[1])]

from support.helpers import URING_MONITORS  # noqa: E402

from .comparing import Difference, compare, random_program, smallest  # noqa: E402
from .machines import MACHINES  # noqa: E402

PROGRAMS_AT_ONCE = 50  # of one machine, before the next has its turn
HANGS_AFTER_S = 60


def compare_within_limit(machine, program, monitors):
    """Compare; a program that hangs ends the process, with a traceback."""
    faulthandler.dump_traceback_later(HANGS_AFTER_S, exit=True)
    try:
        compare(machine, program, monitors)
    finally:
        faulthandler.cancel_dump_traceback_later()


def replay(machine, text, monitors):
    try:
        compare(machine, ast.literal_eval(text), monitors)
    except Difference as difference:
        print(difference)
        return 1
    print("no difference")
    return 0


def report(machine, difference):
    """Print the smallest program that still differs, and the command that repeats it."""
    monitors = [difference.monitor]
    program = smallest(machine, difference.program, monitors)
    try:
        compare(machine, program, monitors)
        print(f"\n{difference}\nnot the second time")
    except Difference as again:
        print(f"\n{again}")
    words = f"--machine {machine.name} --monitor {difference.monitor} --replay"
    print(f'\nTo repeat it:\npython -m tests.differential {words} "{program!r}"', flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000, help="default: fresh")
    parser.add_argument("--machine", nargs="+", choices=[*MACHINES], default=[*MACHINES])
    parser.add_argument("--monitor", nargs="+", choices=URING_MONITORS, default=[*URING_MONITORS])
    parser.add_argument(
        "--replay", metavar="PROGRAM", help="one program of --machine, as a failure printed it"
    )
    options = parser.parse_args()
    if options.replay:
        return replay(MACHINES[options.machine[0]], options.replay, options.monitor)

    end_s = time.monotonic() + options.minutes * 60
    counts = Counter()
    next_seed = options.seed
    start, end = ("\r", "") if sys.stderr.isatty() else ("", "\n")
    print(f"seed {options.seed}", flush=True)
    while time.monotonic() < end_s:
        for name in options.machine:
            for number in range(next_seed, next_seed + PROGRAMS_AT_ONCE):
                try:
                    compare_within_limit(
                        MACHINES[name], random_program(MACHINES[name], number), options.monitor
                    )
                    counts[name] += 1
                except Difference as difference:
                    report(MACHINES[name], difference)
                    return 1
                if time.monotonic() > end_s:
                    break
        next_seed += PROGRAMS_AT_ONCE
        line = ", ".join(f"{name} {counts[name]:,}" for name in options.machine)
        print(f"{start}programs compared: {line}", end=end, file=sys.stderr, flush=True)
    line = ", ".join(f"{name} {counts[name]:,}" for name in options.machine)
    print(f"\nno difference; programs compared: {line}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Run one target under libFuzzer: python -m tests.fuzz.one TARGET [libFuzzer's arguments].

A process of its own, since libFuzzer ends it. The build and what must be preloaded: tools/lane.sh.
"""

import pathlib
import sys

import atheris

sys.path[:0] = [str(pathlib.Path(__file__).parents[1])]

from fuzz import targets  # noqa: E402


def main() -> None:
    name, *arguments = sys.argv[1:]
    target = targets.load(name)
    atheris.Setup([sys.argv[0], *arguments], target.check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

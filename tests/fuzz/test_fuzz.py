"""A short form of `make fuzz-parsers`: each target with its seeds, and with changes of them from a fixed seed."""

import random

import pytest

from . import targets
from .loops import close_all

# As many as take about a second each.
COUNTS = {
    "addresses": 6000,
    "buffers": 700,
    "datagrams": 600,
    "requests": 6000,
    "streams": 250,
    "surroundings": 2500,
    "tls": 900,
}
LENGTH_MOST = 300


def changed(chance: random.Random, seeds: list[bytes]) -> bytes:
    """A seed with a few changes, or two of them joined."""
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.choice((1, 2, 4, 16))):
        at = chance.randrange(len(data) + 1)
        how = chance.randrange(5)
        if how == 0:
            data[at:at] = chance.randbytes(chance.choice((1, 2, 8)))
        elif how == 1:
            del data[at : at + chance.choice((1, 2, 8))]
        elif how == 2 and at < len(data):
            data[at] = chance.choice((0, 1, 127, 128, 255, chance.randrange(256)))
        elif how == 3 and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        elif how == 4:
            data += chance.choice(seeds)[1:]
    return bytes(data[:LENGTH_MOST])


def test_there_is_a_count_for_each_target():
    assert set(COUNTS) == set(targets.NAMES)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:event loops of this process:UserWarning")
@pytest.mark.parametrize("name", targets.available())
def test_seeds_and_changes_of_them(name):
    target = targets.load(name)
    chance = random.Random(name)
    inputs = [*target.SEEDS, *(changed(chance, target.SEEDS) for _ in range(COUNTS[name]))]
    try:
        for data in inputs:
            try:
                target.check(data)
            except BaseException as error:
                error.add_note(f"{name}.check({data!r})")
                raise
    finally:
        close_all()

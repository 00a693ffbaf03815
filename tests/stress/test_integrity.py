"""A short run of the integrity torture test, and tests that it detects faults."""

import pytest
from support.helpers import STOCK, make_loop

from .integrity import IntegrityError, Torture
from .integrity_sides import PERIOD, Side, Stream


def torture(monitor, seed, **kwargs):
    return Torture(lambda: make_loop(monitor), seed, largest=400_000, **kwargs)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_is_lost(monitor, seed):
    tortured = torture(monitor, seed, count=15)
    try:
        for number in range(3):
            tortured.run_round(number)
    finally:
        tortured.close()
    tortured.raise_failures()
    assert tortured.n_links == 45
    assert tortured.n_interrupts
    assert bool(tortured.n_nested) == (monitor != STOCK)


# It detects faults


@pytest.mark.parametrize(
    ("arriving", "found"),
    [
        (lambda data: data, None),
        (lambda data: data[1:], "is wrong: as at position 1 "),  # lost
        (lambda data: data[:50] + data[:50], "byte 50 of 100 is wrong: as at position 0 "),  # duplicated
        (lambda data: data[50:] + data[:50], "byte 0 of 100 is wrong: as at position 50 "),  # moved
        (lambda data: data[:-20] + bytes(20), "byte 80 of 100 is wrong: bytes of no stream"),
        (
            lambda data: bytes(Stream(8, 100).take(100)),
            "byte 0 of 100 is wrong: as at position",
        ),  # from another stream
    ],
)
def test_a_stream_detects_wrong_bytes(arriving, found):
    stream = Stream(7, 100)
    wrong = stream.arrived(arriving(bytes(stream.take(100))))
    assert wrong is None if found is None else found in wrong


def test_a_stream_detects_more_bytes_than_were_written():
    stream = Stream(7, 100)
    stream.take(10)
    assert "20 bytes arrived of 10" in stream.arrived(bytes(stream.content(0, 20)))


def test_contents_continue_after_the_end_of_the_pattern():
    stream = Stream(7, 3 * PERIOD)
    for _ in range(3):
        assert stream.arrived(bytes(stream.take(PERIOD))) is None
    assert stream.received == 3 * PERIOD


class Forgetful(Side):
    """Loses a byte: counts one more than it writes."""

    def write(self, name=None):
        if self.link is not None and self.out.written == 0 and self.out.total > 1:
            self.out.take(1)
        super().write(name)


def test_a_lost_byte_fails_the_run(monitor):
    tortured = torture(monitor, 1, count=3, kinds=("pair",), interrupting=0)
    tortured.side_class = Forgetful
    try:
        with pytest.raises(IntegrityError, match=r"(?s)seed 1, round \d+.*is wrong"):
            for number in range(20):
                tortured.run_round(number)
    finally:
        tortured.abandon()

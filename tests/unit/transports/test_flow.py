"""Limits of a write buffer."""

import asyncio
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uringloop.transports.flow import DEFAULT_HIGH_BYTES, buffer_limits

SIZES = st.none() | st.integers(-10, 1 << 40)


@pytest.mark.parametrize(
    ("high", "low", "expected"),
    [
        (None, None, (64 * 1024, 16 * 1024)),
        (None, 100, (400, 100)),
        (100, None, (100, 25)),
        (3, None, (3, 0)),
        (100, 100, (100, 100)),
        (0, None, (0, 0)),
        (0, 0, (0, 0)),
        (None, 0, (0, 0)),
    ],
)
def test_missing_limits_are_computed(high, low, expected):
    assert buffer_limits(high, low) == expected


@pytest.mark.parametrize(("high", "low"), [(1, 2), (-1, None), (None, -1), (5, -1), (-2, -1)])
def test_limits_in_the_wrong_order_are_refused(high, low):
    with pytest.raises(ValueError, match="must be >="):
        buffer_limits(high, low)


def test_limits_need_not_be_integers():
    assert buffer_limits(100.5, 2.5) == (100, 2)
    assert buffer_limits(float("inf"), 0) == (sys.maxsize, 0)
    assert buffer_limits(None, 1 << 80) == (sys.maxsize, sys.maxsize)
    with pytest.raises(ValueError, match="must be >="):
        buffer_limits(float("nan"), 0)


def test_default_is_the_same_as_in_asyncio():
    assert DEFAULT_HIGH_BYTES == 64 * 1024


@given(SIZES, SIZES)
def test_limits_agree_with_asyncio(high, low):
    class Stock(asyncio.transports._FlowControlMixin):
        def get_write_buffer_size(self):
            return 0

    stock = Stock.__new__(Stock)
    try:
        stock._set_write_buffer_limits(high, low)
    except ValueError as error:
        with pytest.raises(ValueError) as ours:
            buffer_limits(high, low)
        assert str(ours.value) == str(error)  # noqa: PT017
    else:
        assert buffer_limits(high, low) == (stock._high_water, stock._low_water)

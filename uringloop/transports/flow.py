"""Flow control arithmetic: the limits of a write buffer, as asyncio computes them."""

import sys

DEFAULT_HIGH_BYTES = 64 * 1024


def buffer_limits(high: float | None, low: float | None) -> tuple[int, int]:
    """The high-water and low-water marks in bytes.

    asyncio takes anything that compares with a number of bytes, infinity included; here it is converted to an int,
    which changes no comparison.

    Parameters:
        high: pause above this; None for four times `low`, or 64 KiB.
        low: resume at or below this; None for a quarter of `high`.

    Raises: ValueError unless high >= low >= 0.
    Source: asyncio.WriteTransport.set_write_buffer_limits.
    """
    if high is None:
        high = DEFAULT_HIGH_BYTES if low is None else 4 * low
    if low is None:
        low = high // 4
    if not high >= low >= 0:
        raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
    return int(min(high, sys.maxsize)), int(min(low, sys.maxsize))

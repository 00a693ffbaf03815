"""A short run of a server among hostile clients."""

import argparse

import pytest

from . import hostile


@pytest.mark.slow
def test_good_clients_are_served_among_hostile_ones(monitor):
    found = hostile.measure(argparse.Namespace(monitor=monitor, hostile=100, good=20, seconds=3, seed=1))
    assert sum(found["attacks"].values()) > 0
    assert found["server"]["errors"] == []
    assert found["good"]["fewest"] >= 3
    assert found["good"]["most_ms"] < 10_000
    rss_kib = [one[0] for one in found["server"]["samples"]]
    assert max(rss_kib) < 200 * 1024  # buffers of 120 connections, bounded by flow control

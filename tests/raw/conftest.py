"""Fixtures of the tests of raw requests."""

import contextlib
import os
import socket

import pytest
from support.helpers import HAS_CFFI

collect_ignore_glob = [] if HAS_CFFI else ["test_*.py"]


@pytest.fixture
def pipe():
    """(read end, write end); closed afterwards, unless the test did."""
    ends = os.pipe()
    yield ends
    for fd in ends:
        with contextlib.suppress(OSError):
            os.close(fd)


@pytest.fixture
def sockets():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs

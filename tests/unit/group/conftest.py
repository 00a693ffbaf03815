"""Groups, and what they say."""

import asyncio
import logging
import os

import pytest
from support.group_tools import KINDS

import uringloop


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def new_group(kind):
    """A function that makes a group whose loops have the monitor of the test's."""

    def new(members=2, **arguments):
        arguments = {
            "kind": kind,
            "fdmon": asyncio.get_running_loop().fdmon,
            "drain_timeout_s": 20,
            **arguments,
        }
        return uringloop.LoopGroup(members, **arguments)

    return new


@pytest.fixture
def said():
    """A function that returns what uringloop logged, as text: tracebacks would keep objects of a member alive."""
    lines = []

    def take(record):
        lines.append(logging.Formatter().format(record))
        return False

    log = logging.getLogger("uringloop")
    log.addFilter(take)
    yield lambda: "\n".join(lines)
    log.removeFilter(take)


@pytest.fixture
def pipe():
    """A non-blocking reader, and the fd to write to."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    yield reading, writing
    os.close(reading)
    os.close(writing)

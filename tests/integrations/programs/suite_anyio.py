"""Tests for anyio's pytest plugin."""

import anyio
import pytest
from inside import check_loop

import uringloop


@pytest.fixture
def anyio_backend():
    return "asyncio", {"loop_factory": uringloop.new_event_loop}


@pytest.mark.anyio
async def test_a_task_group():
    check_loop()
    seen = []
    async with anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(record, seen, number)
    assert sorted(seen) == list(range(10))


async def record(seen, number):
    await anyio.sleep(0)
    seen.append(number)

"""The ready queue: first in, first out, with one reference to each handle."""

import gc
import sys
import weakref
from collections import deque

import pytest
from drivers.core import ReadyQueueDriver
from hypothesis import given, settings
from hypothesis import strategies as st

FIRST_CAPACITY = 64


@given(st.lists(st.integers(-150, 150), max_size=40))
@settings(max_examples=100, deadline=None)
def test_queue_agrees_with_a_deque(steps):
    """A positive step pushes that many handles, a negative one pops that many."""
    queue, model = ReadyQueueDriver(), deque()
    for step in steps:
        for _ in range(step):
            model.append(queue.push(None))
        for _ in range(min(-step, len(model))):
            assert queue.pop() is model.popleft()
        assert len(queue) == len(model)
    while model:
        assert queue.pop() is model.popleft()


@pytest.mark.parametrize("count", [FIRST_CAPACITY - 1, FIRST_CAPACITY, FIRST_CAPACITY + 1, 5000])
@pytest.mark.parametrize("offset", [0, 1, FIRST_CAPACITY - 1, 1000])
def test_queue_grows_wherever_its_head_is(count, offset):
    queue = ReadyQueueDriver()
    for _ in range(offset):
        queue.push(None)
        queue.pop()
    handles = [queue.push(None) for _ in range(count)]
    assert [queue.pop() for _ in range(count)] == handles
    assert len(queue) == 0


def test_empty_queue_has_nothing_to_pop():
    queue = ReadyQueueDriver()
    with pytest.raises(IndexError):
        queue.pop()


@pytest.mark.parametrize("end", ["pop", "clear"])
def test_queue_keeps_exactly_one_reference(end):
    queue = ReadyQueueDriver()
    handle = queue.push(None)
    before = sys.getrefcount(handle)
    getattr(queue, end)()
    assert sys.getrefcount(handle) == before - 1


def test_collected_queue_drops_its_handles():
    queue = ReadyQueueDriver()
    gone = [weakref.ref(queue.push(None)) for _ in range(200)]
    assert all(handle() is not None for handle in gone)
    del queue
    gc.collect()
    assert all(handle() is None for handle in gone)


def test_handle_that_pushes_while_the_queue_is_cleared_is_dropped_too():
    queue = ReadyQueueDriver()
    pushed = []

    class Pushes:
        def __del__(self):
            pushed.append(weakref.ref(queue.push(None)))

    queue.push(None, Pushes())
    queue.push(None)
    queue.clear()
    assert len(queue) == 0
    assert [handle() for handle in pushed] == [None]

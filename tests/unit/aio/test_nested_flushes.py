"""Flushes inside flushes: collected data is written once, even if a flush starts inside another.
A flush runs no user code, but it may release the last reference to an object, whose destructor may do anything.
"""

import sys

import pytest
from drivers.core import RecordingFlushable

MUCH = 1 << 20  # bytes that are flushed at once


def references(flushables):
    return [sys.getrefcount(flushable) for flushable in flushables]


def mark(aio, flushables, n_bytes=1):
    for flushable in flushables:
        aio.mark_dirty(flushable, n_bytes)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_flush_that_marks_much_flushes_nothing_twice(aio, position):
    flushables = [RecordingFlushable() for _ in range(3)]
    others = [RecordingFlushable() for _ in range(3)]
    before = references([*flushables, *others])

    def write():
        flushables[position].callback = None
        mark(aio, others, MUCH)

    flushables[position].callback = write
    mark(aio, flushables)
    aio.poll(False)
    aio.poll(False)
    assert [one.n_flushes for one in flushables] == [1, 1, 1]
    assert [one.n_flushes for one in others] == [1, 1, 1]
    assert aio.n_dirty == 0
    assert references([*flushables, *others]) == before


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("again", ["poll", "settle"])
def test_a_turn_inside_a_flush_flushes_the_rest(aio, position, again):
    order = []
    flushables = [RecordingFlushable(lambda name=name: order.append(name)) for name in "abc"]
    late = RecordingFlushable(lambda: order.append("late"))
    before = references([*flushables, late])
    callback = flushables[position].callback

    def nested():
        callback()
        aio.mark_dirty(late)
        aio.poll(False) if again == "poll" else aio.settle()
        order.append("end of the inner turn")

    flushables[position].callback = nested
    mark(aio, flushables)
    aio.poll(False)
    aio.poll(False)
    del nested  # it refers to objects whose references are counted
    flushables[position].callback = None
    assert order == [*"abc", "late", "end of the inner turn"]
    assert aio.n_dirty == 0
    assert references([*flushables, late]) == before


def test_a_flushable_that_marks_itself_is_flushed_once_in_each_turn(aio):
    flushable = RecordingFlushable(lambda: aio.mark_dirty(flushable, MUCH))
    aio.mark_dirty(flushable)
    for count in range(1, 6):
        aio.poll(False)
        assert flushable.n_flushes == count
        assert aio.n_dirty == 1
    flushable.callback = None
    aio.poll(False)
    assert aio.n_dirty == 0


def test_an_inner_flush_that_fails_leaves_the_rest_for_later(aio):
    flushables = [RecordingFlushable() for _ in range(5)]
    before = references(flushables)

    def fail():
        raise OSError("no memory")

    def nested():
        with pytest.raises(OSError, match="no memory"):
            aio.poll(False)

    flushables[0].callback, flushables[2].callback = nested, fail
    mark(aio, flushables)
    aio.poll(False)
    aio.poll(False)
    assert [one.n_flushes for one in flushables] == [1] * 5
    assert aio.n_dirty == 0
    flushables[0].callback = flushables[2].callback = None
    assert references(flushables) == before


def test_many_flushables_may_be_marked_while_an_inner_flush_runs(aio):
    """There are more than the list has room for, so that it is moved while it is read."""
    others = [RecordingFlushable() for _ in range(1000)]
    before = references(others)

    def write():
        mark(aio, others[:500])
        aio.poll(False)
        mark(aio, others[500:])

    first, last = RecordingFlushable(write), RecordingFlushable()
    aio.mark_dirty(first)
    aio.mark_dirty(last)
    aio.poll(False)
    aio.poll(False)
    assert {one.n_flushes for one in [first, last, *others]} == {1}
    assert aio.n_dirty == 0
    assert references(others) == before

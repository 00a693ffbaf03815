"""The queue of chunks to send, against a model that is one bytes object."""

import sys

import pytest
from drivers.core import SendQueueDriver
from hypothesis import given, settings
from hypothesis import strategies as st

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("push"), st.binary(max_size=20)),
        st.tuples(st.just("push many"), st.integers(1, 400)),
        st.tuples(st.just("consume"), st.floats(0, 1)),
        st.tuples(st.just("fill"), st.integers(0, 50)),
        st.tuples(st.just("clear"), st.none()),
    ),
    max_size=40,
)


@given(STEPS)
@settings(max_examples=200, deadline=None)
def test_queue_agrees_with_bytes(steps):
    queue, model = SendQueueDriver(), b""
    for step, argument in steps:
        if step == "push":
            queue.push(argument)
            model += argument
        elif step == "push many":
            for number in range(argument):
                queue.push(bytes([number % 256]))
                model += bytes([number % 256])
        elif step == "consume":
            count = int(len(model) * argument)
            queue.consume(count)
            model = model[count:]
        elif step == "fill":
            filled = queue.fill(argument)
            assert len(filled) <= argument
            assert model.startswith(b"".join(filled))
        else:
            queue.clear()
            model = b""
        assert queue.n_bytes == len(model)
        assert b"".join(queue.fill(1 << 16)) == model


@given(st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=30), st.data())
@settings(max_examples=100, deadline=None)
def test_queue_is_sent_whole_by_any_short_writes(chunks, data):
    queue = SendQueueDriver()
    for chunk in chunks:
        queue.push(chunk)
    sent = b""
    while queue.n_bytes:
        offered = b"".join(queue.fill(data.draw(st.integers(1, 8))))
        assert offered
        taken = data.draw(st.integers(1, len(offered)))
        sent += offered[:taken]
        queue.consume(taken)
    assert sent == b"".join(chunks)
    assert queue.fill(8) == []


def test_chunk_is_held_until_its_last_byte_is_consumed():
    queue = SendQueueDriver()
    first, second = bytes(range(100)), bytes(range(100, 200))
    before = sys.getrefcount(first), sys.getrefcount(second)
    queue.push(first)
    queue.push(second)
    assert (sys.getrefcount(first), sys.getrefcount(second)) == (before[0] + 1, before[1] + 1)
    queue.consume(99)
    assert sys.getrefcount(first) == before[0] + 1
    queue.consume(1)
    assert sys.getrefcount(first) == before[0]
    queue.consume(100)
    assert sys.getrefcount(second) == before[1]


def test_chunks_are_not_copied():
    queue = SendQueueDriver()
    chunk = bytes(1 << 20)
    before = sys.getrefcount(chunk)
    queue.push(chunk)
    assert sys.getrefcount(chunk) == before + 1


def test_queue_that_never_runs_empty_does_not_grow_without_limit():
    queue = SendQueueDriver()
    queue.push(b"a")
    for _ in range(10_000):
        queue.push(b"b")
        queue.consume(1)
    assert queue.n_bytes == 1
    assert queue.n_chunks < 600


def test_fill_returns_at_most_the_given_number_of_entries():
    queue = SendQueueDriver()
    for _ in range(2000):
        queue.push(b"xy")
    assert len(queue.fill(1024)) == 1024
    assert queue.fill(0) == []


def test_fill_stops_when_it_has_enough_bytes():
    """Even in the middle of a chunk."""
    queue = SendQueueDriver()
    for _ in range(10):
        queue.push(bytes(100))
    assert [len(entry) for entry in queue.fill(10, 250)] == [100, 100, 50]
    assert queue.fill(10, 0) == []


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_fill_starts_where_the_last_send_ended(taken):
    queue = SendQueueDriver()
    queue.push(b"hello")
    queue.push(b"world")
    queue.consume(taken)
    assert b"".join(queue.fill(8)) == b"helloworld"[taken:]


def test_empty_chunks_are_harmless():
    queue = SendQueueDriver()
    for chunk in (b"", b"a", b"", b"b", b""):
        queue.push(chunk)
    assert queue.n_bytes == 2
    queue.consume(1)
    assert b"".join(queue.fill(8)) == b"b"
    queue.consume(1)
    assert queue.n_chunks == 0


def test_fill_ends_at_the_maximum_of_one_send():
    """A length in an SQE has 32 bits, and a chunk may be longer."""
    queue = SendQueueDriver()
    queue.push(b"0123456789")
    queue.push(b"abc")
    assert queue.fill(8, 4) == [b"0123"]
    queue.consume(4)
    assert queue.fill(8, 8) == [b"456789", b"ab"]
    assert queue.fill(8, 6) == [b"456789"]

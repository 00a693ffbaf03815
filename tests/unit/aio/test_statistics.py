"""Statistics: one frozen object, which is also a mapping, with the same documented fields on every monitor."""

import collections.abc
import copy
import dataclasses
import pathlib
import pickle
import re
import socket
import subprocess
import sys
import threading

import pytest

import uringloop

OBSERVING = pathlib.Path(__file__).parents[3] / "docs" / "observing.md"
FIELDS = [field.name for field in dataclasses.fields(uringloop.Statistics)]


@pytest.fixture
def loop(real_fdmon_name):
    loop = uringloop.new_event_loop(fdmon=real_fdmon_name)
    yield loop
    loop.close()


def test_a_loop_and_its_context_return_the_same_statistics(loop):
    assert type(loop.statistics()) is uringloop.Statistics
    assert loop.statistics() == loop.aio_context.statistics()


def test_all_monitors_have_all_fields(loop, real_fdmon_name):
    numbers = loop.statistics()
    assert list(numbers) == FIELDS
    assert numbers.fdmon == real_fdmon_name
    assert all(type(numbers[name]) is int for name in FIELDS if name != "fdmon")


def test_turns_requests_and_handlers_are_counted(loop, real_fdmon_name):
    before = loop.statistics()
    near, far = socket.socketpair()
    with near, far:
        loop.add_reader(near, lambda: (near.recv(1), loop.stop()))
        assert loop.statistics().handlers == before.handlers + 1
        far.send(b"x")
        loop.run_forever()
        after = loop.statistics()
        loop.remove_reader(near)
    assert after.turns > before.turns == 0
    assert after.syscalls > before.syscalls
    assert (after.submitted > 0) == (after.completed > 0) == (real_fdmon_name == "io_uring")
    assert loop.statistics().handlers == before.handlers


def test_a_wake_up_by_another_thread_is_counted(loop):
    """Only if the loop sleeps: another thread tries until it does."""
    assert loop.statistics().wakeups == 0
    has_run = threading.Semaphore(0)

    def wake():
        while not loop.statistics().wakeups:
            loop.call_soon_threadsafe(has_run.release)
            has_run.acquire()
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=wake)
    thread.start()
    loop.run_forever()
    thread.join()
    assert loop.statistics().wakeups > 0


def test_statistics_are_frozen(loop):
    before = loop.statistics()
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert before.turns == 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.turns = 7
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.others = 7
    with pytest.raises(dataclasses.FrozenInstanceError):
        del before.turns
    assert before != loop.statistics()


def test_statistics_are_a_mapping(loop):
    numbers = loop.statistics()
    assert isinstance(numbers, collections.abc.Mapping)
    assert dict(numbers) == dataclasses.asdict(numbers) == {name: getattr(numbers, name) for name in FIELDS}
    assert len(numbers) == len(FIELDS)
    assert "turns" in numbers
    assert "items" not in numbers  # other attributes are not items
    assert numbers.get("items") is None
    with pytest.raises(KeyError):
        numbers["items"]
    with pytest.raises(TypeError):
        numbers["turns"] = 7


def test_equal_statistics_are_equal(loop):
    numbers, others = loop.statistics(), loop.statistics()
    assert numbers is not others
    assert numbers == others == dict(numbers)
    assert hash(numbers) == hash(others)
    assert copy.copy(numbers) == pickle.loads(pickle.dumps(numbers)) == numbers
    assert dataclasses.replace(numbers, turns=7) != numbers


def test_the_repr_names_the_fields(loop, real_fdmon_name):
    assert repr(loop.statistics()).startswith(f"Statistics(fdmon={real_fdmon_name!r}, turns=0, ")


def test_statistics_without_a_field_are_refused():
    """If count_into() counted something without a field, every call would fail."""
    with pytest.raises(TypeError, match="others"):
        uringloop.Statistics(fdmon="poll", others=1)


def test_the_document_describes_each_field_and_no_other():
    section = re.search(r"^## Counters$.*?(?=^## )", OBSERVING.read_text(), re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.*)\|$", section[0], re.MULTILINE)
    assert [name for name, _, _ in rows] == FIELDS
    assert [name for name, _, unit in rows if not unit.strip()] == ["fdmon"]


def test_a_program_without_statistics_does_not_load_them():
    script = (
        "import asyncio, sys; before = {*sys.modules}; import uringloop\n"
        "assert not {'dataclasses', 'uringloop.aiocontext.statistics'} & {*sys.modules} - before"
    )
    subprocess.run([sys.executable, "-c", script], check=True)

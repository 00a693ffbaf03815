"""KeyboardInterrupt and SystemExit from callbacks end the run, and nothing is lost."""

import asyncio
import socket
import sys

import pytest
from support.helpers import one_turn, run, turn_until


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_interrupt_in_a_callback_leaves_run_forever_and_loses_no_callback(loop, kind):
    def interrupt():
        raise kind

    ran = []
    loop.call_soon(ran.append, 1)
    loop.call_soon(interrupt)
    loop.call_soon(ran.append, 2)
    loop.call_soon(ran.append, 3)
    loop.call_later(0.001, ran.append, "timer")
    with pytest.raises(kind):
        loop.run_forever()
    assert not loop.is_running()
    assert ran == [1]
    turn_until(loop, lambda: len(ran) == 4)
    assert ran == [1, 2, 3, "timer"]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_several_interrupts_leave_one_run_each(loop, kind):
    def interrupt():
        raise kind

    ran = []
    for number in range(3):
        loop.call_soon(interrupt)
        loop.call_soon(ran.append, number)
    for _ in range(3):
        with pytest.raises(kind):
            loop.run_forever()
    one_turn(loop)
    assert ran == [0, 1, 2]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_a_reader_that_always_interrupts_does_not_starve_the_writer_of_its_fd(loop, kind):
    def interrupt():
        ran.append("reader")
        raise kind

    ran = []
    near, far = socket.socketpair()
    with near, far:
        far.send(b"x")
        loop.add_reader(near, interrupt)
        loop.add_writer(near, ran.append, "writer")
        for _ in range(2):
            with pytest.raises(kind):
                one_turn(loop)
        loop.remove_reader(near)
        loop.remove_writer(near)
    assert ran == ["reader", "writer", "reader"]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_interrupt_in_a_timer_leaves_run_forever_and_loses_no_timer(loop, kind):
    def interrupt():
        raise kind

    ran = []
    now = loop.time()
    loop.call_at(now, ran.append, 1)
    loop.call_at(now, interrupt)
    loop.call_at(now, ran.append, 2)
    loop.call_at(now + 0.001, ran.append, 3)
    with pytest.raises(kind):
        loop.run_forever()
    turn_until(loop, lambda: len(ran) == 3)
    assert ran == [1, 2, 3]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_interrupt_in_a_reader_leaves_run_forever_and_loses_no_other_reader(loop, kind):

    pairs = [socket.socketpair() for _ in range(5)]
    seen = []

    def read(number):
        try:
            pairs[number][0].recv(1)
        except BlockingIOError:  # the interrupted turn may have queued it twice, as stock asyncio does
            return
        seen.append(number)
        if number == 2:
            raise kind

    for number, (near, far) in enumerate(pairs):
        near.setblocking(False)
        loop.add_reader(near, read, number)
        far.send(b"x")
    with pytest.raises(kind):
        turn_until(loop, lambda: len(seen) == 5)
    turn_until(loop, lambda: len(seen) == 5)
    assert sorted(seen) == [0, 1, 2, 3, 4]
    for near, far in pairs:
        loop.remove_reader(near)
        near.close()
        far.close()


def test_system_exit_from_a_task_leaves_run_until_complete(loop):
    async def leave():
        sys.exit(3)

    with pytest.raises(SystemExit) as caught:
        loop.run_until_complete(leave())
    assert caught.value.code == 3
    assert run(loop, asyncio.sleep(0, "usable")) == "usable"


def test_interrupt_does_not_leave_a_stop_behind(loop):
    def interrupt():
        loop.stop()
        raise KeyboardInterrupt

    loop.call_soon(interrupt)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    ran = []
    loop.call_later(0.001, ran.append, 1)
    loop.call_later(0.002, loop.stop)
    loop.run_forever()
    assert ran == [1]

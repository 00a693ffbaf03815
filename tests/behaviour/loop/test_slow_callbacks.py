"""Slow callbacks: debug mode logs them, and `slow_callback_hook` is called."""

import asyncio
import logging
import socket
import time

import pytest
from support.helpers import STOCK, monitor_of, one_turn, run, run_script, turn_until, turns


@pytest.fixture
def debugged(loop):
    loop.set_debug(True)
    yield loop
    loop.set_debug(False)


def test_slow_callbacks_are_logged(debugged, caplog):
    debugged.slow_callback_duration = 0.005

    def slow():
        time.sleep(0.01)

    debugged.call_soon(slow)
    with caplog.at_level(logging.WARNING, "asyncio"):
        one_turn(debugged)
    assert "Executing <Handle" in caplog.text
    assert "slow" in caplog.text
    assert "took" in caplog.text


def test_slow_callbacks_are_logged_when_the_environment_switches_debug_on(monitor):
    printed = run_script(
        """
        import logging
        logging.basicConfig(format="%(message)s", stream=sys.stdout)
        loop = make_loop(MONITOR)
        loop.slow_callback_duration = 0
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.close()
        """,
        monitor,
        env={"PYTHONASYNCIODEBUG": "1"},
    )
    assert "Executing <Handle" in printed


def exchange(loop, received):
    """Send one message to a protocol whose data_received is `received`."""

    class Receiver(asyncio.Protocol):
        def data_received(self, data):
            received(data)

    async def main():
        left, right = socket.socketpair()
        left.setblocking(False)
        transport, _ = await loop.create_connection(Receiver, sock=left)
        right.sendall(b"x")
        await turns(5)
        transport.close()
        right.close()
        await turns(3)

    run(loop, main())


def test_a_slow_data_received_is_logged(debugged, caplog):
    debugged.slow_callback_duration = 0.005
    with caplog.at_level(logging.WARNING, "asyncio"):
        exchange(debugged, lambda data: time.sleep(0.01))
    assert "Executing <" in caplog.text
    assert "ransport" in caplog.text


@pytest.fixture
def hooked(loop):
    """A uringloop loop with a hook, and the list of the hook's calls."""
    if monitor_of(loop) == STOCK:
        pytest.skip("only uringloop has the hook")
    reported = []
    loop.slow_callback_hook = lambda what, seconds: reported.append((what, seconds))
    loop.slow_callback_duration = 0.005
    yield loop, reported
    loop.slow_callback_hook = None
    reported.clear()


def test_the_hook_is_called_for_slow_callbacks_without_debug_mode(hooked, caplog):
    loop, reported = hooked

    def slow():
        time.sleep(0.006)

    handle = loop.call_soon(slow)
    loop.call_soon(int)
    one_turn(loop)
    assert [what for what, _ in reported] == [handle]
    assert 0.006 <= reported[0][1] < 5
    timer = loop.call_later(0, slow)
    turn_until(loop, lambda: len(reported) == 2)
    assert reported[1][0] is timer
    assert "Executing" not in caplog.text


def test_the_hook_is_called_for_slow_readers_and_protocols(hooked):
    loop, reported = hooked
    left, right = socket.socketpair()
    with left, right:
        loop.add_reader(left, lambda: time.sleep(0.006) or loop.remove_reader(left))
        right.send(b"x")
        turn_until(loop, lambda: reported)
    assert isinstance(reported[0][0], asyncio.Handle)
    exchange(loop, lambda data: time.sleep(0.006))
    assert isinstance(reported[1][0], asyncio.Transport)
    assert len(reported) == 2


def test_the_hook_names_the_task(hooked):
    loop, reported = hooked

    async def slow():
        time.sleep(0.006)

    task = loop.create_task(slow())
    run(loop, task)
    assert reported[0][0] is task


@pytest.mark.expects_loop_errors
def test_a_hook_that_fails_is_reported(hooked, loop_errors):
    loop, _ = hooked
    loop.slow_callback_duration = 0
    loop.slow_callback_hook = lambda what, seconds: 1 / 0
    loop.call_soon(int)
    one_turn(loop)
    loop.slow_callback_hook = None
    assert {type(context["exception"]) for context in loop_errors} == {ZeroDivisionError}
    loop_errors.clear()


def test_the_hook_can_remove_itself(hooked):
    loop, reported = hooked
    loop.slow_callback_duration = 0

    def once(what, seconds):
        reported.append(what)
        loop.slow_callback_hook = None

    loop.slow_callback_hook = once
    for _ in range(3):
        loop.call_soon(int)
    one_turn(loop)
    assert len(reported) == 1
    assert loop.slow_callback_hook is None


def test_a_hook_must_be_callable(hooked):
    loop, _ = hooked
    with pytest.raises(TypeError, match="callable"):
        loop.slow_callback_hook = 5

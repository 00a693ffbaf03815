"""LoopGroup: members, calls, services; how connections are shared is in test_sharing.py."""

import asyncio
import os
import pickle
import socket
import sys
import threading

import pytest
from support import group_functions as functions
from support.group_tools import KINDS, ask, close, connect, counted, read
from support.helpers import run_script, until

import uringloop
from uringloop.group import interpreters

# -- members and calls


async def test_members_run_in_threads_of_their_own_on_the_monitor_requested(new_group):
    async with new_group(3) as group:
        ids = {await group.submit(functions.thread_id, member=index) for index in range(3)}
        monitors = {await group.submit(functions.monitor, member=index) for index in range(3)}
        assert len(group) == 3
        assert "serving, serving, serving" in repr(group)
    assert len(ids | {threading.get_ident()}) == 4
    assert monitors == {asyncio.get_running_loop().fdmon}
    assert "ended, ended, ended" in repr(group)


async def test_calls_return_results_and_raise_what_they_raised(new_group):
    async with new_group() as group:
        assert await asyncio.gather(*[group.submit(functions.add, n, other=n) for n in range(20)]) == [
            2 * n for n in range(20)
        ]
        with pytest.raises(LookupError, match="remote"):
            await group.submit(functions.raises)


async def test_calls_go_to_the_member_with_the_fewest(new_group, pipe):
    async with new_group() as group:
        waiting = [group.submit(functions.wait_for_ever, pipe[1]) for _ in range(4)]
        await read(pipe[0], 4)
        assert [member.calls for member in (await group.statistics()).members] == [2, 2]
        for call in waiting:
            call.cancel()
        assert await read(pipe[0], 4) == b"2222"


async def test_to_cancel_the_future_cancels_the_call(new_group, pipe):
    async with new_group(1) as group:
        call = group.submit(functions.wait_for_ever, pipe[1])
        assert await read(pipe[0], 1) == b"1"
        call.cancel()
        assert await read(pipe[0], 1) == b"2"
        assert await group.submit(functions.add, 1) == 1


@pytest.mark.skipif("interpreter" not in KINDS, reason="sub-interpreters from Python 3.13 on")
@pytest.mark.parametrize("kind", ["interpreter"])
async def test_what_cannot_cross_interpreters_is_refused_with_the_reason(new_group):
    async with new_group(1) as group:
        with pytest.raises((TypeError, AttributeError, pickle.PicklingError), match=r"pickle|local"):
            group.submit(lambda: None)
        with pytest.raises(TypeError, match="pickle"):
            await group.submit(functions.returns_what_cannot_be_pickled)
        with pytest.raises(RuntimeError, match="Unpicklable: only by text") as caught:
            await group.submit(functions.raises_what_cannot_be_pickled)
        assert "in member 0 of the LoopGroup" in caught.value.__notes__[0]
        in_main = type(functions.add)(functions.add.__code__, {"__name__": "__main__"})
        with pytest.raises(ValueError, match="is in __main__, which another interpreter cannot import"):
            group.submit(in_main, 1)
        assert await group.submit(functions.add, 1) == 1


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="1 to 1024 members, not 0"):
        uringloop.LoopGroup(0)
    with pytest.raises(ValueError, match="kind must be"):
        uringloop.LoopGroup(1, kind="process")
    if not interpreters.ARE_THERE:
        with pytest.raises(ValueError, match=r"new in Python 3\.12"):
            uringloop.LoopGroup(1, kind="interpreter")
    assert len(uringloop.LoopGroup()) == len(os.sched_getaffinity(0))


async def test_a_group_is_used_between_start_and_stop(new_group):
    group = new_group(1)
    with pytest.raises(RuntimeError, match="was not started"):
        group.submit(functions.add, 1)
    with pytest.raises(RuntimeError, match="was not started"):
        await group.wait()
    await group.start()
    with pytest.raises(RuntimeError, match="started before"):
        await group.start()
    waiting = asyncio.ensure_future(group.wait())
    await group.stop()
    await waiting
    await group.stop()
    with pytest.raises(RuntimeError, match="was stopped"):
        group.submit(functions.add, 1)
    with pytest.raises(RuntimeError, match="was stopped"):
        await group.restart(0)


async def test_a_group_whose_loops_cannot_be_made_is_not_started(new_group, said):
    group = new_group(2, fdmon="no such monitor")
    with pytest.raises(ValueError, match="no such monitor"):
        await group.start()
    assert "ended, ended" in repr(group)
    assert not said()


async def test_a_group_belongs_to_any_asyncio_loop(kind):
    async def main():
        async with uringloop.LoopGroup(2, kind=kind) as group:
            [sock] = await group.serve(functions.Echo, "127.0.0.1", 0)
            connection = await connect(sock)
            assert await ask(connection, b"hello") == b"hello"
            await close(connection)
            return await group.submit(functions.add, 1)

    def in_thread():
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            return runner.run(main())

    assert await asyncio.to_thread(in_thread) == 1


def test_a_program_ends_although_it_has_not_stopped_its_group(monitor, kind):
    source = """
        from support import group_functions

        async def main():
            group = uringloop.LoopGroup(2, kind=KIND, fdmon=MONITOR)
            await group.start()
            await group.serve(group_functions.Echo, "127.0.0.1", 0)
            print("forgotten")

        import uringloop, warnings
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, category, *where: print(category.__name__, message)
        asyncio.run(main())
    """
    said = run_script(source.replace("KIND", repr(kind)), monitor)  # then of its sockets, too
    assert said.startswith("forgotten\nResourceWarning a LoopGroup was not stopped: 2 members\n")


def test_a_program_ends_although_its_group_starts(monitor, kind):
    source = """
        import logging, threading, warnings
        has_ended = threading.Event()
        threading._register_atexit(has_ended.set)  # after the group's, which is registered later
        import uringloop
        from uringloop.group import member

        async def late(self, connect, main=member.MemberMain.main):
            has_ended.wait()
            await main(self, connect)

        member.MemberMain.main = late
        warnings.simplefilter("ignore")
        logging.disable()
        loop = uringloop.new_event_loop(MONITOR)
        group = uringloop.LoopGroup(2, kind=KIND, fdmon=MONITOR)
        task = loop.create_task(group.start())
        loop.run_until_complete(asyncio.sleep(0))
        print("forgotten")
    """
    assert run_script(source.replace("KIND", repr(kind)), monitor) == "forgotten\n"


async def test_an_exception_that_takes_no_notes_ends_its_call_only(new_group, pipe):
    async with new_group(1) as group:
        other = group.submit(functions.wait_for_ever, pipe[1])
        await read(pipe[0], 1)
        with pytest.raises(functions.Frozen) as caught:
            await group.submit(functions.raises_frozen)
        assert caught.value.code == 4
        assert not other.done()
        other.cancel()


async def test_a_member_is_started_again_whatever_its_start_has_raised(new_group, said, tmp_path):
    path = tmp_path / "file"
    async with new_group(1) as group:
        await group.run(functions.stays_unless, path)
        path.touch()
        with pytest.raises(uringloop.MemberEnded):
            await group.submit(functions.leave)
        await until(lambda: "could not be started again" in said())
        path.unlink()
        await until(lambda: group._places[0].n_restarts == 1)


async def test_a_group_is_used_in_the_loop_that_started_it(new_group):
    async with new_group(1) as group:

        async def elsewhere():
            for use in (group.submit, group.stop, group.wait, group.statistics):
                with pytest.raises(RuntimeError, match="belongs to the loop that started it"):
                    await (use(functions.add, 1) if use == group.submit else use())

        def in_thread():
            with pytest.raises(RuntimeError, match="belongs to the loop that started it"):
                group.submit(functions.add, 1)
            with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
                runner.run(elsewhere())

        await asyncio.to_thread(in_thread)
        for index in (1, -1):
            with pytest.raises(IndexError, match="has members 0 to 0"):
                group.submit(functions.add, 1, member=index)
            with pytest.raises(IndexError, match="has members 0 to 0"):
                await group.restart(index)
        with pytest.raises(ValueError, match="Neither host/port"):
            await group.serve(functions.Echo)
        with pytest.raises(TypeError, match="start_serving"):
            await group.serve(functions.Echo, "127.0.0.1", 0, start_serving=False)


# -- services


async def test_a_service_runs_in_each_member_until_the_group_ends(new_group, pipe):
    async with new_group() as group:
        assert await group.run(functions.service, pipe[1], 3) == []
        assert sorted([await read(pipe[0], 2), await read(pipe[0], 2)]) == [b"+3", b"+4"]
    assert sorted([await read(pipe[0], 2), await read(pipe[0], 2)]) == [b"-3", b"-4"]


async def test_a_service_that_does_not_ask_is_cancelled_at_the_end(new_group, pipe):
    async with new_group() as group:
        await group.run(functions.deaf_service, pipe[1])
        assert await read(pipe[0], 2) == b"++"
    assert await read(pipe[0], 2) == b"cc"


async def test_a_service_that_cannot_start_is_reported_and_leaves_no_listener(new_group, pipe):
    async with new_group() as group:
        with pytest.raises(LookupError, match="cannot start"):
            await group.run(functions.failing_service)
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = free.getsockname()
        with pytest.raises(LookupError, match="cannot start"):
            await group.run(functions.failing_service, host=address[0], port=address[1])
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*address)
        with pytest.raises(LookupError, match="only in member 1"):
            await group.run(functions.service_of_member_0, pipe[1])
        assert await read(pipe[0], 2) == b"+c"
        assert await group.submit(functions.add, 1) == 1


async def test_a_service_that_fails_later_ends_wait_where_members_are_not_started_again(
    new_group, pipe, said
):
    async with new_group(2, restart=False) as group:
        await group.run(functions.service_that_fails_later, pipe[0])
        os.write(pipe[1], b"now")
        with pytest.raises(LookupError, match="failed later"):
            await group.wait()
    assert "has failed in member" in said()


async def test_a_service_that_fails_later_is_started_again_with_its_member(new_group, pipe, said):
    async with new_group(1) as group:
        await group.run(functions.service_that_fails_later, pipe[0])
        os.write(pipe[1], b"1")
        while (await group.statistics()).restarts == 0:
            await asyncio.sleep(0)
        os.write(pipe[1], b"1")
        while (await group.statistics()).restarts == 1:
            await asyncio.sleep(0)
    assert "member 0 of a LoopGroup has ended" in said()


# -- members that end


@pytest.mark.expects_loop_errors
async def test_a_member_that_dies_is_started_again_and_serves_again(new_group, pipe, said):
    async with new_group() as group:
        [sock] = await group.serve(functions.Echo, "127.0.0.1", 0)
        connections = [await connect(sock) for _ in range(4)]
        for connection in connections:
            await ask(connection, b"hello")
        await counted(group, 2, 2)
        call = group.submit(functions.wait_for_ever, pipe[1], member=0)
        await read(pipe[0], 1)
        dying = group.submit(functions.die, member=0)
        for future in (dying, call):
            with pytest.raises(uringloop.MemberEnded, match="member 0 of the LoopGroup has ended"):
                await future
        answers = []
        for connection in connections:
            try:
                answers.append(await ask(connection, b"hello"))
            except ConnectionError:
                answers.append(b"")
        assert sorted(answers) == [b"", b"", b"hello", b"hello"]
        while (numbers := await group.statistics()).members[0].restarts == 0:
            await asyncio.sleep(0)
        assert [member.state for member in numbers.members] == ["serving", "serving"]
        for connection in connections:
            await close(connection)
        await counted(group, 0, 0)
        connections = [await connect(sock) for _ in range(4)]
        for connection in connections:
            assert await ask(connection, b"hello") == b"hello"
        await counted(group, 2, 2)
        for connection in connections:
            await close(connection)
    assert "member 0 of a LoopGroup has ended" in said()


@pytest.mark.expects_loop_errors
async def test_a_member_that_dies_ends_wait_where_it_is_not_started_again(new_group, said):
    async with new_group(2, restart=False) as group:
        with pytest.raises(uringloop.MemberEnded):
            await group.submit(functions.die, member=1)
        with pytest.raises((SystemExit, RuntimeError), match="by request"):
            await group.wait()
        with pytest.raises(uringloop.MemberEnded):
            await group.submit(functions.add, 1, member=1)
        assert await group.submit(functions.add, 1) == 1
    assert "member 1 of a LoopGroup has ended" in said()


async def test_restart_replaces_a_member_and_runs_its_services_again(new_group, pipe):
    async with new_group() as group:
        await group.run(functions.service, pipe[1], 5)
        await read(pipe[0], 4)
        await group.restart(0)
        assert await read(pipe[0], 4) == b"-5+5"
        await group.restart(1)
        assert await read(pipe[0], 4) == b"-6+6"
        numbers = await group.statistics()
        assert [member.restarts for member in numbers.members] == [1, 1]
        assert numbers.restarts == 2
        assert numbers.loop["turns"] >= sum(1 for _ in numbers.members)
    assert sorted([await read(pipe[0], 2), await read(pipe[0], 2)]) == [b"-5", b"-6"]


async def test_restarts_at_the_same_time_leave_one_member_in_the_place(new_group):
    async with new_group() as group:
        await asyncio.gather(group.restart(0), group.restart(0), group.restart(1))
        assert (await group.statistics()).restarts == 3
        assert await group.submit(functions.add, 1, member=0) == 1
    assert [thread.name for thread in threading.enumerate() if "member" in thread.name] == []


async def test_a_restart_that_is_cancelled_goes_on(new_group, pipe):
    async with new_group(1) as group:
        await group.run(functions.service, pipe[1], 5)
        assert await read(pipe[0], 2) == b"+5"
        restart = asyncio.ensure_future(group.restart(0))
        while (await group.statistics()).members[0].state == "serving":
            await asyncio.sleep(0)
        restart.cancel()
        with pytest.raises(asyncio.CancelledError):
            await restart
        assert await read(pipe[0], 4) == b"-5+5"
        while (await group.statistics()).restarts == 0:
            await asyncio.sleep(0)


async def test_a_restart_that_fails_is_tried_again(new_group, pipe, said, tmp_path):
    fails = tmp_path / "fails"
    async with new_group(1) as group:
        await group.run(functions.service_that_fails_while_there_is, str(fails))
        fails.touch()
        with pytest.raises(LookupError, match="not now"):
            await group.restart(0)
        fails.unlink()
        while (await group.statistics()).members[0].state != "serving":
            await asyncio.sleep(0)
        assert await group.submit(functions.add, 1) == 1


async def test_one_call_of_run_that_fails_does_not_end_another(new_group):
    async with new_group() as group:
        served, failed = await asyncio.gather(
            group.serve(functions.Echo, "127.0.0.1", 0),
            group.run(functions.failing_service, host="127.0.0.1", port=0),
            return_exceptions=True,
        )
        assert isinstance(failed, LookupError)
        connection = await connect(served[0])
        assert await ask(connection, b"hello") == b"hello"
        await close(connection)


async def test_a_member_whose_thread_cannot_be_made_fails_the_start(new_group, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    group = new_group()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        await group.start()
    monkeypatch.undo()
    with pytest.raises(RuntimeError, match="started before"):
        await group.start()


@pytest.mark.expects_loop_errors
async def test_connections_of_a_member_that_exits_are_closed(new_group, said):
    async with new_group(1) as group:
        [sock] = await group.serve(functions.Exits, "127.0.0.1", 0)
        connections = [await connect(sock) for _ in range(4)]
        for connection in connections:
            try:
                assert await connection[0].read() == b""
            except ConnectionResetError:
                pass
            await close(connection)


async def test_an_earlier_end_counts_for_all_calls_of_stop(new_group, pipe):
    group = new_group(1)
    await group.start()
    call = group.submit(functions.wait_for_ever, pipe[1])
    await read(pipe[0], 1)
    patient = asyncio.ensure_future(group.stop(1000))
    while (await group_state(group)) == "serving":
        await asyncio.sleep(0)
    await group.stop(0)
    await patient
    with pytest.raises(uringloop.MemberEnded):
        await call


async def group_state(group):
    await asyncio.sleep(0)
    return "serving" if "serving" in repr(group) else "draining"


async def test_names_and_functions_of_the_wrong_kind_are_refused(new_group):
    async with new_group(1) as group:
        for call in (group.submit, group.run, group.serve):
            with pytest.raises(TypeError, match="a function was expected"):
                found = call("statistics")
                await found


async def test_stop_waits_for_calls_and_aborts_them_after_the_timeout(new_group, pipe):
    group = new_group(1)
    await group.start()
    call = group.submit(functions.wait_for_ever, pipe[1])
    await read(pipe[0], 1)
    await group.stop(0.05)
    with pytest.raises((uringloop.MemberEnded, asyncio.CancelledError)):
        await call
    assert await read(pipe[0], 1) == b"2"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sub-interpreters with a GIL of their own")
def test_an_interpreter_is_the_default_from_python_3_13_on_with_a_gil():
    has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    assert uringloop.LoopGroup(1).kind == (
        "interpreter" if sys.version_info >= (3, 13) and has_gil else "thread"
    )

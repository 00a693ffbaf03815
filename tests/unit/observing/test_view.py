"""serve_view(): what it answers, to whom, and that no peer and no loop can hold it up."""

import asyncio
import contextlib
import json
import os
import socket
import stat
import threading

import pytest
from support.forking import run_forking
from support.helpers import turn_until, wait_until
from support.selection_tools import script

import uringloop
from uringloop.observing import describing, places, view


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The sockets of a test are in a folder of its own."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "uringloop"


@pytest.fixture
def served(folder):
    with uringloop.serve_view() as made:
        yield made


def connected(served):
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(20)
    connection.connect(str(served.path))
    return connection


def received(connection):
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def ask(served, request=places.STATE):
    with connected(served) as connection:
        connection.sendall(request)
        return json.loads(received(connection))


def loop_of(answer, thread=None):
    loops = [one for one in answer["loops"] if thread is None or one["thread"] == thread]
    assert len(loops) == 1, answer["loops"]
    return loops[0]


def record_begins(served, loop):
    """A loop that ran when the view began is recorded from when it gets to it."""
    turn_until(loop, lambda: ask(served)["loops"][0]["is_recorded"])


@contextlib.contextmanager
def in_thread(loop, name="a worker"):
    """The loop runs in a thread of that name."""
    thread = threading.Thread(target=loop.run_forever, name=name)
    thread.start()
    try:
        wait_until(loop.is_running)
        yield thread
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


@contextlib.contextmanager
def blocked(loop, name="a worker"):
    """The loop runs in another thread, in a callback that waits; the GIL is free meanwhile."""
    begun, ends = threading.Event(), threading.Event()

    def waits_for_a_lock():
        begun.set()
        ends.wait()

    with in_thread(loop, name):
        loop.call_soon_threadsafe(waits_for_a_lock)
        assert begun.wait(20)
        try:
            yield
        finally:
            ends.set()


# -- what it answers -----------------------------------------------------------------------------------------


def test_it_describes_the_process(served):
    process = ask(served)["process"]
    assert process["pid"] == os.getpid()
    assert process["fds"]["open"] >= sum(process["fds"]["kinds"].values()) > 0
    assert process["fds"]["kinds"]["socket"] >= 1
    assert process["threads"] == threading.active_count()


def test_it_describes_a_loop(loop, served):
    loop.call_soon(loop.stop)
    loop.run_forever()
    found = loop_of(ask(served))
    assert found["state"] == "stopped"
    assert found["fdmon"] == loop.fdmon
    assert found["statistics"] == json.loads(json.dumps(dict(loop.statistics())))
    assert found["recorded"]["callbacks"]
    assert found["stack"] == []


def test_a_ring_is_described_by_its_sizes_and_features(loop, served):
    ring = loop_of(ask(served))["ring"]
    if loop.fdmon != "io_uring":
        assert ring == {}
        return
    assert ring["cq_entries"] >= ring["sq_entries"] >= 64
    assert "NODROP" in ring["features"]
    assert "R_DISABLED" in ring["setup_flags"]


def test_a_waiting_loop_waits_in_the_thread_of_its_name(new_loop, served):
    loop = new_loop()
    with in_thread(loop):
        wait_until(lambda: loop_of(ask(served))["state"] == "waiting")
        found = loop_of(ask(served))
        assert found["thread"] == "a worker"
        assert found["recorded"]["utilization"] <= 1


def test_a_blocked_loop_is_blocked_in_the_callback_that_blocks_it(new_loop, served):
    loop = new_loop()
    with blocked(loop):
        wait_until(lambda: loop_of(ask(served))["state"] == "blocked")
        found = loop_of(ask(served))
    assert found["since_s"] >= describing.BLOCKED_S
    assert found["does"]["kind"] == "callback"
    assert found["does"]["name"].endswith("waits_for_a_lock")
    functions = [one["function"] for one in found["stack"]]
    assert functions[0] == "Condition.wait"
    at = next(one for one in found["stack"] if one["function"].endswith("waits_for_a_lock"))
    assert at["file"] == __file__
    assert at["line"] > 0
    assert found["recorded"]["callbacks"] is not None


def test_a_loop_that_was_blocked_before_the_view_began_is_shown_without_numbers(new_loop, folder):
    loop = new_loop()
    with blocked(loop), uringloop.serve_view() as served:
        wait_until(lambda: loop_of(ask(served))["state"] == "blocked")
        found = loop_of(ask(served))
        assert not found["is_recorded"]
        assert found["does"] is None
        assert any(one["function"].endswith("waits_for_a_lock") for one in found["stack"])


def test_a_loop_that_runs_already_is_recorded_from_its_next_turn(new_loop, folder):
    loop = new_loop()
    with in_thread(loop), uringloop.serve_view() as served:
        wait_until(lambda: loop_of(ask(served))["is_recorded"])
        assert loop_of(ask(served))["recorded"]["seconds"] > 0


def test_all_loops_are_shown_those_made_later_too(new_loop, served):
    first, second = new_loop(), new_loop()
    with in_thread(first, "first"), in_thread(second, "second"):
        wait_until(lambda: {one["thread"] for one in ask(served)["loops"]} == {"first", "second"})
        numbers = [one["number"] for one in ask(served)["loops"]]
        assert numbers == sorted(set(numbers))


def test_a_closed_loop_is_gone(new_loop, served):
    loop = new_loop()
    assert len(ask(served)["loops"]) == 1
    loop.close()
    assert ask(served)["loops"] == []


def test_a_view_does_not_keep_loops(monitor, served):
    import gc
    import weakref

    loop = uringloop.new_event_loop(fdmon=monitor)
    reference = weakref.ref(loop)
    loop.close()
    del loop
    gc.collect()
    assert reference() is None


def test_tasks_are_shown_with_what_they_await(loop, served):
    async def inner(event):
        await event.wait()

    async def outer(event):
        await inner(event)

    async def generator(event):
        await inner(event)
        yield

    async def of_generator(event):
        async for _ in generator(event):
            pass

    async def main():
        event = asyncio.Event()
        waits = asyncio.create_task(outer(event), name="waits")
        walks = asyncio.create_task(of_generator(event), name="walks")
        joins = asyncio.create_task(asyncio.wait_for(waits, None), name="joins")
        found = {"states": {}}
        while found["states"] != {"waiting": 4}:  # until this one waits, and is not just about to
            found = loop_of(await loop.run_in_executor(None, ask, served))["tasks"]
        event.set()
        await asyncio.gather(waits, walks, joins)
        return found

    found = loop.run_until_complete(main())
    assert found["total"] == 4
    tasks = {one["name"]: one for one in found["listed"]}
    names = [one["function"].rpartition(".")[2] for one in tasks["waits"]["awaits"]]
    assert names == ["outer", "inner", "wait"]
    assert tasks["waits"]["waits_for"] == "Future"
    assert tasks["waits"]["awaits"][0]["file"] == __file__
    assert tasks["walks"]["awaits"][0]["function"].endswith("of_generator")
    assert tasks["joins"]["waits_for"] == "task waits"


def test_a_ready_task_and_the_running_one_have_their_states(loop, served):
    async def other():
        pass

    async def main():
        ready = asyncio.create_task(other(), name="ready one")
        found = loop_of(ask(served))["tasks"]  # in the loop's thread, which waits here
        await ready
        return {one["name"]: one["state"] for one in found["listed"]}

    states = loop.run_until_complete(main())
    assert states.pop("ready one") == "ready"
    assert list(states.values()) == ["running"]


def test_many_tasks_are_counted_and_few_are_listed(loop, served):
    async def main():
        event = asyncio.Event()
        tasks = [asyncio.create_task(event.wait(), name="x" * 1000) for _ in range(1000)]
        await asyncio.sleep(0)
        found = await loop.run_in_executor(None, ask, served)
        event.set()
        await asyncio.gather(*tasks)
        return found

    found = loop_of(loop.run_until_complete(main()))["tasks"]
    assert found["total"] == sum(found["states"].values()) == 1001
    assert len(found["listed"]) - describing.MOST_TASKS in (0, 1)  # the running one is always there
    assert max(len(one["name"]) for one in found["listed"]) == describing.MOST_TEXT


def test_it_answers_while_a_loop_is_under_load(new_loop, served):
    loop = new_loop()

    def again():
        if not ended.is_set():
            loop.call_soon(again)

    ended = threading.Event()
    with in_thread(loop):
        loop.call_soon_threadsafe(again)
        turns = [loop_of(ask(served))["statistics"]["turns"] for _ in range(5)]
        ended.set()
    assert turns == sorted(turns)


def test_the_kernels_features_are_probed_once_and_only_for_io_uring(loop, served, request):
    first = ask(served, places.KERNEL)["features"]
    if loop.fdmon != "io_uring":
        assert first is None
        return
    assert {"name", "since", "is_available", "reason"} == set(first[0])
    assert ask(served, places.KERNEL)["features"] == first


# -- peers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_",
    [
        b"\n",
        b"uringloop-view 2 state\n",
        b"uringloop-view 1 STATE\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"\x80\x04\x95garbage\n",
        b"x" * 100,
        b"uringloop-view 1 state\nuringloop-view 1 state\n",
        b"uringloop-view 1 state \n",
    ],
)
def test_what_is_no_request_gets_no_answer(served, request_):
    with connected(served) as connection:
        connection.sendall(request_)
        assert received(connection) == b""
    assert ask(served)["protocol"] == places.PROTOCOL


def test_a_huge_line_is_not_read_to_its_end(served):
    with connected(served) as connection:
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while True:
                connection.sendall(b"x" * (1 << 16))
    assert ask(served)["protocol"] == places.PROTOCOL


def test_a_request_may_come_in_parts(served):
    with connected(served) as connection:
        for at in range(len(places.STATE)):
            connection.sendall(places.STATE[at : at + 1])
        assert json.loads(received(connection))["process"]["pid"] == os.getpid()


def test_half_a_request_and_the_end_get_no_answer(served):
    with connected(served) as connection:
        connection.sendall(places.STATE[:-1])
        connection.shutdown(socket.SHUT_WR)
        assert received(connection) == b""


def test_a_peer_that_stalls_keeps_no_other_waiting_and_is_dropped(monkeypatch, folder):
    monkeypatch.setattr(view, "PEER_S", 0.2)
    with uringloop.serve_view() as served, connected(served) as connection:
        connection.sendall(b"uring")
        assert ask(served)["protocol"] == places.PROTOCOL
        assert received(connection) == b""


def test_a_peer_that_does_not_read_its_answer_is_dropped(monkeypatch, folder, loop):
    monkeypatch.setattr(view, "PEER_S", 0.2)
    monkeypatch.setattr(view._Loops, "state", lambda self, most=1: {"text": "x" * (4 << 20)})
    with uringloop.serve_view() as served, connected(served) as connection:
        connection.sendall(places.STATE)
        wait_until(lambda: len(served._peers) == 1)
        wait_until(lambda: len(served._peers) == 0)
        assert len(received(connection)) < 4 << 20


def test_an_answer_has_a_largest_size(monkeypatch, served):
    monkeypatch.setattr(served._loops, "state", lambda most=1: {"text": "x" * places.MOST_ANSWER_BYTES})
    assert ask(served) == {"protocol": places.PROTOCOL, "error": "the answer is too large"}


def test_a_large_answer_is_made_without_tasks(monkeypatch, served, loop):
    async def main():
        tasks = [asyncio.create_task(asyncio.sleep(0), name="x" * 1000) for _ in range(100)]
        whole = len(json.dumps(ask(served)))
        monkeypatch.setattr(places, "MOST_ANSWER_BYTES", whole - 10_000)
        found = loop_of(ask(served))["tasks"]
        await asyncio.gather(*tasks)
        return found

    found = loop.run_until_complete(main())
    assert found["total"] == 101
    assert [one["state"] for one in found["listed"]] == ["running"]


def test_there_is_a_largest_number_of_peers(served):
    with contextlib.ExitStack() as stack:
        first = [stack.enter_context(connected(served)) for _ in range(view.MOST_PEERS)]
        wait_until(lambda: len(served._peers) == view.MOST_PEERS)
        with connected(served) as further:
            assert received(further) == b""
        for connection in first:
            connection.close()
        wait_until(lambda: len(served._peers) == 0)
    assert ask(served)["protocol"] == places.PROTOCOL


def test_another_user_is_refused(monkeypatch, served, caplog):
    monkeypatch.setattr(view.places, "peer_of", lambda connection: (1, os.geteuid() + 1))
    with connected(served) as connection:
        assert received(connection) == b""
    assert "refused a peer of user" in caplog.text


def test_the_users_of_both_ends_are_known(served):
    with connected(served) as connection:
        assert places.peer_of(connection) == (os.getpid(), os.geteuid())
    assert places.may_talk(0)
    assert places.may_talk(os.geteuid())
    assert not places.may_talk(os.geteuid() + 1)


def test_an_error_of_the_view_is_logged_and_it_goes_on(monkeypatch, served, caplog):
    def fails():
        raise ValueError("on purpose")

    with monkeypatch.context() as patched:
        patched.setattr(served._loops, "state", fails)
        with connected(served) as connection:
            connection.sendall(places.STATE)
            assert received(connection) == b""
        wait_until(lambda: "on purpose" in caplog.text)
    assert ask(served)["protocol"] == places.PROTOCOL


# -- the socket ----------------------------------------------------------------------------------------------


def test_the_socket_is_the_users_only_and_named_by_the_process(folder, served):
    assert served.path == folder / f"{os.getpid()}.sock"
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(served.path).st_mode) == 0o600
    assert os.listdir(folder) == [served.path.name]


def test_it_is_removed_at_the_end(folder):
    with uringloop.serve_view() as served:
        pass
    served.close()
    assert served.is_closed
    assert os.listdir(folder) == []


def test_two_views_of_a_process_have_two_sockets(served):
    with uringloop.serve_view() as second:
        assert second.path.name == f"{os.getpid()}.2.sock"
        assert ask(second)["process"]["pid"] == ask(served)["process"]["pid"]


def test_a_path_may_be_chosen_and_is_not_taken_from_another(tmp_path):
    path = tmp_path / "view"
    with uringloop.serve_view(path) as served:
        assert served.path == path
        with pytest.raises(FileExistsError):
            uringloop.serve_view(path)
        assert ask(served)["protocol"] == places.PROTOCOL
    (tmp_path / "file").write_text("kept")
    with pytest.raises(FileExistsError):
        uringloop.serve_view(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "kept"


def test_the_socket_of_a_process_that_was_killed_is_removed(folder):
    folder.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / "123.sock"))
    (folder / "not a socket of ours").write_text("kept")
    with uringloop.serve_view() as served:
        assert sorted(os.listdir(folder)) == sorted([served.path.name, "not a socket of ours"])


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_a_folder_that_others_may_enter_is_refused(folder, mode):
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(PermissionError, match="other users may enter"):
        uringloop.serve_view()
    assert list(places.sockets(folder, os.geteuid())) == []


def test_a_folder_of_another_user_or_a_link_is_refused(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError, match="is not a folder"):
        uringloop.serve_view()
    with pytest.raises(PermissionError, match="belongs to the user"):
        places.check_folder(tmp_path / "elsewhere", os.geteuid() + 1)


def test_without_a_runtime_folder_it_is_in_tmp(monkeypatch):
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert places.folders(os.geteuid()) == [places.Path(f"/tmp/uringloop-{os.geteuid()}")]


def test_recordings_end_with_the_view(new_loop, folder):
    loop = new_loop()
    with uringloop.serve_view() as served:
        record_begins(served, loop)
        recording = served._loops._recordings[loop]
    assert recording.is_closed


# -- processes -----------------------------------------------------------------------------------------------


def test_a_fork_child_does_not_serve_the_parents_socket(monitor, folder):
    run_forking(
        f"""
        import uringloop
        os.environ["XDG_RUNTIME_DIR"] = {str(folder.parent)!r}
        served = uringloop.serve_view()
        fds = set(os.listdir("/proc/self/fd"))

        def child():
            assert served.is_closed
            served.close()
            assert served.path.exists()
            assert len(os.listdir("/proc/self/fd")) == len(fds) - 3
            with uringloop.serve_view() as own:
                assert own.path.name == f"{{os.getpid()}}.sock"
                loop = uringloop.new_event_loop(fdmon={monitor!r})
                loop.close()

        ended(fork(child))
        assert served.path.exists() and not served.is_closed
        served.close()
        """,
        monitor,
    )


def test_a_fork_child_offers_its_own_view_if_the_environment_says_so(monitor, folder):
    run_forking(
        f"""
        os.environ["XDG_RUNTIME_DIR"] = {str(folder.parent)!r}
        os.environ["URINGLOOP_TOP"] = "1"
        import uringloop

        def names():
            return sorted(os.listdir({str(folder)!r}))

        uringloop.new_event_loop(fdmon={monitor!r}).close()
        assert names() == [f"{{os.getpid()}}.sock"]

        def child():
            before = names()
            loop = uringloop.new_event_loop(fdmon={monitor!r})
            assert names() == sorted([*before, f"{{os.getpid()}}.sock"])
            loop.close()

        ended(fork(child))
        uringloop.new_event_loop(fdmon={monitor!r}).close()
        from uringloop.observing import view
        assert len(names()) == 2  # the child ended without its handlers of atexit
        view.serve_view().close()
        assert names() == [f"{{os.getpid()}}.sock"]
        """,
        monitor,
    )


def test_the_loops_of_a_group_are_shown(loop, served):
    async def main():
        async with uringloop.LoopGroup(2, kind="thread"):
            return await loop.run_in_executor(None, ask, served)

    found = loop.run_until_complete(main())["loops"]
    assert len(found) == 3
    assert len({one["thread"] for one in found}) == 3


@pytest.mark.parametrize("value", ["1", "0", "", "path"])
def test_the_environment_offers_a_view(monitor, folder, value):
    wanted = str(folder.parent / "chosen") if value == "path" else value
    script(
        f"""
        folder = {str(folder)!r}
        loop = uringloop.new_event_loop(fdmon={monitor!r})
        other = uringloop.new_event_loop(fdmon={monitor!r})
        found = os.listdir(folder) if os.path.exists(folder) else []
        assert found == ([f"{{os.getpid()}}.sock"] if {value!r} == "1" else []), found
        assert os.path.exists({wanted!r}) == ({value!r} == "path")
        loop.close()
        other.close()
        """,
        env={"URINGLOOP_TOP": wanted, "XDG_RUNTIME_DIR": str(folder.parent)},
    )
    assert not folder.exists() or os.listdir(folder) == []


def test_a_program_runs_without_its_view_if_there_can_be_none(monitor, folder):
    folder.mkdir()
    folder.chmod(0o777)
    script(
        f"""
        lines = log("WARNING")
        loop = uringloop.new_event_loop(fdmon={monitor!r})
        works(loop)
        assert any("there is no live view" in text for _, text in lines), lines
        """,
        env={"URINGLOOP_TOP": "1", "XDG_RUNTIME_DIR": str(folder.parent)},
    )

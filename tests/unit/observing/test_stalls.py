"""uringloop.watch_stalls(): which line blocks the loop, and that healthy loops are not reported."""

import asyncio
import contextlib
import functools
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time

import pytest
from support.helpers import run_script

import uringloop

from . import planted_stalls

LIMIT_S = 0.02


def drive(loop, function, *args):
    """Run one callback."""
    loop.call_soon(function, *args)
    loop.call_soon(loop.stop)
    loop.run_forever()


@contextlib.contextmanager
def watching(loop, **options):
    """Also waits, at its end, until the last stall is over."""
    with uringloop.watch_stalls(loop, limit_s=LIMIT_S, **options) as watch:
        yield watch
        while watch.stalls and not watch.stalls[-1].is_over:
            os.sched_yield()


def until_named(loop, kind, run):
    """Run a stall, longer and longer: on a machine that others use, the watching thread may get no CPU.

    Returns: the stall.
    """
    for attempt in range(6):
        seconds = 0.1 * 2**attempt
        generator = kind(seconds)
        next(generator)
        with watching(loop, on_stall=lambda stall: None) as watch:
            run(generator)
        for stall in watch.stalls:
            if stall.file == planted_stalls.__file__ and stall.line in planted_stalls.lines_of(kind):
                return stall
    raise AssertionError(watch.stalls)


@pytest.mark.slow
@pytest.mark.parametrize("kind", planted_stalls.KINDS, ids=lambda kind: kind.__name__)
def test_a_stall_is_named_by_its_line(loop, kind):
    stall = until_named(loop, kind, lambda generator: drive(loop, next, generator, None))
    assert stall.frames[0].function == kind.__name__  # nothing of what is below the loop
    assert stall.name == "next"
    assert stall.is_over
    assert stall.seconds > LIMIT_S


@pytest.mark.slow
@pytest.mark.parametrize("kind", planted_stalls.KINDS, ids=lambda kind: kind.__name__)
def test_a_stall_of_a_task_is_named_by_its_line_and_the_task(loop, kind):
    async def blocks(generator):
        await asyncio.sleep(0)
        next(generator, None)
        await asyncio.sleep(0)

    async def serves(generator):
        await blocks(generator)

    stall = until_named(
        loop, kind, lambda one: loop.run_until_complete(loop.create_task(serves(one), name="the server"))
    )
    assert [one.function.split(".")[-1] for one in stall.frames[:3]] == ["serves", "blocks", kind.__name__]
    assert (stall.kind, stall.name) == ("task", "the server")


@pytest.mark.slow
def test_stalls_of_a_web_application_are_named(loop):
    uvicorn = pytest.importorskip("uvicorn")
    generators, stalls = {}, []

    async def application(scope, receive, send):
        next(generators.pop(scope["path"][1:]), None)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def is_named(stall, kind):
        return (
            "application" in [one.function.split(".")[-1] for one in stall.frames]
            and stall.file == planted_stalls.__file__
            and stall.line in planted_stalls.lines_of(kind)
        )

    async def request(port, kind):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET /{kind.__name__} HTTP/1.0\r\n\r\n".encode())
        assert (await reader.read()).startswith(b"HTTP/1.1 204 ")
        writer.close()
        await writer.wait_closed()

    async def main():
        config = uvicorn.Config(application, lifespan="off", log_config=None, ws="none")
        server = uvicorn.Server(config)
        server.install_signal_handlers = lambda: None
        with socket.create_server(("127.0.0.1", 0)) as listener:
            serving = asyncio.create_task(server.serve([listener]))
            port = listener.getsockname()[1]
            for kind in planted_stalls.KINDS:
                for attempt in range(6):
                    generators[kind.__name__] = kind(0.1 * 2**attempt)
                    next(generators[kind.__name__])
                    await request(port, kind)
                    if any(is_named(one, kind) for one in stalls):
                        break
                else:
                    raise AssertionError((kind, [(one.seconds, one.frames) for one in stalls[-3:]]))
            server.should_exit = True
            await serving

    with watching(loop, on_stall=stalls.append):
        loop.run_until_complete(main())


# -- what runs --------------------------------------------------------------------------------------------------------


def blocks():
    time.sleep(0.1)


BLOCKS_LINE = blocks.__code__.co_firstlineno + 1


class Blocks(asyncio.Protocol):
    def data_received(self, data):
        blocks()


def only(watch):
    (stall,) = watch.stalls
    assert (stall.file, stall.line) == (__file__, BLOCKS_LINE)
    return stall


def test_a_timer(loop):
    with watching(loop, on_stall=print) as watch:
        loop.call_later(0, blocks)
        loop.call_later(0.001, loop.stop)
        loop.run_forever()
    stall = only(watch)
    assert (stall.kind, stall.name, stall.task) == ("timer", "blocks", None)
    assert stall.where == f"{__file__}:{BLOCKS_LINE - 1}"
    assert [one.function for one in stall.frames] == ["blocks"]


def test_a_reader(loop):
    ours, theirs = socket.socketpair()
    with ours, theirs, watching(loop, on_stall=print) as watch:
        theirs.send(b"x")
        loop.add_reader(ours, lambda: (loop.remove_reader(ours), loop.stop(), blocks()))
        loop.run_forever()
    assert only(watch).kind == "fd"


def test_a_protocol(loop):
    async def main():
        ours, theirs = socket.socketpair()
        with theirs:
            transport, _ = await loop.create_connection(Blocks, sock=ours)
            theirs.send(b"x")
            while not watch.n_stalls:
                await asyncio.sleep(0.001)
            transport.close()

    with watching(loop, on_stall=print) as watch:
        loop.run_until_complete(main())
    stall = only(watch)
    assert stall.name.endswith(".Blocks")
    assert stall.frames[0].function == "Blocks.data_received"


def test_a_callback_in_a_nested_run(loop):
    loop.nested = True

    async def inner():
        await asyncio.sleep(0)
        blocks()

    async def outer():
        loop.run_until_complete(inner())

    with watching(loop, on_stall=print) as watch:
        loop.run_until_complete(outer())
    stall = only(watch)
    assert [one.function.split(".")[-1] for one in stall.frames] == ["inner", "blocks"]


def test_the_caller_of_a_nested_run_after_it(loop):
    loop.nested = True

    async def outer():
        loop.run_until_complete(asyncio.sleep(0))
        blocks()

    with watching(loop, on_stall=print) as watch:
        loop.run_until_complete(outer())
    assert [one.function.split(".")[-1] for one in only(watch).frames] == ["outer", "blocks"]


def test_a_function_in_c_has_a_name_and_no_frame(loop):
    with watching(loop, on_stall=print) as watch:
        drive(loop, time.sleep, 0.1)
    (stall,) = watch.stalls
    assert (stall.name, stall.frames, stall.frame, stall.file, stall.line) == ("sleep", (), None, "", 0)
    assert str(stall).endswith(" s by callback sleep")


def test_a_loop_in_another_thread(loop):
    with watching(loop, on_stall=print) as watch:
        thread = threading.Thread(target=drive, args=(loop, blocks), name="the loop's thread")
        thread.start()
        thread.join()
    assert only(watch).thread == "the loop's thread"


def test_the_line_of_the_program_is_named_not_that_of_a_library(loop):
    def calls_a_library():
        json.loads("[]", object_hook=None, parse_int=lambda text: blocks() or 1)
        return json.loads("[1]", parse_int=lambda text: time.sleep(0.1))  # here

    with watching(loop, on_stall=print) as watch:
        drive(loop, calls_a_library)
    (stall,) = watch.stalls
    assert stall.file == __file__
    assert stall.line == calls_a_library.__code__.co_firstlineno + 2


# -- reports ----------------------------------------------------------------------------------------------------------


def test_hooks_are_called_once_while_it_goes_on_and_once_at_its_end(loop):
    noticed, ended = [], []
    noticed_first = threading.Event()

    def on_stall(stall):
        noticed.append(stall)
        noticed_first.set()

    with watching(loop, on_stall=on_stall, on_end=ended.append) as watch:
        drive(loop, noticed_first.wait, 60)
    (begun,), (over,) = noticed, ended
    assert not begun.is_over
    assert over.is_over
    assert LIMIT_S <= begun.seconds <= over.seconds
    assert begun.began == over.began
    assert watch.stalls == (over,)
    assert watch.seconds == over.seconds


def test_the_duration_is_exact(loop):
    with uringloop.record(loop) as recording, watching(loop, on_stall=print) as watch:
        drive(loop, blocks)
        assert watch.stalls[-1].name == "blocks"
    longest_s = max(one.longest_s for one in recording.snapshot().callbacks)
    assert only(watch).seconds == pytest.approx(longest_s)


def test_it_is_logged_without_a_hook(loop, caplog):
    with caplog.at_level(logging.WARNING, "uringloop"), watching(loop):
        drive(loop, blocks)
    begun, over = (record.getMessage() for record in caplog.records)
    assert begun.startswith("event loop of MainThread is blocked for 0.")
    assert begun.split("\n")[1:] == [f"  {__file__}:{BLOCKS_LINE} in blocks"]
    assert over.startswith("event loop of MainThread was blocked for 0.")
    assert over.endswith(f" s by callback blocks at {__file__}:{BLOCKS_LINE} in blocks")


def test_lines_of_json_are_appended_to_a_file(loop, tmp_path):
    path = tmp_path / "stalls"
    with watching(loop, on_stall=print, file=path) as watch:
        drive(loop, blocks)
        drive(loop, blocks)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["is_over"] for line in lines] == [False, True] * watch.n_stalls
    assert {(line["name"], line["file"], line["line"]) for line in lines} == {
        ("blocks", __file__, BLOCKS_LINE)
    }


@pytest.mark.parametrize("what", ["hook", "hook that exits", "file"])
def test_a_report_that_fails_is_logged_and_ends_nothing(loop, what, caplog, tmp_path):
    options = {
        "hook": {"on_stall": lambda stall: 1 / 0},
        "hook that exits": {"on_stall": lambda stall: sys.exit()},
        "file": {"file": tmp_path},
    }[what]
    with watching(loop, **options) as watch:
        drive(loop, blocks)
        drive(loop, blocks)
    assert watch.n_stalls == 2
    assert "a stall was not reported: event loop of MainThread is blocked" in caplog.text


def test_a_hook_may_close_the_watch(loop):
    watch = uringloop.watch_stalls(loop, limit_s=LIMIT_S, on_stall=lambda stall: watch.close())
    drive(loop, blocks)
    drive(loop, blocks)
    watch.close()
    assert watch.is_closed
    assert watch.n_stalls == 1


# -- beginning and end ------------------------------------------------------------------------------------------------


def test_it_ends_with_its_loop(monitor):
    loop = uringloop.Loop(monitor)
    watch = uringloop.watch_stalls(loop, limit_s=LIMIT_S)
    thread = watch._thread
    loop.close()
    thread.join()
    assert watch.is_closed
    watch.close()


def test_a_stall_that_lasts_until_its_loop_closes_ends(monitor):
    ended = []
    loop = uringloop.Loop(monitor)
    watch = uringloop.watch_stalls(loop, limit_s=LIMIT_S, on_stall=lambda stall: None, on_end=ended.append)
    drive(loop, blocks)
    loop.close()
    watch._thread.join()
    assert [stall.is_over for stall in ended] == [True]


def test_two_watches_of_a_loop_share_its_recorder(loop):
    with watching(loop, on_stall=print) as one, watching(loop, on_stall=print) as other:
        drive(loop, blocks)
    assert only(one).began == only(other).began
    assert loop.aio_context._record(1) is not one._recorder


def test_a_forked_child_watches_by_a_thread_of_its_own(loop):
    with watching(loop, on_stall=print) as watch:
        reader, writer = os.pipe()
        if (pid := os.fork()) == 0:
            result = b"failed"
            try:
                drive(loop, blocks)
                watch.close()
                result = b"%d %d" % (watch.n_stalls, watch.stalls[0].line)
            finally:
                os.write(writer, result)
                os._exit(0)
        os.close(writer)
        with open(reader, "rb") as file:
            assert file.read() == b"1 %d" % BLOCKS_LINE
        os.waitpid(pid, 0)
    assert watch.n_stalls == 0


@pytest.mark.parametrize("value", ["0.05", "0", ""])
def test_the_environment_watches_new_loops(monitor, value):
    run_script(
        f"""
        import logging, uringloop
        lines = []
        class Lines(logging.Handler):
            def emit(self, record):
                lines.append(record.getMessage())
        logging.getLogger("uringloop").addHandler(Lines())
        async def main():
            if {value!r} not in ("", "0"):
                while not lines:
                    time.sleep(0.5)
        uringloop.run(main())
        assert bool(lines) == ({value!r} not in ("", "0"))
        assert all(" blocked for 0." in line and " by task 'Task-1', main at " in line for line in lines), lines
        """,
        env={"URINGLOOP_STALLS": value, "URINGLOOP_FDMON": monitor},
    )


@pytest.mark.parametrize("value", ["yes", "-1", "1e9", "nan"])
def test_a_wrong_variable_is_refused(value):
    printed = run_script(
        f"""
        from uringloop.observing.stalls import watch_as_environment_says
        os.environ["URINGLOOP_STALLS"] = {value!r}
        try:
            watch_as_environment_says()
        except ValueError as error:
            print(error)
        """,
    )
    assert printed == f"URINGLOOP_STALLS must be seconds, from 0.001 to 3600, not {value!r}\n"


def test_wrong_arguments_are_refused(loop):
    with (
        contextlib.closing(asyncio.SelectorEventLoop()) as stock,
        pytest.raises(TypeError, match="only loops of"),
    ):
        uringloop.watch_stalls(stock)
    for limit_s in (0, -1, float("nan"), 0.0001, 4000):
        with pytest.raises(ValueError, match=r"limit_s must be from 0\.001 to 3600 seconds"):
            uringloop.watch_stalls(loop, limit_s=limit_s)
    with pytest.raises(RuntimeError):
        uringloop.watch_stalls()
    closed = uringloop.Loop(loop.fdmon if loop.fdmon != "io_uring" else "epoll")
    closed.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        uringloop.watch_stalls(closed)


# -- no false reports -------------------------------------------------------------------------------------------------


def test_many_short_callbacks_are_no_stall(loop):
    def works():
        end = time.thread_time() + LIMIT_S / 20
        while time.thread_time() < end:
            pass

    with watching(loop) as watch:
        for _ in range(200):
            loop.call_soon(works)
        loop.call_soon(loop.stop)
        loop.run_forever()
    assert watch.n_stalls == 0


def test_a_loop_that_waits_is_no_stall(loop):
    with watching(loop) as watch:
        loop.run_until_complete(asyncio.sleep(5 * LIMIT_S))
    assert watch.n_stalls == 0


@pytest.mark.slow
def test_a_process_that_is_stopped_is_no_stall(monitor):
    run_script(
        """
        import signal, uringloop
        async def main():
            with uringloop.watch_stalls(limit_s=0.1, on_stall=print) as watch:
                resume = f"import os, signal, time; time.sleep(0.7); os.kill({os.getpid()}, signal.SIGCONT)"
                child = subprocess.Popen([sys.executable, "-c", resume])
                await asyncio.sleep(0.01)
                os.kill(os.getpid(), signal.SIGSTOP)
                for _ in range(10):
                    await asyncio.sleep(0.02)
                assert watch.n_stalls == 0, watch.stalls
            child.wait()
        uringloop.run(main())
        """,
        monitor,
        env={"URINGLOOP_FDMON": monitor},
    )


@pytest.mark.slow
def test_a_thread_without_a_cpu_is_no_stall(loop):
    """Four busy processes on its CPU: each callback takes a hundredth of a second of CPU, and several of time."""
    code = "import os; os.sched_setaffinity(0, {%d})\nwhile os.getppid() == %d: pass"
    cpus = os.sched_getaffinity(0)
    cpu = min(cpus)

    def works():
        end = time.thread_time() + 0.01
        while time.thread_time() < end:
            pass

    with uringloop.watch_stalls(loop, limit_s=0.04) as watch, contextlib.ExitStack() as stack:
        for _ in range(4):
            hog = subprocess.Popen([sys.executable, "-c", code % (cpu, os.getpid())])
            stack.callback(hog.wait)
            stack.callback(hog.kill)
        os.sched_setaffinity(0, {cpu})  # of this thread
        stack.callback(os.sched_setaffinity, 0, cpus)
        longest_s = 0
        for _ in range(20):
            began = time.monotonic()
            drive(loop, works)
            longest_s = max(longest_s, time.monotonic() - began)
    if longest_s < 0.04:
        pytest.skip("the machine gave it a CPU")
    assert watch.n_stalls == 0


def test_wrong_frames_are_not_believed(loop):
    """A thread that runs Python code changes its stack while it is read."""

    def recurses(depth, end):
        if depth:
            return recurses(depth - 1, end)
        return time.monotonic() > end

    def runs():
        end = time.monotonic() + 0.2
        while not recurses(30, end):
            pass

    with watching(loop, on_stall=print) as watch:
        drive(loop, runs)
    (stall,) = watch.stalls
    assert stall.frames[0].function.endswith("runs")
    assert {one.function.split(".")[-1] for one in stall.frames[1:]} <= {"recurses"}


def test_names_that_are_not_ascii(loop):
    namespace = {"sleep": functools.partial(time.sleep, 0.1)}
    exec(compile("def fänge(): sleep()\ndef 中文(): fänge()", "/tmp/ж.py", "exec"), namespace)
    with watching(loop, on_stall=print) as watch:
        drive(loop, namespace["中文"])
    (stall,) = watch.stalls
    assert [str(one) for one in stall.frames] == ["/tmp/ж.py:2 in 中文", "/tmp/ж.py:1 in fänge"]

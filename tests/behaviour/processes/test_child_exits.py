"""How the loop detects the exit of children: without threads and signals, and with any watcher that is set."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
import threading

import pytest
from support.helpers import STOCK, monitor_of, run, run_script, turns, until

from .test_subprocess import PIPE, all_reported, finish

HAS_WATCHERS = sys.version_info < (3, 14)


def only_uringloop():
    if monitor_of(asyncio.get_running_loop()) == STOCK:
        pytest.skip("stock asyncio does it in another way")


def children():
    """Process ids of the children of this thread, including zombies."""
    with open(f"/proc/self/task/{threading.get_native_id()}/children") as file:
        return [int(number) for number in file.read().split()]


async def test_no_threads_and_no_signal_handler_are_needed():
    only_uringloop()
    before = threading.active_count()
    processes = [await asyncio.create_subprocess_exec("/bin/cat", stdin=PIPE) for _ in range(5)]
    assert threading.active_count() == before
    assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL
    for process in processes:
        process.stdin.close()
        assert await process.wait() == 0


async def test_no_zombies_are_left():
    before = children()
    for _ in range(3):
        await asyncio.gather(
            *[(await asyncio.create_subprocess_exec("/bin/true")).wait() for _ in range(8)],
        )
    await all_reported()
    assert children() == before


async def test_children_are_reaped_although_nothing_waits_for_them():
    before = children()
    process = await asyncio.create_subprocess_exec("/bin/true")
    await until(lambda: process.returncode is not None)
    await all_reported()
    assert children() == before


def test_loops_in_many_threads_have_children_at_once(new_loop):
    loops = [new_loop() for _ in range(4)]
    codes = {}

    async def work(number):
        for code in range(number * 10, number * 10 + 5):
            process = await asyncio.create_subprocess_exec("/bin/sh", "-c", f"exit {code}", stdout=PIPE)
            await process.communicate()
            codes[code] = process.returncode

    threads = [
        threading.Thread(target=run, args=(loop, work(number))) for number, loop in enumerate(loops, 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(codes) == 20
    assert all(code == got for code, got in codes.items())


async def test_a_status_that_popen_took_first_is_not_lost(caplog):
    only_uringloop()
    process = await asyncio.create_subprocess_exec("/bin/sh", "-c", "exit 9")
    popen = process._transport.get_extra_info("subprocess")
    while popen.poll() is None:
        os.sched_yield()
    assert await process.wait() == 9
    assert caplog.records == []


async def test_a_status_that_the_program_reaped_is_255():
    if monitor_of(asyncio.get_running_loop()) == STOCK and sys.version_info < (3, 12):
        pytest.skip("a thread waits for it already")
    process = await asyncio.create_subprocess_exec("/bin/cat", stdin=PIPE)
    process.kill()
    os.waitpid(process.pid, 0)
    assert await process.wait() == 255
    await finish(process)


async def test_ignored_sigchld_means_no_status():
    old = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        process = await asyncio.create_subprocess_exec("/bin/cat", stdin=PIPE, stdout=PIPE)
        out, _ = await process.communicate(b"x")
        assert out == b"x"
        assert process.returncode == 255
        await all_reported()
    finally:
        signal.signal(signal.SIGCHLD, old)


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM, errno.EMFILE])
async def test_kernels_without_pidfd_fall_back_to_a_thread(monkeypatch, error):
    only_uringloop()

    def refuse(pid, flags=0):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "pidfd_open", refuse)
    process = await asyncio.create_subprocess_exec("/bin/sh", "-c", "exit 4", stdout=PIPE)
    await process.communicate()
    assert process.returncode == 4
    await all_reported()


async def test_a_traced_child_is_waited_for_again(monkeypatch):
    """waitid() returns None for a while although the pidfd is readable."""
    only_uringloop()
    real, n_refused = os.waitid, 0

    def late(*args):
        nonlocal n_refused
        n_refused += 1
        return None if n_refused <= 3 else real(*args)

    monkeypatch.setattr(os, "waitid", late)
    process = await asyncio.create_subprocess_exec("/bin/sh", "-c", "exit 4")
    assert await process.wait() == 4
    assert n_refused == 4


async def test_no_signal_is_sent_once_the_child_was_reaped(monkeypatch):
    """A grandchild keeps the pipe open, and the process id may belong to another process by then."""
    only_uringloop()
    process = await asyncio.create_subprocess_exec(
        "/bin/sh", "-c", "exec 3<&0; (read x <&3) & exit 0", stdin=PIPE, stdout=PIPE
    )
    await until(lambda: process.returncode is not None)
    killed = []
    monkeypatch.setattr(os, "kill", lambda *args: killed.append(args))
    process.kill()
    assert killed == []
    process.stdin.close()
    assert await process.stdout.read() == b""
    await process.wait()


def test_a_closed_loop_forgets_its_children(monitor):
    run_script(
        """
        if MONITOR == STOCK:
            raise SystemExit  # stock asyncio leaves its pidfd open
        def pidfds():
            links = (os.path.join("/proc/self/fd", fd) for fd in os.listdir("/proc/self/fd"))
            return sum("pidfd" in os.readlink(link) for link in links if os.path.exists(link))
        loop = make_loop(MONITOR)
        pid = loop.run_until_complete(asyncio.create_subprocess_exec("/bin/cat", stdin=-1)).pid
        assert pidfds() == 1
        loop.close()
        assert pidfds() == 0
        os.kill(pid, 9)
        os._exit(0)  # skips the warnings of the transport, which are asyncio's own
        """,
        monitor,
    )


def test_the_protocol_gets_the_output_before_the_end(loop):
    """Output and exit are reported by the same wait."""
    calls = []

    class Protocol(asyncio.SubprocessProtocol):
        def pipe_data_received(self, fd, data):
            calls.append("data")

        def process_exited(self):
            calls.append("exited")

    async def main():
        theirs, ours = os.pipe()
        transport, _ = await loop.subprocess_exec(Protocol, "/bin/cat", stdin=theirs, stderr=None)
        os.close(theirs)
        os.write(ours, b"x")
        os.close(ours)
        # asleep until the child has ended, so that pipe and pidfd are found in one wait
        os.waitid(os.P_PID, transport.get_pid(), os.WEXITED | os.WNOWAIT)
        await transport._wait()
        await turns(3)
        transport.close()

    if monitor_of(loop) == STOCK and sys.version_info < (3, 12):
        pytest.skip("a thread waits")
    run(loop, main())
    assert calls == ["data", "exited"]


needs_watchers = pytest.mark.skipif(not HAS_WATCHERS, reason="child watchers are gone")


@needs_watchers
@pytest.mark.parametrize("kind", ["Safe", "Fast", "MultiLoop"])
def test_a_watcher_that_the_user_set_is_used(monitor, kind):
    run_script(
        f"""
        import warnings
        warnings.simplefilter("ignore")
        watched = []
        class Watcher(asyncio.{kind}ChildWatcher):
            def add_child_handler(self, pid, *args):
                watched.append(pid)
                super().add_child_handler(pid, *args)
        async def main():
            process = await asyncio.create_subprocess_exec("/bin/sh", "-c", "exit 6")
            assert await process.wait() == 6
            assert watched == [process.pid]
        loop = make_loop(MONITOR)
        asyncio.set_event_loop(loop)
        watcher = Watcher()
        watcher.attach_loop(loop)
        asyncio.set_child_watcher(watcher)
        loop.run_until_complete(main())
        asyncio.set_child_watcher(None)
        loop.close()
        """,
        monitor,
    )


@needs_watchers
def test_an_inactive_watcher_of_the_user_is_an_error(monitor):
    run_script(
        """
        import warnings
        warnings.simplefilter("ignore")
        loop = make_loop(MONITOR)
        asyncio.set_child_watcher(asyncio.SafeChildWatcher())
        try:
            loop.run_until_complete(asyncio.create_subprocess_exec("/bin/true"))
        except RuntimeError as error:
            assert "is not activated" in str(error)
        else:
            raise AssertionError("not refused")
        loop.close()
        """,
        monitor,
    )


@needs_watchers
def test_children_work_under_a_policy_without_watchers(monitor):
    run_script(
        """
        if MONITOR == STOCK:
            raise SystemExit
        class Policy(asyncio.events.BaseDefaultEventLoopPolicy):
            def _loop_factory(self):
                return make_loop(MONITOR)
        asyncio.set_event_loop_policy(Policy())
        async def main():
            process = await asyncio.create_subprocess_exec("/bin/sh", "-c", "exit 6")
            assert await process.wait() == 6
        asyncio.run(main())
        """,
        monitor,
    )


def test_children_work_in_a_runner_with_a_loop_factory(monitor):
    run_script(
        """
        import threading
        async def main():
            process = await asyncio.create_subprocess_exec("/bin/sh", "-c", "exit 6")
            if MONITOR != STOCK:
                assert threading.active_count() == 1
            assert await process.wait() == 6
        with asyncio.Runner(loop_factory=lambda: make_loop(MONITOR)) as runner:
            runner.run(main())
        """,
        monitor,
    )


def test_popen_beside_the_loop_keeps_its_own_children(loop):
    async def main():
        popen = subprocess.Popen(["/bin/sh", "-c", "exit 3"])
        process = await asyncio.create_subprocess_exec("/bin/sh", "-c", "exit 4")
        assert await process.wait() == 4
        assert popen.wait() == 3
        await all_reported()

    run(loop, main())

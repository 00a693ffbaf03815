"""Which monitor a loop gets: names, the environment, and what happens when io_uring is refused.

The tests run in processes of their own: the mark that io_uring was had once is set for the life of a process.
"""

import errno

import pytest
from support.helpers import URING_MONITORS, make_loop, run_script

PRELUDE = """
import errno, logging, resource, threading
import uringloop

def works(loop):
    async def main():
        async def handle(reader, writer):
            writer.write(await reader.readline())
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"works\\n")
        assert await reader.read() == b"works\\n"
        writer.close()
        await writer.wait_closed()
        await asyncio.sleep(0.001)
        server.close()
        await server.wait_closed()
        return True
    assert run(loop, main()) is True
    loop.close()

def refused():
    "Make loops until one is refused (a few may come out of the pool), and return the error."
    loops = []
    try:
        for _ in range(64):
            loops.append(uringloop.new_event_loop())
            assert loops[-1].fdmon == "io_uring", "a loop fell back although io_uring was had before"
    except uringloop.MonitorUnavailable as error:
        return error
    finally:
        for loop in loops:
            loop.close()
    raise AssertionError("64 loops were made although io_uring is refused")
"""


@pytest.fixture(autouse=True)
def _uringloop_only(request):
    if set(request.config.getoption("--monitor") or ["io_uring"]) == {"asyncio"}:
        pytest.skip("about uringloop's own features")


@pytest.fixture
def io_uring():
    """Skip where io_uring cannot be had at all."""
    import uringloop

    try:
        make_loop("io_uring").close()
    except uringloop.MonitorUnavailable as error:
        pytest.skip(str(error))


def script(body, **kwargs):
    import textwrap

    return run_script(PRELUDE + textwrap.dedent(body), "io_uring", **kwargs)


@pytest.mark.parametrize("name", URING_MONITORS)
def test_a_forced_monitor_is_the_one_that_runs(name):
    script(
        f"""
        try:
            loop = uringloop.new_event_loop(fdmon={name!r})
        except uringloop.MonitorUnavailable as error:
            assert {name!r} == "io_uring", error
            raise SystemExit
        assert loop.fdmon == {name!r}
        assert isinstance(loop.fdmon_reason, str), "a forced choice is a reason"
        assert loop.statistics()["fdmon"] == {name!r}
        assert {name!r} in repr(loop)
        works(loop)
        """
    )


@pytest.mark.usefixtures("io_uring")
def test_io_uring_is_chosen_freely_and_needs_no_reason():
    script(
        """
        loop = uringloop.new_event_loop()
        assert loop.fdmon == "io_uring"
        assert loop.fdmon_reason is None
        assert "io_uring" in repr(loop)
        works(loop)
        """
    )


@pytest.mark.parametrize("name", ["select", "kqueue", "EPOLL", "io-uring", " epoll"])
def test_unknown_names_are_refused(name):
    import uringloop

    with pytest.raises(ValueError, match="io_uring"):
        uringloop.new_event_loop(fdmon=name)


@pytest.mark.parametrize("name", ["epoll", "poll"])
def test_the_environment_forces_a_monitor(name):
    script(
        f"""
        loop = uringloop.new_event_loop()
        assert loop.fdmon == {name!r}
        assert "URINGLOOP_FDMON" in loop.fdmon_reason
        works(loop)
        other = uringloop.Loop()
        assert other.fdmon == {name!r}
        other.close()
        async def main():
            return asyncio.get_running_loop().fdmon
        assert uringloop.run(main()) == {name!r}
        """,
        env={"URINGLOOP_FDMON": name},
    )


def test_the_argument_wins_over_the_environment():
    script(
        """
        loop = uringloop.new_event_loop(fdmon="epoll")
        assert loop.fdmon == "epoll"
        works(loop)
        """,
        env={"URINGLOOP_FDMON": "poll"},
    )


def test_a_bad_name_in_the_environment_is_refused_and_named():
    script(
        """
        try:
            uringloop.new_event_loop()
        except ValueError as error:
            assert "URINGLOOP_FDMON" in str(error) and "kqueue" in str(error), error
        else:
            raise AssertionError("accepted")
        """,
        env={"URINGLOOP_FDMON": "kqueue"},
    )


@pytest.mark.needs_liburing
@pytest.mark.parametrize("name", ["EPERM", "ENOSYS", "EACCES"])
def test_the_first_loop_falls_back_silently_when_io_uring_is_refused(name):
    script(
        f"""
        records = []
        class Collect(logging.Handler):
            def emit(self, record):
                records.append(record)
        logging.getLogger().addHandler(Collect())
        logging.getLogger().setLevel(logging.DEBUG)
        refuse_io_uring(errno.{name})
        before = sorted(os.listdir("/proc/self/fd"))
        loop = uringloop.new_event_loop()
        assert loop.fdmon == "epoll", loop.fdmon
        assert {name!r} in loop.fdmon_reason, loop.fdmon_reason
        assert "epoll" in repr(loop)
        assert not [record for record in records if record.levelno > logging.DEBUG], records
        works(loop)
        assert sorted(os.listdir("/proc/self/fd")) == before
        again = uringloop.new_event_loop()
        assert again.fdmon == "epoll"
        works(again)
        """
    )


@pytest.mark.needs_liburing
@pytest.mark.parametrize("name", ["EPERM", "ENOSYS"])
@pytest.mark.parametrize("forced_by", ["argument", "environment"])
def test_a_forced_io_uring_that_is_refused_is_an_error_with_errno_and_cause(name, forced_by):
    number = getattr(errno, name)
    script(
        f"""
        refuse_io_uring({number})
        before = sorted(os.listdir("/proc/self/fd"))
        try:
            uringloop.new_event_loop({"fdmon='io_uring'" if forced_by == "argument" else ""})
        except uringloop.MonitorUnavailable as error:
            assert isinstance(error, OSError)
            assert isinstance(error, uringloop.exceptions.UringLoopError)
            assert error.errno == {number}
            assert {name!r} in str(error), error
            assert len(str(error)) > len("io_uring: EPERM") + 10, f"no cause: {{error}}"
        else:
            raise AssertionError("made")
        assert sorted(os.listdir("/proc/self/fd")) == before
        """,
        env={"URINGLOOP_FDMON": "io_uring"} if forced_by == "environment" else {},
    )


@pytest.mark.usefixtures("io_uring")
@pytest.mark.parametrize("name", ["EPERM", "ENOSYS"])
@pytest.mark.parametrize("kept", [True, False])
def test_a_later_loop_is_refused_when_io_uring_was_had_before(name, kept):
    script(
        f"""
        first = uringloop.new_event_loop()
        assert first.fdmon == "io_uring"
        if not {kept}:
            works(first)
        refuse_io_uring(errno.{name})
        error = refused()
        assert error.errno == errno.{name}
        assert {name!r} in str(error), error
        caught = []
        def other():
            try:
                caught.append(refused())
            except BaseException as error:
                caught.append(error)
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert isinstance(caught[0], uringloop.MonitorUnavailable), caught
        uringloop.new_event_loop(fdmon="epoll").close()   # chosen by name
        if {kept}:
            works(first)
        """
    )


@pytest.mark.usefixtures("io_uring")
def test_a_forced_epoll_loop_sets_no_mark():
    script(
        """
        works(uringloop.new_event_loop(fdmon="epoll"))
        refuse_io_uring(errno.EPERM)
        loop = uringloop.new_event_loop()
        assert loop.fdmon == "epoll"
        works(loop)
        """
    )


@pytest.mark.usefixtures("io_uring")
def test_a_fork_child_starts_with_a_clean_mark():
    script(
        """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        loop = uringloop.new_event_loop()
        assert loop.fdmon == "io_uring"
        pid = os.fork()
        if not pid:
            status = 1
            try:
                refuse_io_uring(errno.EPERM)
                fresh = uringloop.new_event_loop()
                assert fresh.fdmon == "epoll", fresh.fdmon
                assert "EPERM" in fresh.fdmon_reason
                works(fresh)
                status = 0
            except BaseException:
                import traceback
                traceback.print_exc()
            sys.stderr.flush()
            os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        works(loop)
        """
    )


def test_without_descriptors_loops_fail_and_leave_nothing_behind():
    """With any number of free descriptors: a loop that works, or an OSError."""
    script(
        """
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        def open_fds():
            return {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
                    if os.path.exists(f"/proc/self/fd/{fd}")}
        for free in range(0, 8):
            spare = [os.open("/dev/null", os.O_RDONLY) for _ in range(free)]
            limit = max(map(int, os.listdir("/proc/self/fd"))) + 1
            taken = []
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            try:
                while True:
                    taken.append(os.open("/dev/null", os.O_RDONLY))
            except OSError:
                pass
            for fd in spare:
                os.close(fd)
            before = set(os.listdir("/proc/self/fd")) if free > 1 else None
            loop, error = None, None
            try:
                loop = uringloop.new_event_loop()
            except OSError as caught:
                assert caught.errno == errno.EMFILE, caught
                error = str(caught)
            if loop is not None:
                assert run(loop, asyncio.sleep(0.001, 5)) == 5
                loop.close()
            elif before is not None:
                assert set(os.listdir("/proc/self/fd")) == before, (free, error)
            resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
            for fd in taken:
                os.close(fd)
        works(uringloop.new_event_loop())
        """
    )


@pytest.mark.usefixtures("io_uring")
def test_without_descriptors_a_later_loop_is_refused_with_the_limits_name():
    script(
        """
        first = uringloop.new_event_loop()
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        limit = max(map(int, os.listdir("/proc/self/fd"))) + 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        taken = []
        try:
            while True:
                taken.append(os.dup(0))
        except OSError:
            pass
        error = refused()
        assert error.errno == errno.EMFILE
        assert "EMFILE" in str(error) and "RLIMIT_NOFILE" in str(error), error
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
        for fd in taken:
            os.close(fd)
        works(first)
        works(uringloop.new_event_loop())
        """
    )


@pytest.mark.usefixtures("io_uring")
def test_an_unprivileged_user_without_locked_memory_falls_back_and_may_get_io_uring_later():
    script(
        """
        become_unprivileged()
        hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
        if hard not in (-1, resource.RLIM_INFINITY) and hard < 1 << 20:
            raise SystemExit
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, hard))
        loop = uringloop.new_event_loop()
        assert loop.fdmon == "epoll", loop.fdmon
        assert "ENOMEM" in loop.fdmon_reason and "RLIMIT_MEMLOCK" in loop.fdmon_reason, loop.fdmon_reason
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (hard, hard))
        later = uringloop.new_event_loop()
        assert later.fdmon == "io_uring", later.fdmon_reason
        works(loop)
        works(later)
        """
    )


@pytest.mark.slow
@pytest.mark.usefixtures("io_uring")
def test_an_unprivileged_user_out_of_locked_memory_is_refused_later_with_the_limits_name():
    """Slow: the loop waits a little for memory that closed rings still hold."""
    script(
        """
        become_unprivileged()
        hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
        first = uringloop.new_event_loop()
        if first.fdmon != "io_uring":
            raise SystemExit
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, hard))
        error = refused()
        assert error.errno == errno.ENOMEM
        assert "ENOMEM" in str(error) and "RLIMIT_MEMLOCK" in str(error), error
        works(first)
        """
    )


@pytest.mark.usefixtures("io_uring")
def test_many_loops_at_once_of_an_unprivileged_user_work_or_are_refused_cleanly():
    """8 MiB are enough for dozens; then MonitorUnavailable, and all the others still work."""
    script(
        """
        become_unprivileged()
        loops = []
        try:
            for _ in range(40):
                loops.append(uringloop.new_event_loop())
        except uringloop.MonitorUnavailable as error:
            assert error.errno == errno.ENOMEM, error
        assert len(loops) >= 8, len(loops)
        for loop in loops:
            works(loop)
        """
    )


# What become_unprivileged() may lock: where the hard limit allows it, this many KiB.
LIMITED = """
        def limit(kib):
            become_unprivileged()
            hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
            if hard not in (-1, resource.RLIM_INFINITY) and hard < kib << 10:
                raise SystemExit
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (kib << 10, hard))
"""


@pytest.mark.slow
@pytest.mark.usefixtures("io_uring")
def test_loops_of_an_unprivileged_user_need_little_locked_memory():
    """64 KiB are what Linux gave before 5.16: some four loops that have connections."""
    script(
        LIMITED
        + """
        limit(64)
        loops = []
        for _ in range(4):
            loops.append(uringloop.new_event_loop())
            assert loops[-1].fdmon == "io_uring", loops[-1].fdmon_reason
            near, far = socket.socketpair()
            async def talk():
                reader, writer = await asyncio.open_connection(sock=near)
                far.send(b"hello")
                assert await reader.readexactly(5) == b"hello"
                writer.close()
                await writer.wait_closed()
            loops[-1].run_until_complete(talk())
            far.close()
        for loop in loops:
            loop.close()
        """
    )


@pytest.mark.slow
@pytest.mark.usefixtures("io_uring")
def test_loops_in_new_threads_wait_for_the_locked_memory_of_those_before_them():
    script(
        LIMITED
        + """
        limit(16)
        names = []
        def work():
            with asyncio.Runner(loop_factory=uringloop.new_event_loop) as runner:
                runner.run(asyncio.sleep(0))
                names.append(runner.get_loop().fdmon)
        for _ in range(100):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        assert names == ["io_uring"] * 100, (len(names), set(names))
        """
    )


@pytest.mark.slow
@pytest.mark.usefixtures("io_uring")
def test_loops_wait_in_short_steps_for_the_locked_memory_that_others_give_back():
    """With pauses of up to half a second a process got nothing where others took what came back in between."""
    script(
        LIMITED
        + """
        import time
        limit(16)
        loops = [uringloop.new_event_loop() for _ in range(2)]
        pauses = []
        time.sleep = pauses.append
        def refused():
            pauses.clear()
            try:
                uringloop.new_event_loop()
            except uringloop.MonitorUnavailable as error:
                assert error.errno == errno.ENOMEM
                assert max(pauses) <= 0.01, pauses
                return round(sum(pauses), 1)
        assert [refused(), refused()] == [1.0, 0.2]
        limit(24)
        loops.append(uringloop.new_event_loop())
        assert [refused(), refused()] == [1.0, 0.2], "after a new one it is worth waiting again"
        pid = os.fork()
        if pid == 0:
            pauses.clear()
            fell_back = uringloop.new_event_loop().fdmon == "epoll"
            os._exit(0 if fell_back and round(sum(pauses), 1) == 0.2 else 1)
        assert os.waitpid(pid, 0)[1] == 0
        for loop in loops:
            loop.close()
        """
    )


@pytest.mark.slow
@pytest.mark.usefixtures("io_uring")
def test_a_run_does_not_wait_for_memory_to_probe_the_kernel():
    """The first run of a process probes the kernel on a ring of its own, and later if there is no room for that."""
    script(
        LIMITED
        + """
        import time
        from drivers.ring import skips_sends
        limit(8)
        loop = uringloop.new_event_loop()
        pauses = []
        time.sleep = pauses.append
        loop.run_until_complete(asyncio.sleep(0))
        assert pauses == []
        assert not skips_sends(loop.aio_context)
        limit(64)
        loop.run_until_complete(asyncio.sleep(0))
        release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
        assert skips_sends(loop.aio_context) or release < (6, 2)
        loop.close()
        """
    )


@pytest.mark.slow
@pytest.mark.usefixtures("io_uring")
def test_the_refusal_has_the_numbers_and_the_remedies():
    script(
        LIMITED
        + """
        limit(64)
        loops = []
        try:
            while True:
                loops.append(uringloop.new_event_loop())
        except uringloop.MonitorUnavailable as error:
            text = str(error)
        assert len(loops) == 8, len(loops)
        for part in ("ENOMEM", "RLIMIT_MEMLOCK is 64 KiB", "8 KiB", "has 8", "ulimit -l", "LimitMEMLOCK",
                     "URINGLOOP_FDMON=auto-any"):
            assert part in text, (part, text)
        for loop in loops:
            works(loop)
        """
    )


@pytest.mark.slow
@pytest.mark.usefixtures("io_uring")
@pytest.mark.parametrize("how", ["environment", "argument"])
def test_auto_any_falls_back_although_other_loops_have_io_uring_and_says_so_once(how):
    script(
        LIMITED
        + f"""
        how = {how!r}
        """
        + """
        import logging
        lines = []
        class Lines(logging.Handler):
            def emit(self, record):
                lines.append((record.levelname, record.getMessage()))
        logging.getLogger("uringloop").addHandler(Lines())
        limit(16)
        if how == "environment":
            os.environ["URINGLOOP_FDMON"] = "auto-any"
        def make():
            return uringloop.new_event_loop(fdmon=None if how == "environment" else "auto-any")
        loops = [make() for _ in range(4)]
        assert [loop.fdmon for loop in loops] == ["io_uring", "io_uring", "epoll", "epoll"], loops
        assert loops[0].fdmon_reason is None
        assert "ENOMEM" in loops[2].fdmon_reason
        warned = [text for level, text in lines if level == "WARNING"]
        assert len(warned) == 1, lines
        assert "io_uring" in warned[0] and "epoll" in warned[0] and "ENOMEM" in warned[0], warned
        for loop in loops:
            works(loop)
        os.environ.pop("URINGLOOP_FDMON", None)
        """
    )


def test_loops_that_are_forced_to_differ_warn_of_nothing(caplog):
    import uringloop

    for name in ("epoll", "poll", "epoll"):
        uringloop.new_event_loop(fdmon=name).close()
    assert not [record for record in caplog.records if record.name == "uringloop"]


def test_run_uses_a_loop_of_ours_and_closes_it():
    script(
        """
        async def main():
            loop = asyncio.get_running_loop()
            assert isinstance(loop, uringloop.Loop)
            return loop
        loop = uringloop.run(main())
        assert loop.is_closed()
        try:
            uringloop.run(5)
        except (ValueError, TypeError):
            pass
        else:
            raise AssertionError("ran a number")
        """
    )


def test_the_policy_makes_our_loops_while_python_has_policies():
    script(
        """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        if sys.version_info >= (3, 16):
            raise SystemExit
        uringloop.install()
        assert isinstance(asyncio.get_event_loop_policy(), uringloop.EventLoopPolicy)
        async def main():
            return type(asyncio.get_running_loop())
        assert asyncio.run(main()) is uringloop.Loop
        loop = asyncio.new_event_loop()
        assert isinstance(loop, uringloop.Loop)
        loop.close()
        asyncio.set_event_loop_policy(None)
        """
    )


def test_importing_changes_nothing():
    run_script(
        """
        before = asyncio.open_connection, asyncio.start_server, asyncio.set_event_loop, asyncio.new_event_loop
        fds = sorted(os.listdir("/proc/self/fd"))
        import threading
        threads = threading.active_count()
        import uringloop
        assert before == (
            asyncio.open_connection, asyncio.start_server, asyncio.set_event_loop, asyncio.new_event_loop
        )
        loop = asyncio.SelectorEventLoop()
        loop.close()
        assert sorted(os.listdir("/proc/self/fd")) == fds
        assert threading.active_count() == threads
        """
    )


@pytest.mark.parametrize(
    "name", [pytest.param("io_uring", marks=pytest.mark.needs_liburing), "epoll", "poll"]
)
def test_statistics_have_the_documented_names_and_count(name):
    script(
        f"""
        loop = uringloop.new_event_loop(fdmon={name!r})
        names = {{"fdmon", "handlers", "in_flight", "submitted", "completed", "cq_overflows", "syscalls",
                 "poll_hits", "poll_misses"}}
        statistics = loop.statistics()
        assert names <= set(statistics), names - set(statistics)
        assert all(type(statistics[each]) is int for each in names - {{"fdmon"}})
        near, far = socket.socketpair()
        handlers = statistics["handlers"]
        loop.add_reader(near, lambda: (near.recv(1), loop.stop()))
        assert loop.statistics()["handlers"] == handlers + 1
        far.send(b"x")
        loop.run_forever()
        after = loop.statistics()
        assert after["syscalls"] > statistics["syscalls"]
        if {name!r} == "io_uring":
            assert after["submitted"] > 0 and after["completed"] > 0
        loop.remove_reader(near)
        one_turn(loop)
        assert loop.statistics()["handlers"] == handlers
        loop.close()
        assert loop.statistics()["in_flight"] == 0
        near.close()
        far.close()
        """
    )

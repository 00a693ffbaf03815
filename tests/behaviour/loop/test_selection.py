"""Which monitor a loop gets: names, the environment, and what happens when io_uring is refused."""

import errno

import pytest
from support.helpers import URING_MONITORS
from support.selection_tools import LIMITED, script

pytestmark = pytest.mark.usefixtures("uringloop_only")


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
def test_io_uring_is_chosen_by_default_and_needs_no_reason():
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
def test_the_first_loop_falls_back_without_a_warning_when_io_uring_is_refused(name):
    script(
        f"""
        lines = log(logging.DEBUG)
        refuse_io_uring(errno.{name})
        before = sorted(os.listdir("/proc/self/fd"))
        loop = uringloop.new_event_loop()
        assert loop.fdmon == "epoll", loop.fdmon
        assert {name!r} in loop.fdmon_reason, loop.fdmon_reason
        assert "epoll" in repr(loop)
        assert lines == [("INFO", f"event loops use epoll ({{loop.fdmon_reason}})")], lines
        works(loop)
        assert sorted(os.listdir("/proc/self/fd")) == before
        again = uringloop.new_event_loop()
        assert again.fdmon == "epoll"
        works(again)
        assert [level for level, _ in lines] == ["INFO", "DEBUG"], lines
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
def test_a_later_loop_is_refused_after_an_earlier_one_got_io_uring(name, kept):
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
def test_a_forced_epoll_loop_does_not_keep_later_loops_from_falling_back():
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
def test_a_fork_child_may_fall_back_although_its_parent_has_io_uring():
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


@pytest.mark.slow
@pytest.mark.usefixtures("io_uring")
@pytest.mark.parametrize("how", ["environment", "argument"])
def test_auto_any_falls_back_although_other_loops_have_io_uring_and_warns_once(how):
    script(
        LIMITED
        + f"""
        how = {how!r}
        """
        + """
        lines = log(logging.WARNING)
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


@pytest.mark.usefixtures("io_uring")
def test_the_log_says_once_which_monitor_a_process_got():
    script(
        """
        lines = log(logging.INFO)
        for _ in range(3):
            loop = uringloop.new_event_loop()
            loop.close()
        uringloop.AioContext().close()
        assert lines == [("INFO", "event loops use io_uring")], lines
        """
    )


def test_the_log_says_who_requested_a_monitor():
    script(
        """
        lines = log(logging.INFO)
        for _ in range(2):
            uringloop.new_event_loop().close()
        assert lines == [("INFO", "event loops use poll (poll was requested by URINGLOOP_FDMON=poll)")], lines
        """,
        env={"URINGLOOP_FDMON": "poll"},
    )


def test_a_log_that_is_set_up_after_the_first_loop_has_the_line_of_the_next():
    script(
        """
        uringloop.new_event_loop(fdmon="epoll").close()
        lines = log(logging.INFO)
        for _ in range(2):
            uringloop.new_event_loop(fdmon="epoll").close()
        assert lines == [("INFO", "event loops use epoll (epoll was requested by fdmon=epoll)")], lines
        """
    )


def test_a_fork_child_has_a_line_of_its_own():
    script(
        """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        lines = log(logging.INFO)
        uringloop.new_event_loop(fdmon="poll").close()
        pid = os.fork()
        if not pid:
            uringloop.new_event_loop(fdmon="epoll").close()
            os._exit([level for level, _ in lines] != ["INFO", "INFO"])
        assert os.waitpid(pid, 0)[1] == 0
        assert [level for level, _ in lines] == ["INFO"]
        """
    )


@pytest.mark.parametrize("is_first_named", [True, False])
def test_a_loop_that_the_program_gave_another_monitor_than_the_environment_causes_one_warning(is_first_named):
    script(
        f"""
        lines = log(logging.WARNING)
        names = ["epoll", None] if {is_first_named} else [None, "epoll"]
        for name in [*names, *names]:
            uringloop.new_event_loop(fdmon=name).close()
        texts = ["epoll (epoll was requested by fdmon=epoll)", "poll (poll was requested by URINGLOOP_FDMON=poll)"]
        if not {is_first_named}:
            texts.reverse()
        expected = (
            f"event loops of this process use different monitors: an earlier one {{texts[0]}}, this one {{texts[1]}}"
        )
        assert lines == [("WARNING", expected)], lines
        """,
        env={"URINGLOOP_FDMON": "poll"},
    )


def test_loops_that_the_program_gave_different_monitors_cause_no_warning():
    script(
        """
        lines = log(logging.WARNING)
        for name in ("epoll", "poll", "epoll"):
            uringloop.new_event_loop(fdmon=name).close()
        assert lines == []
        """
    )

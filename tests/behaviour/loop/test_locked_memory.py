"""Loops of unprivileged users: some kernels count the memory of rings against RLIMIT_MEMLOCK."""

import pytest
from support.selection_tools import LIMITED, script

pytestmark = pytest.mark.usefixtures("uringloop_only")


@pytest.fixture(scope="module")
def rings_count():
    """Skip where the kernel does not count the memory of rings: 6.1, 6.12 and 7.3 do not, 6.18 does."""
    made = script(
        """
        import ctypes
        become_unprivileged()
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
        parameters = ctypes.create_string_buffer(120)
        print(ctypes.CDLL(None).syscall(425, 8, parameters))  # io_uring_setup
        """
    )
    if int(made) >= 0:
        pytest.skip("this kernel does not count the memory of rings")


@pytest.mark.usefixtures("rings_count")
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


@pytest.mark.usefixtures("rings_count")
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
    """8 MiB are enough for dozens; the next gets MonitorUnavailable, and the others still work."""
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


@pytest.mark.slow
@pytest.mark.usefixtures("io_uring")
def test_loops_of_an_unprivileged_user_need_little_locked_memory():
    """64 KiB was the limit before Linux 5.16: enough for about four loops with connections."""
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
def test_loops_in_new_threads_wait_for_the_locked_memory_of_closed_loops():
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


@pytest.mark.usefixtures("rings_count")
@pytest.mark.slow
@pytest.mark.usefixtures("io_uring")
def test_loops_wait_in_short_steps_for_locked_memory_that_others_free():
    """With pauses of up to half a second, other processes took all memory that was freed in between."""
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
        assert [refused(), refused()] == [1.0, 0.2], "after a new loop it is worth waiting again"
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


@pytest.mark.usefixtures("rings_count")
@pytest.mark.slow
@pytest.mark.usefixtures("io_uring")
def test_a_run_does_not_wait_for_memory_to_probe_the_kernel():
    """The first run of a process probes the kernel on a ring of its own; without memory for it, a later run does."""
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
        assert skips_sends(loop.aio_context)
        loop.close()
        """
    )


@pytest.mark.usefixtures("rings_count")
@pytest.mark.slow
@pytest.mark.usefixtures("io_uring")
def test_the_error_names_the_numbers_and_the_remedies():
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

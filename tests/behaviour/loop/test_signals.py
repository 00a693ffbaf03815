"""Signals: add_signal_handler, Ctrl-C, Python's own handlers. Each test runs in a process of its own."""

import pytest
from support.helpers import STOCK, run_script


def test_handler_runs_in_the_loop_with_its_arguments(monitor):
    run_script(
        """
        import signal
        loop = make_loop(MONITOR)
        got = []
        loop.add_signal_handler(signal.SIGUSR1, lambda *args: (got.append(args), loop.stop()), 1, "two")
        os.kill(os.getpid(), signal.SIGUSR1)
        loop.run_forever()
        assert got == [(1, "two")], got
        assert loop.remove_signal_handler(signal.SIGUSR1) is True
        assert loop.remove_signal_handler(signal.SIGUSR1) is False
        loop.close()
        """,
        monitor,
    )


def test_signal_that_arrives_right_after_registering_is_not_lost(monitor):
    run_script(
        """
        import signal
        for _ in range(20):
            loop = make_loop(MONITOR)
            loop.add_signal_handler(signal.SIGUSR1, loop.stop)
            signal.raise_signal(signal.SIGUSR1)
            loop.run_forever()
            loop.close()
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
        """,
        monitor,
    )


def test_signal_wakes_a_sleeping_loop(monitor):
    run_script(
        """
        import signal, threading
        loop = make_loop(MONITOR)
        loop.add_signal_handler(signal.SIGUSR1, loop.stop)
        loop.call_soon(threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGUSR1)).start)
        loop.call_later(20, os._exit, 3)
        loop.run_forever()
        loop.close()
        """,
        monitor,
    )


def test_two_signals_are_distinguished(monitor):
    run_script(
        """
        import signal
        async def main():
            loop = asyncio.get_running_loop()
            got = []
            for name in ("SIGUSR1", "SIGUSR2"):
                loop.add_signal_handler(getattr(signal, name), got.append, name)
            signal.raise_signal(signal.SIGUSR2)
            await until(lambda: got)
            signal.raise_signal(signal.SIGUSR1)
            await until(lambda: len(got) == 2)
            assert got == ["SIGUSR2", "SIGUSR1"], got
        with asyncio.Runner(loop_factory=lambda: make_loop(MONITOR)) as runner:
            runner.run(main())
        """,
        monitor,
    )


def test_a_handler_can_be_replaced(monitor):
    run_script(
        """
        import signal
        loop = make_loop(MONITOR)
        got = []
        loop.add_signal_handler(signal.SIGUSR1, got.append, "old")
        loop.add_signal_handler(signal.SIGUSR1, lambda: (got.append("new"), loop.stop()))
        signal.raise_signal(signal.SIGUSR1)
        loop.run_forever()
        assert got == ["new"], got
        loop.close()
        """,
        monitor,
    )


def test_misuse_is_refused_as_in_stock_asyncio(monitor):
    run_script(
        """
        import signal
        loop = make_loop(MONITOR)
        def raises(kind, function, *args):
            try:
                function(*args)
            except kind:
                return
            raise AssertionError(f"{function} accepted {args}")
        raises(ValueError, loop.add_signal_handler, 1000, print)
        raises(TypeError, loop.add_signal_handler, "INT", print)
        raises(RuntimeError, loop.add_signal_handler, signal.SIGKILL, print)
        async def coroutine(): pass
        raises(TypeError, loop.add_signal_handler, signal.SIGUSR1, coroutine)
        raises(ValueError, loop.remove_signal_handler, 1000)
        import threading
        seen = []
        def other():
            try:
                loop.add_signal_handler(signal.SIGUSR1, print)
            except (ValueError, RuntimeError) as error:
                seen.append(error)
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert len(seen) == 1
        loop.close()
        raises(RuntimeError, loop.add_signal_handler, signal.SIGUSR1, print)
        """,
        monitor,
    )


def test_close_removes_the_handlers(monitor):
    run_script(
        """
        import signal
        loop = make_loop(MONITOR)
        loop.add_signal_handler(signal.SIGINT, print)
        loop.add_signal_handler(signal.SIGUSR1, print)
        loop.close()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
        assert signal.set_wakeup_fd(-1) == -1
        """,
        monitor,
    )


def test_ctrl_c_interrupts_run_forever(monitor):
    run_script(
        """
        import signal, threading
        loop = make_loop(MONITOR)
        loop.call_soon(threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT)).start)
        loop.call_later(20, os._exit, 3)
        try:
            loop.run_forever()
        except KeyboardInterrupt:
            pass
        else:
            raise AssertionError("no KeyboardInterrupt")
        assert not loop.is_running()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        """,
        monitor,
    )


def test_ctrl_c_interrupts_an_idle_loop_without_timers(monitor):
    run_script(
        """
        import signal, threading
        loop = make_loop(MONITOR)
        loop.call_soon(threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT)).start)
        try:
            loop.run_forever()
        except KeyboardInterrupt:
            loop.close()
        else:
            raise AssertionError("no KeyboardInterrupt")
        """,
        monitor,
    )


def test_ctrl_c_cancels_the_main_task_of_a_runner(monitor):
    run_script(
        """
        import signal, threading
        cancelled = []
        async def main():
            threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT)).start()
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                cancelled.append(True)
                raise
        try:
            with asyncio.Runner(loop_factory=lambda: make_loop(MONITOR)) as runner:
                runner.run(main())
        except KeyboardInterrupt:
            assert cancelled
        else:
            raise AssertionError("no KeyboardInterrupt")
        """,
        monitor,
    )


def test_ctrl_c_interrupts_a_busy_loop(monitor):
    run_script(
        """
        import signal, threading
        loop = make_loop(MONITOR)
        def again():
            loop.call_soon(again)
        again()
        loop.call_soon(threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT)).start)
        try:
            loop.run_forever()
        except KeyboardInterrupt:
            loop.close()
        else:
            raise AssertionError("no KeyboardInterrupt")
        """,
        monitor,
    )


def test_handlers_of_pythons_signal_module_run_while_the_loop_sleeps(monitor):
    run_script(
        """
        import signal
        loop = make_loop(MONITOR)
        ran = []
        def handler(number, frame):
            ran.append(number)
            loop.call_soon_threadsafe(loop.stop)
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        loop.call_later(20, os._exit, 3)
        loop.run_forever()
        assert ran == [signal.SIGALRM]
        loop.close()
        """,
        monitor,
    )


def test_an_exception_from_pythons_handler_leaves_run_forever(monitor):
    run_script(
        """
        import signal
        class Alarm(Exception): pass
        def handler(number, frame):
            raise Alarm
        loop = make_loop(MONITOR)
        signal.signal(signal.SIGALRM, handler)
        loop.call_soon(signal.setitimer, signal.ITIMER_REAL, 0.02)  # not before it runs
        loop.call_later(20, os._exit, 3)
        try:
            loop.run_forever()
        except Alarm:
            pass
        else:
            raise AssertionError("the exception was lost")
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        """,
        monitor,
    )


def test_a_storm_of_signals_neither_blocks_nor_is_lost_entirely(monitor):
    run_script(
        """
        import signal
        loop = make_loop(MONITOR)
        got = []
        loop.add_signal_handler(signal.SIGUSR1, got.append, 1)
        for _ in range(1500):
            signal.raise_signal(signal.SIGUSR1)
        turn_until(loop, lambda: got)
        loop.close()
        """,
        monitor,
    )


def test_interrupted_waits_do_not_end_a_timer_early(monitor):
    """EINTR makes the wait return early; the timer must still not be early."""
    run_script(
        """
        import signal, time
        loop = make_loop(MONITOR)
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
        begun = time.monotonic()
        loop.run_until_complete(asyncio.sleep(0.05))
        elapsed = time.monotonic() - begun
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert elapsed >= 0.0499, elapsed
        loop.close()
        """,
        monitor,
    )


@pytest.mark.parametrize("watched", [False, True])
def test_sigchld_handlers_of_the_user_are_accepted(monitor, watched):
    run_script(
        f"""
        import signal
        loop = make_loop(MONITOR)
        asyncio.set_event_loop(loop)
        got = []
        loop.add_signal_handler(signal.SIGCHLD, got.append, 1)
        async def main():
            if {watched}:
                process = await asyncio.create_subprocess_exec("/bin/true")
                assert await process.wait() == 0
            else:
                subprocess.run(["/bin/true"])
            await until(lambda: got)
        loop.run_until_complete(main())
        loop.close()
        """,
        monitor,
    )


def test_a_refused_handler_leaves_no_sockets(monitor):
    run_script(
        """
        import gc, signal
        loop = make_loop(MONITOR)
        loop.close()
        before = len(os.listdir("/proc/self/fd"))
        try:
            loop.add_signal_handler(signal.SIGUSR1, print)
        except RuntimeError:
            pass
        assert len(os.listdir("/proc/self/fd")) == before
        """,
        monitor,
    )


def test_the_wakeup_fd_is_ours_only_while_there_are_handlers(monitor):
    run_script(
        """
        import signal
        def current():
            fd = signal.set_wakeup_fd(-1)
            signal.set_wakeup_fd(fd)
            return fd
        loop = make_loop(MONITOR)
        loop.add_signal_handler(signal.SIGUSR1, int)
        loop.add_signal_handler(signal.SIGUSR2, int)
        assert current() != -1
        assert loop.remove_signal_handler(signal.SIGUSR1)
        assert current() != -1
        assert loop.remove_signal_handler(signal.SIGUSR2)
        assert current() == -1
        assert not loop.remove_signal_handler(signal.SIGUSR2)
        assert signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL
        loop.add_signal_handler(signal.SIGINT, int)
        loop.close()
        assert current() == -1
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        """,
        monitor,
    )


def test_a_wakeup_fd_that_was_set_meanwhile_stays(monitor):
    run_script(
        """
        import signal
        if MONITOR == STOCK:
            raise SystemExit  # stock asyncio resets it
        first, second = make_loop(MONITOR), make_loop(MONITOR)
        got = []
        first.add_signal_handler(signal.SIGUSR1, int)
        second.add_signal_handler(signal.SIGUSR2, got.append, 2)
        first.close()
        os.kill(os.getpid(), signal.SIGUSR2)
        turn_until(second, lambda: got)
        second.close()
        assert signal.set_wakeup_fd(-1) == -1
        """,
        monitor,
    )


def test_a_second_ctrl_c_interrupts_a_task_that_ignores_the_first(monitor):
    run_script(
        """
        import signal, threading
        steps = []
        async def main():
            try:
                while True:
                    try:
                        if not steps:
                            signal.raise_signal(signal.SIGINT)
                        await asyncio.sleep(60)
                    except asyncio.CancelledError:
                        if len(steps) == 2:
                            raise  # the runner cancels what is left
                        steps.append("cancelled")
                        # while the loop sleeps
                        asyncio.get_running_loop().call_later(0.01, os.kill, os.getpid(), signal.SIGINT)
                        steps.append("scheduled")
            finally:
                steps.append("over")
        try:
            with asyncio.Runner(loop_factory=lambda: make_loop(MONITOR)) as runner:
                runner.run(main())
        except KeyboardInterrupt:
            steps.append("interrupted")
        assert steps == ["cancelled", "scheduled", "over", "interrupted"], steps
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        """,
        monitor,
    )


def test_ctrl_c_reaches_the_loop_while_another_thread_gets_the_signal(monitor):
    """The kernel may give a signal to any thread; Python runs its handler in the main one."""
    run_script(
        """
        import signal, threading
        async def main():
            thread = threading.Thread(target=lambda: signal.pthread_kill(threading.get_ident(), signal.SIGUSR1))
            got = asyncio.Event()
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, got.set)
            asyncio.get_running_loop().call_later(0.01, thread.start)
            await got.wait()
            thread.join()
        loop = make_loop(MONITOR)
        loop.run_until_complete(main())
        loop.close()
        """,
        monitor,
    )


def test_a_loop_in_a_thread_is_not_disturbed_by_signals(monitor):
    run_script(
        """
        import signal, threading
        loop = make_loop(MONITOR)
        idents, handled = [], []
        signal.signal(signal.SIGUSR1, lambda *_: handled.append(threading.get_ident()))
        async def main():
            idents.append(threading.get_ident())
            started = loop.time()
            await asyncio.sleep(0.05)
            return loop.time() - started
        results = []
        thread = threading.Thread(target=lambda: results.append(loop.run_until_complete(main())))
        thread.start()
        wait_until(lambda: idents)
        while thread.is_alive():
            try:
                signal.pthread_kill(idents[0], signal.SIGUSR1)
            except ProcessLookupError:
                break
            time.sleep(0.001)
        thread.join()
        assert 0.05 <= results[0] < 5
        assert handled and set(handled) == {threading.main_thread().ident}
        loop.close()
        """,
        monitor,
    )


def test_runners_in_threads_leave_the_signals_alone(monitor):
    run_script(
        """
        import signal, threading
        seen = []
        async def main():
            seen.append(signal.getsignal(signal.SIGINT))
        def work():
            with asyncio.Runner(loop_factory=lambda: make_loop(MONITOR)) as runner:
                runner.run(main())
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert seen == [signal.default_int_handler]
        """,
        monitor,
    )


def test_a_handler_of_pythons_signal_module_may_use_the_loop(monitor):
    run_script(
        """
        import signal
        loop = make_loop(MONITOR)
        got = []
        def handler(number, frame):
            loop.call_soon_threadsafe(got.append, number)
            loop.call_soon_threadsafe(loop.stop)
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        loop.run_forever()
        assert got == [signal.SIGALRM]
        loop.close()
        """,
        monitor,
    )


@pytest.mark.parametrize("what", ["soon", "later", "write"])
def test_what_pythons_handler_schedules_right_before_the_loop_sleeps_is_done(monitor, what):
    """The signal is raised in C: its handler runs after the loop decided to sleep, when it checks for signals again."""
    run_script(
        """
        import ctypes, signal, socket, sys, threading
        loop = make_loop(MONITOR)
        near, far = socket.socketpair()
        far.settimeout(20)
        transport, _ = loop.run_until_complete(loop.create_connection(asyncio.Protocol, sock=near))
        def handler(number, frame):
            if WHAT == "soon":
                loop.call_soon(loop.stop)
            elif WHAT == "later":
                loop.call_later(0.001, loop.stop)
            else:
                transport.write(b"x")
        WHAT = sys.argv[1]
        signal.signal(signal.SIGUSR1, handler)
        loop.call_soon(getattr(ctypes.CDLL(None), "raise"), int(signal.SIGUSR1))
        if WHAT == "write":
            thread = threading.Thread(target=lambda: (far.recv(1), loop.call_soon_threadsafe(loop.stop)))
            thread.start()
        loop.run_forever()
        if WHAT == "write":
            thread.join()
        transport.abort()
        loop.run_until_complete(asyncio.sleep(0.001))
        loop.close()
        far.close()
        """,
        monitor,
        arguments=[what],
        seconds=15,
    )


def test_a_handler_that_could_not_be_added_can_be_added_later(monitor):
    """There was no memory, or no room in the kernel, for the reader of the wake-up socket."""
    if monitor == STOCK:
        pytest.skip("stock asyncio's loop has its wake-up socket from the start")
    source = """
        import signal

        def fail(*args):
            raise MemoryError

        received = []
        loop = make_loop(MONITOR)
        loop._add_reader = fail
        try:
            loop.add_signal_handler(signal.SIGUSR1, received.append, 1)
        except MemoryError:
            del loop._add_reader
        loop.add_signal_handler(signal.SIGUSR1, received.append, 2)
        os.kill(os.getpid(), signal.SIGUSR1)
        turn_until(loop, lambda: received)
        assert received == [2], received
        assert loop.remove_signal_handler(signal.SIGUSR1)
        loop.close()
    """
    run_script(source, monitor)

"""os.fork in a process with a live loop. Each test is a separate script."""

import pytest
from support.forking import run_forking
from support.helpers import TESTS, run_script


def test_a_new_loop_works_in_the_child(monitor):
    run_forking(
        """
        loop = make_loop(MONITOR)
        loop.run_until_complete(asyncio.sleep(0.001))

        def child():
            async def main():
                near, far = socket.socketpair()
                reader, writer = await asyncio.open_connection(sock=near)
                far.send(b"hello")
                assert await reader.readexactly(5) == b"hello"
                writer.close()
                await writer.wait_closed()
                await asyncio.sleep(0.001)
                return 5
            fresh = make_loop(MONITOR)
            assert fresh.run_until_complete(main()) == 5
            fresh.close()

        ended(fork(child))
        assert loop.run_until_complete(asyncio.sleep(0.001, 7)) == 7
        loop.close()
        """,
        monitor,
    )


def test_a_child_that_is_forked_inside_a_callback_can_run_a_new_loop(monitor):
    run_forking(
        """
        def child():
            asyncio._set_running_loop(None)
            fresh = make_loop(MONITOR)
            assert fresh.run_until_complete(asyncio.sleep(0.001, 5)) == 5
            fresh.close()

        async def main():
            pid = fork(child)
            await asyncio.get_running_loop().run_in_executor(None, ended, pid)
            return 7

        loop = make_loop(MONITOR)
        assert loop.run_until_complete(main()) == 7
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        """,
        monitor,
    )


def test_the_parents_loop_goes_on_while_the_child_lives(monitor):
    run_forking(
        """
        async def main():
            near, far = socket.socketpair()
            far.setblocking(False)
            protocol = Recorder()
            loop = asyncio.get_running_loop()
            await loop.create_connection(lambda: protocol, sock=near)
            far.send(b"before")
            await protocol.received(6)
            hold_read, hold_write = os.pipe()
            pid = fork(lambda: (os.close(hold_write), os.read(hold_read, 1)))
            for number in range(20):
                far.send(b"x")
                await protocol.received(7 + number)
                protocol.transport.write(b"y")
                assert await read_exactly(far, 1) == b"y"
            await asyncio.sleep(0.002)
            loop.call_soon_threadsafe(int)
            os.close(hold_write)
            await loop.run_in_executor(None, ended, pid)
            protocol.transport.close()
            await protocol.lost.wait()
            os.close(hold_read)
            far.close()
        loop = make_loop(MONITOR)
        loop.run_until_complete(main())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        """,
        monitor,
    )


def test_the_parents_loop_is_not_disturbed_when_the_child_closes_its_copy(monitor):
    run_forking(
        """
        near, far = socket.socketpair()
        near.setblocking(False)
        got = []
        loop = make_loop(MONITOR)
        loop.add_reader(near, lambda: got.append(near.recv(10)))
        one_turn(loop)

        def child():
            loop.close()

        ended(fork(child))
        far.send(b"x")
        turn_until(loop, lambda: got)
        assert got == [b"x"]
        loop.call_later(0.001, loop.stop)
        loop.run_forever()
        assert loop.remove_reader(near)
        loop.close()
        """,
        monitor,
    )


def test_the_parents_handlers_stay_when_the_child_removes_its_copies(monitor):
    """With epoll the child's copy is the same object in the kernel."""
    run_forking(
        """
        if MONITOR == STOCK:
            raise SystemExit  # stock asyncio shares its epoll fd with the child
        near, far = socket.socketpair()
        near.setblocking(False)
        got = []
        loop = make_loop(MONITOR)
        loop.add_reader(near, lambda: got.append(near.recv(10)))
        one_turn(loop)

        def child():
            try:
                loop.remove_reader(near)
                loop.call_soon_threadsafe(int)
            except Exception:
                pass  # it may refuse

        ended(fork(child))
        far.send(b"x")
        turn_until(loop, lambda: got)
        assert got == [b"x"]
        loop.remove_reader(near)
        loop.close()
        """,
        monitor,
    )


def test_the_parents_connections_close_on_time_although_a_child_lives(monitor):
    """A ring's fd in the child would keep the parent's sockets alive: no FIN for the peer."""
    run_forking(
        """
        if MONITOR == STOCK:
            raise SystemExit  # the child inherits the socket itself, which is unavoidable

        async def main():
            loop = asyncio.get_running_loop()
            hold_read, hold_write = os.pipe()
            pid = fork(lambda: (os.close(hold_write), os.read(hold_read, 1)))
            near, far = tcp_socketpair()   # made after the fork: only the ring could hold it
            far.setblocking(False)
            protocol = Recorder()
            await loop.create_connection(lambda: protocol, sock=near)
            far.send(b"hello")
            await protocol.received(5)
            protocol.transport.close()
            await protocol.lost.wait()
            assert await read_to_end(far) == b""
            server = await loop.create_server(Recorder, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            server.close()
            await turns(2)
            try:
                socket.create_connection(address).close()
            except ConnectionRefusedError:
                pass
            else:
                raise AssertionError("the closed listener still accepts")
            os.close(hold_write)
            os.close(hold_read)
            await loop.run_in_executor(None, ended, pid)
            far.close()

        loop = make_loop(MONITOR)
        loop.run_until_complete(main())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        """,
        monitor,
    )


def test_connections_end_although_a_child_lives_that_closed_its_inherited_sockets(monitor):
    """The child closes the socket that it inherited; only a ring's fd would still hold it."""
    run_forking(
        """
        async def main():
            loop = asyncio.get_running_loop()
            near, far = tcp_socketpair()
            far.setblocking(False)
            protocol = Recorder()
            await loop.create_connection(lambda: protocol, sock=near)
            await turns(3)   # a receive is in flight
            number = protocol.transport.get_extra_info("socket").fileno()
            hold_read, hold_write = os.pipe()
            report_read, report_write = os.pipe()

            def child():
                os.close(hold_write)
                os.close(number)
                os.write(report_write, b"x")
                os.read(hold_read, 1)

            pid = fork(child)
            assert os.read(report_read, 1) == b"x"
            protocol.transport.close()
            await protocol.lost.wait()
            assert await read_to_end(far) == b""
            for fd in (hold_write, hold_read, report_read, report_write):
                os.close(fd)
            await loop.run_in_executor(None, ended, pid)
            far.close()

        loop = make_loop(MONITOR)
        loop.run_until_complete(main())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        """,
        monitor,
    )


def test_signals_of_the_child_do_not_reach_the_parents_handlers(monitor):
    run_forking(
        """
        import signal
        loop = make_loop(MONITOR)
        got = []
        loop.add_signal_handler(signal.SIGUSR1, got.append, 1)
        if MONITOR != STOCK:   # stock asyncio shares its socketpair with the child
            ended(fork(lambda: os.kill(os.getpid(), signal.SIGUSR1)))
            loop.call_later(0.005, loop.stop)
            loop.run_forever()
            assert got == [], got
        signal.raise_signal(signal.SIGUSR1)
        turn_until(loop, lambda: got)
        loop.close()
        """,
        monitor,
    )


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing_works_beside_a_loop(monitor, method, tmp_path):
    script = tmp_path / "script.py"
    source = """
import asyncio, multiprocessing, sys, warnings
sys.path += PATH
warnings.simplefilter("ignore", DeprecationWarning)
from support.helpers import make_loop

def work(name, queue):
    loop = make_loop(name)
    queue.put(loop.run_until_complete(asyncio.sleep(0.001, 5)))
    loop.close()

if __name__ == "__main__":
    name, method = sys.argv[1:]
    loop = make_loop(name)
    loop.run_until_complete(asyncio.sleep(0.001))
    context = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    process = context.Process(target=work, args=(name, queue))
    process.start()
    assert queue.get() == 5
    process.join(20)
    assert process.exitcode == 0
    queue.close()
    loop.run_until_complete(asyncio.sleep(0.001))
    loop.close()
"""
    script.write_text(source.replace("PATH", repr([str(TESTS), str(TESTS.parent)])))
    program = f"""
        script = {str(script)!r}
        if {method!r} == "fork":
            import runpy
            sys.argv = ["script", MONITOR, "fork"]
            runpy.run_path(script, run_name="__main__")
        else:
            subprocess.run([sys.executable, script, MONITOR, {method!r}], check=True, timeout=30)
    """
    run_script(program, monitor)


def test_a_subprocess_with_a_preexec_fn_leaves_the_loop_alone(monitor):
    run_script(
        """
        loop = make_loop(MONITOR)
        async def main():
            for _ in range(5):
                done = subprocess.run(["/bin/true"], preexec_fn=lambda: None)
                assert done.returncode == 0
                await asyncio.sleep(0.001)
        loop.run_until_complete(main())
        loop.close()
        """,
        monitor,
    )


def test_a_child_that_continues_in_the_parents_loop_gets_an_error(monitor):
    """It returns from the callback in which it was forked: the loop must not sleep forever, nor touch the parent's."""
    run_forking(
        """
        if MONITOR == STOCK:
            raise SystemExit  # stock asyncio continues, with the parent's epoll object
        async def main():
            pid = os.fork()
            if pid:
                await asyncio.get_running_loop().run_in_executor(None, ended, pid)
            else:
                await asyncio.sleep(0)
                await asyncio.get_running_loop().create_future()
        parent = os.getpid()
        loop = make_loop(MONITOR)
        coroutine = main()
        try:
            loop.run_until_complete(coroutine)
        except RuntimeError as error:
            assert os.getpid() != parent
            assert "fork" in str(error)
            os._exit(0)
        assert os.getpid() == parent
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        """,
        monitor,
    )


@pytest.mark.parametrize("way", ["sys.exit(0)", "loop.stop()"])
def test_a_child_may_leave_the_parents_loop(monitor, way):
    run_forking(
        f"""
        loop = make_loop(MONITOR)
        pids = []
        def callback():
            pid = os.fork()
            if pid:
                pids.append(pid)
            else:
                {way}
        loop.call_soon(callback)
        try:
            loop.call_later(0.01, loop.stop)
            loop.run_forever()
        except SystemExit:
            assert not pids
        if not pids:
            os._exit(0)
        ended(pids[0])
        loop.close()
        """,
        monitor,
    )


def test_the_current_loop_of_a_child_works(monitor):
    run_forking(
        """
        import warnings
        if MONITOR != STOCK:
            import uringloop
            policy = uringloop.EventLoopPolicy()
            policy._loop_factory = lambda: make_loop(MONITOR)
            asyncio.set_event_loop_policy(policy)
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        loop.run_until_complete(asyncio.sleep(0))

        def child():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                mine = asyncio.get_event_loop()
            assert mine.run_until_complete(asyncio.sleep(0.001, 5)) == 5
            mine.close()

        if sys.version_info < (3, 14):
            ended(fork(child))
        loop.close()
        asyncio.set_event_loop(None)
        """,
        monitor,
    )


def test_peers_of_the_parent_see_the_end_although_children_were_started(monitor):
    """Neither children of the loop nor those of multiprocessing's spawn keep its connections open."""
    run_forking(
        """
        async def main():
            loop = asyncio.get_running_loop()
            near, far = tcp_socketpair()
            far.setblocking(False)
            protocol = Recorder()
            await loop.create_connection(lambda: protocol, sock=near)
            server = await loop.create_server(Recorder, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            child = await asyncio.create_subprocess_exec("/bin/cat", stdin=-1, close_fds=False)
            protocol.transport.close()
            await protocol.lost.wait()
            assert await read_to_end(far) == b""
            server.close()
            await turns(2)
            try:
                socket.create_connection(address).close()
            except ConnectionRefusedError:
                pass
            else:
                raise AssertionError("the closed listener still accepts")
            child.stdin.close()
            assert await child.wait() == 0
            far.close()

        loop = make_loop(MONITOR)
        loop.run_until_complete(main())
        loop.close()
        """,
        monitor,
    )

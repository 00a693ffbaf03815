"""The interpreter exits while loops are alive: no crash, no hang, no more output than from stock asyncio."""

import re
import subprocess
import sys
import textwrap

import pytest
from support.helpers import STOCK, TESTS


def end(source, monitor, *, status=0, options=()):
    """Run a script in a process of its own until the interpreter exits; return its stdout and stderr."""
    code = f"import sys\nsys.path += {[str(TESTS), str(TESTS.parent)]!r}\n"
    code += f"MONITOR = {monitor!r}\nfrom support.helpers import *\n" + textwrap.dedent(source)
    done = subprocess.run(
        [sys.executable, *options, "-c", code], capture_output=True, text=True, timeout=40, check=False
    )
    assert done.returncode == status, done.stderr
    return done.stdout, done.stderr


def without_details(text):
    """The text without addresses and without the place where a task waits."""
    return re.sub(r"0x[0-9a-f]+|(?<=^task: ).*", "...", text, flags=re.MULTILINE)


OPEN = {
    "nothing": "",
    "connection": """
        near, far = socket.socketpair()
        transport, _ = loop.run_until_complete(loop.create_connection(Recorder, sock=near))
        far.send(b"x")
        one_turn(loop)
        transport.write(b"not flushed")
    """,
    "TLS": """
        near, far = socket.socketpair()
        async def connect():
            await asyncio.gather(
                loop.connect_accepted_socket(Recorder, near, ssl=server_tls()),
                loop.create_connection(Recorder, sock=far, ssl=client_tls(), server_hostname="localhost"))
        loop.run_until_complete(connect())
    """,
    "datagrams": """
        transport, _ = loop.run_until_complete(loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)))
        one_turn(loop)
    """,
    "server": """
        server = loop.run_until_complete(loop.create_server(Recorder, "127.0.0.1", 0))
        one_turn(loop)
    """,
    "reader": """
        near, far = socket.socketpair()
        loop.add_reader(near, print)
        one_turn(loop)
    """,
    "timer": """
        loop.call_later(1000, print)
    """,
    "receive": """
        near, far = socket.socketpair()
        near.setblocking(False)
        future = loop.create_task(loop.sock_recv(near, 10))
        one_turn(loop)
    """,
    "pipe": """
        read_fd, write_fd = os.pipe()
        transport, _ = loop.run_until_complete(loop.connect_read_pipe(Recorder, open(read_fd, "rb", 0)))
        one_turn(loop)
    """,
    "child": """
        process = loop.run_until_complete(asyncio.create_subprocess_exec("/bin/cat", stdin=-1, stdout=-1))
        one_turn(loop)
    """,
    "signal": """
        import signal
        loop.add_signal_handler(signal.SIGUSR1, print)
    """,
    "executor": """
        future = loop.run_in_executor(None, time.sleep, 0.02)
    """,
}


@pytest.mark.parametrize("is_current", [True, False])
@pytest.mark.parametrize("what", OPEN)
def test_a_loop_that_was_left_open_ends_as_quietly_as_stock(monitor, what, is_current):
    """The module holds it, or asyncio does, which is torn down later."""
    source = "loop = make_loop(MONITOR)\n" + textwrap.dedent(OPEN[what])
    if is_current:
        source += "asyncio.set_event_loop(loop)\nasyncio.keep = loop\n"
    _, errors = end(source, monitor)
    if monitor != STOCK and errors:
        assert without_details(errors) == without_details(end(source, STOCK)[1])


@pytest.mark.parametrize("what", ["connection", "receive", "reader", "nothing"])
def test_a_finalizer_in_a_cycle_with_the_loop_may_use_it(monitor, what):
    """__del__ runs while modules are torn down, and may use the loop."""
    source = "loop = make_loop(MONITOR)\n" + textwrap.dedent(OPEN[what])
    source += textwrap.dedent(
        """
        class Late:
            def __del__(self):
                for use in (lambda: self.loop.call_soon_threadsafe(int), self.loop.close):
                    try:
                        use()
                    except Exception:
                        pass
        late = Late()
        late.loop, loop.late = loop, late
        """
    )
    end(source, monitor)


def test_daemon_threads_run_loops_when_the_interpreter_ends(monitor):
    source = """
        import threading
        loops, n_ticks = [], [0, 0]
        def busy(number):
            loop = make_loop(MONITOR)
            near, far = socket.socketpair()
            loop.run_until_complete(loop.create_connection(Recorder, sock=near))
            def tick():
                far.send(b"x")
                n_ticks[number] += 1
                loop.call_later(0.0001, tick)
            tick()
            loops.append(loop)
            loop.run_forever()
        def idle(number):
            loop = make_loop(MONITOR)
            loops.append(loop)
            loop.run_forever()
        threads = [
            threading.Thread(target=function, args=(number,), daemon=True)
            for function in (busy, idle) for number in (0, 1)
        ]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(loops) == 4 and min(n_ticks) >= 50)
        wait_until(lambda: all(is_asleep(thread.native_id) for thread in threads[2:]))
        """
    assert end(source, monitor) == ("", "")


def test_non_daemon_threads_finish_their_loops_first(monitor):
    source = """
        import threading
        def work():
            loop = make_loop(MONITOR)
            # the interpreter exits, and waits for this thread
            loop.run_until_complete(until(lambda: not threading.main_thread().is_alive()))
            loop.close()
            print("finished")
        threading.Thread(target=work).start()
        """
    assert end(source, monitor) == ("finished\n", "")


def test_atexit_handlers_may_use_loops(monitor):
    source = """
        import atexit
        loop = make_loop(MONITOR)
        async def main(name):
            await asyncio.sleep(0.001)
            near, far = socket.socketpair()
            reader, writer = await asyncio.open_connection(sock=near)
            far.send(b"hello")
            assert await reader.readexactly(5) == b"hello"
            writer.close()
            await writer.wait_closed()
            process = await asyncio.create_subprocess_exec("/bin/true")
            assert await process.wait() == 0
            await until(lambda: not any(
                "waitpid" in thread.name for thread in __import__("threading").enumerate()))
            print(name)
        def old():
            loop.run_until_complete(main("old"))
            loop.close()
        def new():
            with asyncio.Runner(loop_factory=lambda: make_loop(MONITOR)) as runner:
                runner.run(main("new"))
        atexit.register(old)
        atexit.register(new)
        loop.run_until_complete(main("first"))
        """
    assert end(source, monitor, options=("-W", "ignore")) == ("first\nnew\nold\n", "")


@pytest.mark.parametrize("where", ["callback", "task", "reader"])
def test_sys_exit_inside_the_loop_ends_the_process_with_its_status(monitor, where):
    source = f"""
        loop = make_loop(MONITOR)
        async def task():
            sys.exit(3)
        near, far = socket.socketpair()
        if {where!r} == "callback":
            loop.call_soon(sys.exit, 3)
        elif {where!r} == "reader":
            loop.add_reader(near, sys.exit, 3)
            far.send(b"x")
        else:
            wanted = loop.create_task(task())
        loop.run_forever()
        """
    out, _errors = end(source, monitor, status=3)
    assert out == ""


def test_ctrl_c_in_run_forever_ends_the_process_as_in_stock_asyncio(monitor):
    source = """
        import signal
        loop = make_loop(MONITOR)
        loop.call_later(0.005, os.kill, os.getpid(), signal.SIGINT)
        loop.run_forever()
        """
    _, errors = end(source, monitor, status=-2)
    assert errors.endswith("KeyboardInterrupt\n")
    assert "Exception ignored" not in errors


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="tests/repository/test_sub_interpreters.py")
def test_before_python_3_12_import_in_a_sub_interpreter_is_refused(monitor):
    if monitor == STOCK:
        pytest.skip("about compiled modules")
    source = """
        import _xxsubinterpreters as interpreters
        import uringloop
        code = (
            "import sys\\n"
            f"sys.path[:] = {sys.path!r}\\n"
            "try: import uringloop\\n"
            "except ImportError as error: print('refused:', error, flush=True)\\n"
        )
        ident = interpreters.create()
        interpreters.run_string(ident, code)
        interpreters.destroy(ident)
        loop = make_loop(MONITOR)
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        """
    out, errors = end(source, monitor)
    assert out.startswith("refused:")
    assert "interpreter" in out
    assert errors == ""

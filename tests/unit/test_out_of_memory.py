"""One allocation after the other fails: no fd is lost, nothing crashes, and the loop keeps working."""

import sys
import sysconfig

import pytest
from support.helpers import run_script

pytest.importorskip("_testcapi")

# Seen from 3.13.0 to 3.13.18, without uringloop, too: a coroutine or a generator for which there is no memory.
makes_coroutines = pytest.mark.skipif(
    sys.version_info[:2] == (3, 13), reason="Python 3.13 crashes where it cannot make a coroutine"
)
# PyList_New() uses what it has not got.
makes_lists = pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="free-threaded Pythons crash where they cannot make a list",
)


@pytest.mark.slow
@pytest.mark.parametrize("listener", ["tcp", "given", "ipv6", "unix", "polling"])
def test_a_server_survives_failing_allocations(monitor, listener, tmp_path):
    """Allocations fail while a connection is accepted and answered; then the next one is served."""
    source = """
        from support.out_of_memory import *
        LISTENER, PATH = sys.argv[1:]

        class Echo(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport
            def data_received(self, data):
                self.transport.write(data)

        def listen(loop):
            if LISTENER == "unix":
                return loop.create_unix_server(Echo, PATH)
            if LISTENER == "given":  # accepts by readiness on io_uring as well
                return loop.create_server(Echo, sock=socket.create_server(("127.0.0.1", 0)))
            return loop.create_server(Echo, "::1" if LISTENER == "ipv6" else "127.0.0.1", 0)

        def scenario(loop, faults):
            if LISTENER == "polling":  # polling learns from each dispatched event
                loop.set_poll_params(20_000)
            server = run(loop, listen(loop))
            address = server.sockets[0].getsockname()
            with client(address, b"x") as sock:  # the loop makes its one-time allocations
                turn_until(loop, lambda: answered(sock, b"x"))
            turn_until(loop, lambda: not list(loop._transports))
            before = open_fds()
            with client(address, b"hello") as sock:
                has_failed = faults.run()
                turn_until(loop, lambda: answered(sock, b"hello"), seconds=SECONDS)
            with client(address, b"again") as sock:
                turn_until(loop, lambda: answered(sock, b"again"), seconds=SECONDS)
            nothing_stays_open(loop, before)
            if hasattr(server, "_active_count"):  # until Python 3.12; wait_closed() would wait forever
                assert server._active_count == 0
            server.close()
            run(loop, server.wait_closed(), seconds=SECONDS)
            return has_failed or bool(faults.errors)

        sweep(scenario, MONITOR)
    """
    arguments = (listener, str(tmp_path / "socket"))
    assert int(run_script(source, monitor, arguments=arguments)) > 40


@pytest.mark.slow
def test_a_nested_run_restores_the_current_task(monitor):
    """Whichever allocation of run_nested() fails, its caller is the current task afterwards and can end."""
    source = """
        from support.out_of_memory import *
        import _testcapi

        async def nest(number):
            loop, task = asyncio.get_running_loop(), asyncio.current_task()
            done = loop.create_future()
            done.set_result(7)
            has_failed = False
            _testcapi.set_nomemory(number, number + 1)
            try:
                result = loop.run_nested(done)
            except MemoryError:
                has_failed = True
            finally:
                _testcapi.remove_mem_hooks()
            assert has_failed or result == 7
            assert asyncio.current_task() is task
            return has_failed

        def scenario(loop, faults):
            return loop.run_until_complete(nest(faults.number))

        sweep(scenario, MONITOR)
    """
    assert int(run_script(source, monitor)) > 30


@makes_coroutines
@pytest.mark.slow
@pytest.mark.parametrize("width", [4])
@pytest.mark.parametrize("kind", ["rb", "unbuffered", "r", "w+", "directory", "closing"])
def test_open_loses_no_descriptor(monitor, kind, width, tmp_path):
    """Wherever `width` allocations in a row fail between the system call that opens a file and its close.
    A task may be lost, with all it holds: asyncio does not continue a task whose step or wake-up could not be made.
    """
    if monitor != "io_uring":
        pytest.skip("files are opened in threads, and it is random which thread's allocation fails")
    source = """
        from support.out_of_memory import *
        import _testcapi
        import uringloop
        KIND, WIDTH, FOLDER = sys.argv[1], int(sys.argv[2]), sys.argv[3]
        PATH = FOLDER + "/file"
        with open(PATH, "wb") as made:
            made.write(bytes(1000))
        HOW = {"unbuffered": (PATH, "rb", 0), "directory": (FOLDER, "rb"), "closing": (PATH, "rb")}
        HOW = HOW.get(KIND, (PATH, KIND))
        has_failed = False

        async def use(number):
            global has_failed
            try:
                if KIND != "closing":
                    _testcapi.set_nomemory(number, number + WIDTH)
                file = await uringloop.open(*HOW)
                _testcapi.remove_mem_hooks()
                closing = file.close()  # not one of the allocations that fail
                if KIND == "closing":
                    _testcapi.set_nomemory(number, number + WIDTH)
                await closing
            except IsADirectoryError:
                pass
            except MemoryError:
                has_failed = True
            finally:
                _testcapi.remove_mem_hooks()

        clean = number = 0
        while clean < CLEAN_RUNS:
            has_failed, errors = False, []
            loop = make_loop(MONITOR)
            loop.set_exception_handler(lambda loop, details: errors.append(details))
            run(loop, use(1 << 30))
            before = open_fds()
            task = loop.create_task(use(number))
            task._log_destroy_pending = False
            task.add_done_callback(lambda _: loop.stop())
            guard = loop.call_later(0.3, loop.stop)
            try:
                loop.run_forever()
            except MemoryError:
                has_failed = True
            _testcapi.remove_mem_hooks()
            guard.cancel()
            if not task.done() and not (has_failed or errors):
                raise AssertionError(f"allocation {number}: {task!r}")
            is_lost = not task.done()
            del task, guard
            errors_seen = bool(errors)
            errors.clear()
            if not is_lost:
                nothing_stays_open(loop, before)
            run(loop, loop.shutdown_default_executor())
            loop.close()
            clean = 0 if has_failed or errors_seen else clean + 1
            number += 1
        print(number)
    """
    arguments = (kind, str(width), str(tmp_path))
    assert (
        int(run_script(source, monitor, arguments=arguments)) > 30
    )  # CLEAN_RUNS runs without any effect end it


@makes_lists
@makes_coroutines
@pytest.mark.slow
@pytest.mark.parametrize(
    "action", ["open", "text", "unbuffered", "w+", "directory", "read", "write", "close"]
)
def test_file_operations_end(monitor, action, tmp_path):
    """They return or raise MemoryError, whichever allocation fails, and no descriptor is lost."""
    source = """
        from support.out_of_memory import *
        import _testcapi
        import uringloop
        ACTION, FOLDER = sys.argv[1:]
        PATH = FOLDER + "/file"
        with open(PATH, "wb") as made:
            made.write(bytes(1000))
        HOW = {"text": (PATH, "r"), "unbuffered": (PATH, "rb", 0), "w+": (PATH, "w+"), "directory": (FOLDER, "rb")}
        HOW = HOW.get(ACTION, (PATH, "r+b"))

        async def use(arm):
            try:
                if ACTION not in ("read", "write", "close"):
                    arm()
                file = await uringloop.open(*HOW)
                try:
                    if ACTION == "read":
                        arm()
                        await file.read(100)
                    elif ACTION == "write":
                        arm()
                        await file.write(bytes(100))
                        await file.flush()
                    elif ACTION == "close":
                        arm()
                    else:
                        _testcapi.remove_mem_hooks()
                finally:
                    if ACTION != "close":
                        _testcapi.remove_mem_hooks()
                    await file.close()
            except IsADirectoryError:
                pass
            finally:
                _testcapi.remove_mem_hooks()

        sweep_task(use, MONITOR)
    """
    assert int(run_script(source, monitor, arguments=(action, str(tmp_path)))) > 30


@makes_coroutines
@pytest.mark.slow
@pytest.mark.parametrize("waits_for", ["turns", "a callback", "a timer", "a task", "a socket"])
def test_a_task_ends(monitor, waits_for):
    """In asyncio its step or its wake-up can be lost: then it waits forever."""
    source = """
        from support.out_of_memory import *
        import _testcapi
        WAITS_FOR = sys.argv[1]

        async def some_turns():
            for _ in range(3):
                await asyncio.sleep(0)

        async def wait(loop, arm, left, right):
            arm()
            if WAITS_FOR == "turns":
                await some_turns()
            elif WAITS_FOR == "a callback":
                future = loop.create_future()
                loop.call_soon(future.set_result, None)
                await future
            elif WAITS_FOR == "a timer":
                await asyncio.sleep(0.001)
            elif WAITS_FOR == "a task":
                await loop.create_task(some_turns())
            elif WAITS_FOR == "a socket":
                for _ in range(2):  # one may fail: it is a callback of the program
                    loop.call_soon(right.send, b"x")
                await loop.sock_recv(left, 1)

        async def use(arm):
            loop = asyncio.get_running_loop()
            left, right = socket.socketpair()
            left.setblocking(False)
            try:
                await wait(loop, arm, left, right)
            finally:
                _testcapi.remove_mem_hooks()
                left.close()
                right.close()

        sweep_task(use, MONITOR)
    """
    assert int(run_script(source, monitor, arguments=(waits_for,))) > 30


@makes_coroutines
@pytest.mark.slow
@pytest.mark.parametrize("levels", [1, 3])
def test_a_nested_run_ends(monitor, levels):
    """Even if the step or the wake-up of its own task is lost, or asyncio drops the callbacks of its end."""
    source = """
        from support.out_of_memory import *
        import _testcapi
        LEVELS = int(sys.argv[1])

        async def inner(arm, level):
            loop = asyncio.get_running_loop()
            if level:
                return loop.run_nested(inner(arm, level - 1))
            arm()
            await asyncio.sleep(0)
            future = loop.create_future()
            loop.call_soon(future.set_result, 7)
            return await future

        async def use(arm):
            me = asyncio.current_task()
            try:
                assert asyncio.get_running_loop().run_nested(inner(arm, LEVELS - 1)) == 7
            finally:
                _testcapi.remove_mem_hooks()
                assert asyncio.current_task() is me

        sweep_task(use, MONITOR)
    """
    assert int(run_script(source, monitor, arguments=(str(levels),))) > 30


@pytest.mark.slow
def test_a_bottom_half_runs_however_often_scheduling_failed(monitor):
    source = """
        from support.out_of_memory import *
        import _testcapi
        import uringloop

        clean = number = 0
        while clean < CLEAN_RUNS:
            with uringloop.AioContext(MONITOR) as aio_context:
                ran = []
                halves = [aio_context.new_bottom_half(ran.append, i) for i in range(100)]
                has_failed = False
                for schedule in ("schedule", "schedule_idle"):
                    ran.clear()
                    half, each = None, iter(halves)  # module names are in a dict, which may have to grow
                    _testcapi.set_nomemory(number, number + 1)
                    for half in each:
                        try:
                            getattr(half, schedule)()
                        except MemoryError:
                            has_failed = True
                    _testcapi.remove_mem_hooks()
                    for half in halves:
                        getattr(half, schedule)()
                    for _ in range(3):
                        aio_context.poll(blocking=False)
                    assert sorted(ran) == list(range(100)), (schedule, ran)
            clean = 0 if has_failed else clean + 1
            number += 1
        print(number)
    """
    assert int(run_script(source, monitor)) > 30


@makes_lists
@makes_coroutines
@pytest.mark.slow
@pytest.mark.parametrize("made_by", ["sock_accept", "create_connection", "create_datagram_endpoint"])
def test_no_socket_is_lost(monitor, made_by):
    """A function that makes a socket returns it or closes it, and ends."""
    source = """
        from support.out_of_memory import *
        import _testcapi
        MADE_BY = sys.argv[1]

        async def make(loop, listener, address):
            if MADE_BY == "sock_accept":
                connection, _ = await loop.sock_accept(listener)
                return connection
            if MADE_BY == "create_connection":
                transport, _ = await loop.create_connection(asyncio.Protocol, *address)
                return transport
            if MADE_BY == "create_datagram_endpoint":
                transport, _ = await loop.create_datagram_endpoint(
                    asyncio.DatagramProtocol, ("127.0.0.1", 0), remote_addr=address)
                return transport
            return await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)

        async def use(arm):
            loop = asyncio.get_running_loop()
            listener = socket.create_server(("127.0.0.1", 0))
            listener.setblocking(False)
            address = listener.getsockname()
            made, peer = None, socket.socket()
            try:
                making = make(loop, listener, address)
                if MADE_BY == "sock_accept":
                    peer.connect(address)
                arm()
                made = await making
            finally:
                _testcapi.remove_mem_hooks()
                if made is not None:
                    made.close()
                peer.close()
                listener.close()

        sweep_task(use, MONITOR)
    """
    assert int(run_script(source, monitor, arguments=(made_by,), seconds=100)) > 30

"""One allocation after the other fails: no fd is lost, nothing crashes, and the loop goes on working."""

import pytest
from helpers import run_script

pytest.importorskip("_testcapi")


@pytest.mark.slow
@pytest.mark.parametrize("listener", ["tcp", "given", "ipv6", "unix", "polling"])
def test_a_server_outlives_it(monitor, listener, tmp_path):
    """While a connection is accepted, and answered; then the next one is served."""
    source = """
        from out_of_memory import *
        LISTENER, PATH = sys.argv[1:]

        class Echo(asyncio.Protocol):
            def connection_made(self, transport):
                self.transport = transport
            def data_received(self, data):
                self.transport.write(data)

        def listen(loop):
            if LISTENER == "unix":
                return loop.create_unix_server(Echo, PATH)
            if LISTENER == "given":  # accepts by readiness on io_uring, too
                return loop.create_server(Echo, sock=socket.create_server(("127.0.0.1", 0)))
            return loop.create_server(Echo, "::1" if LISTENER == "ipv6" else "127.0.0.1", 0)

        def scenario(loop, faults):
            if LISTENER == "polling":  # what looks for events learns from each that is dispatched
                loop.set_poll_params(20_000)
            server = run(loop, listen(loop))
            address = server.sockets[0].getsockname()
            with client(address, b"x") as sock:  # the loop makes what it makes only once
                turn_until(loop, lambda: answered(sock, b"x"))
            turn_until(loop, lambda: not list(loop._transports))
            before = open_fds()
            with client(address, b"hello") as sock:
                is_felt = faults.run()
                turn_until(loop, lambda: answered(sock, b"hello"), seconds=SECONDS)
            with client(address, b"again") as sock:
                turn_until(loop, lambda: answered(sock, b"again"), seconds=SECONDS)
            nothing_stays_open(loop, before)
            server.close()
            run(loop, server.wait_closed(), seconds=SECONDS)
            return is_felt or bool(faults.errors)

        sweep(scenario, MONITOR)
    """
    arguments = (listener, str(tmp_path / "socket"))
    assert int(run_script(source, monitor, arguments=arguments)) > 40


@pytest.mark.slow
def test_a_nested_run_puts_the_task_back(monitor):
    """Whatever run_nested() lacks memory for, its caller is the current task afterwards and can end."""
    source = """
        from out_of_memory import *
        import _testcapi

        async def nest(number):
            loop, task = asyncio.get_running_loop(), asyncio.current_task()
            done = loop.create_future()
            done.set_result(7)
            is_felt = False
            _testcapi.set_nomemory(number, number + 1)
            try:
                result = loop.run_nested(done)
            except MemoryError:
                is_felt = True
            finally:
                _testcapi.remove_mem_hooks()
            assert is_felt or result == 7
            assert asyncio.current_task() is task
            return is_felt

        def scenario(loop, faults):
            return loop.run_until_complete(nest(faults.number))

        sweep(scenario, MONITOR)
    """
    assert int(run_script(source, monitor)) > 30


@pytest.mark.slow
@pytest.mark.parametrize("width", [4])
@pytest.mark.parametrize("kind", ["rb", "unbuffered", "r", "w+", "directory", "closing"])
def test_open_loses_no_descriptor(monitor, kind, width, tmp_path):
    """Wherever `width` allocations in a row fail between the system call that opens a file and its end.

    A task may be lost, with what it has: asyncio steps a task no more whose step, or wake-up, could not be made.
    """
    if monitor != "io_uring":
        pytest.skip("files are opened in threads, and which thread's allocation fails is chance")
    source = """
        from out_of_memory import *
        import _testcapi
        import uringloop
        KIND, WIDTH, FOLDER = sys.argv[1], int(sys.argv[2]), sys.argv[3]
        PATH = FOLDER + "/file"
        with open(PATH, "wb") as made:
            made.write(bytes(1000))
        HOW = {"unbuffered": (PATH, "rb", 0), "directory": (FOLDER, "rb"), "closing": (PATH, "rb")}
        HOW = HOW.get(KIND, (PATH, KIND))
        is_felt = False

        async def use(number):
            global is_felt
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
                is_felt = True
            finally:
                _testcapi.remove_mem_hooks()

        clean = number = 0
        while clean < CLEAN_RUNS:
            is_felt, errors = False, []
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
                is_felt = True
            _testcapi.remove_mem_hooks()
            guard.cancel()
            if not task.done() and not (is_felt or errors):
                raise AssertionError(f"allocation {number}: {task!r}")
            is_lost = not task.done()
            del task, guard
            errors_seen = bool(errors)
            errors.clear()
            if not is_lost:
                nothing_stays_open(loop, before)
            run(loop, loop.shutdown_default_executor())
            loop.close()
            clean = 0 if is_felt or errors_seen else clean + 1
            number += 1
        print(number)
    """
    arguments = (kind, str(width), str(tmp_path))
    assert int(run_script(source, monitor, arguments=arguments)) > 30  # so many without any effect end it

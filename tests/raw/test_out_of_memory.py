"""One allocation after the other fails: see out_of_memory.py and unit/test_out_of_memory.py."""

import sysconfig

import pytest
from support.helpers import run_script

pytest.importorskip("_testcapi")

# PyList_New() uses what it has not got.
makes_lists = pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="free-threaded Pythons crash where they cannot make a list",
)


@pytest.mark.slow
def test_the_fd_of_a_raw_request_is_never_lost(monitor):
    """Either it reaches the task that awaits the request, or it is closed."""
    source = """
        from support.out_of_memory import *
        import functools
        from uringloop.liburing import ffi, lib

        PATH = ffi.new("char[]", b"/proc/self/cmdline")

        async def open_and_close(gate, faults):
            await gate
            try:
                fd = await gate.get_loop().add_sqe(lib.io_uring_prep_openat, -100, PATH, os.O_RDONLY, 0)
            except MemoryError:
                faults.errors.append(MemoryError())
            else:
                os.close(fd)

        def scenario(loop, faults):
            before = open_fds()
            gate = loop.create_future()
            task = loop.create_task(open_and_close(gate, faults))
            task._log_destroy_pending = False
            one_turn(loop)
            has_failed = faults.run(functools.partial(gate.set_result, None))
            del task, gate
            nothing_stays_open(loop, before)
            return has_failed or bool(faults.errors)

        sweep(scenario, MONITOR)
    """
    assert int(run_script(source, monitor)) > 30


@makes_lists
@pytest.mark.slow
@pytest.mark.parametrize("form", ["awaited", "callback", "iterated", "cancelled"])
def test_every_completion_is_delivered(monitor, form):
    """In the next turn, if there was no memory for it in the turn that harvested it."""
    source = """
        from support.out_of_memory import *
        import functools
        from uringloop.liburing import ffi, lib
        FORM = sys.argv[1]
        READS = 4

        async def take(gate, faults, read_fd, got):
            loop = gate.get_loop()
            memory = [ffi.new("char[]", 1) for _ in range(READS)]
            if FORM == "iterated":
                polls = loop.add_sqe(lib.io_uring_prep_poll_multishot, read_fd, 1, multishot=True)
                gate.set_result(None)
                async for cqe in polls:
                    got.append(cqe.res)
                return
            if FORM == "callback":
                for one in memory:
                    loop.add_sqe(lib.io_uring_prep_read, read_fd, one, 1, -1,
                                 callback=lambda cqe: got.append(cqe.res))
                gate.set_result(None)
                return
            requests = [loop.add_sqe(lib.io_uring_prep_read, read_fd, one, 1, -1) for one in memory]
            if FORM == "cancelled":
                for request in requests:
                    request.cancel()
            gate.set_result(None)
            for request in requests:
                while not request.done():
                    try:
                        await request
                    except (MemoryError, OSError):
                        pass
                got.append(request.cqe.res)

        def scenario(loop, faults):
            before = open_fds()
            read_fd, write_fd = os.pipe()
            gate, got = loop.create_future(), []
            task = loop.create_task(take(gate, faults, read_fd, got))
            task._log_destroy_pending = False
            turn_until(loop, gate.done)
            os.write(write_fd, b"x" * READS)
            has_failed = faults.run()
            turn_until(loop, lambda: got or task.done(), seconds=SECONDS)
            if FORM == "iterated":
                n_before = len(got)
                os.write(write_fd, b"y")
                turn_until(loop, lambda: len(got) > n_before or task.done(), seconds=SECONDS)
                task.cancel()
            turn_until(loop, task.done, seconds=SECONDS)
            if task.cancelled() or task.exception() is None:
                turn_until(loop, lambda: FORM == "iterated" or len(got) == READS, seconds=SECONDS)
            else:
                assert isinstance(task.exception(), MemoryError)
                has_failed = True
            del task, gate
            os.close(read_fd)
            os.close(write_fd)
            nothing_stays_open(loop, before)
            return has_failed or bool(faults.errors)

        sweep(scenario, MONITOR)
    """
    assert int(run_script(source, monitor, arguments=(form,))) > 30


@makes_lists
@pytest.mark.slow
def test_completions_stay_in_order_although_there_is_no_memory_for_one(monitor):
    source = """
        from support.out_of_memory import *
        from uringloop.liburing import lib
        REQUESTS = 4

        def scenario(loop, faults):
            got = []
            for number in range(REQUESTS):
                loop.add_sqe(lib.io_uring_prep_nop, callback=lambda cqe, number=number: got.append(number))
            has_failed = faults.run()
            for _ in range(REQUESTS):
                one_turn(loop)
            assert got == sorted(got), got
            return has_failed

        sweep(scenario, MONITOR)
    """
    assert int(run_script(source, monitor)) > 30


@pytest.mark.slow
@pytest.mark.parametrize("owner", ["loop", "context"])
def test_a_call_that_raises_has_made_no_request(monitor, owner):
    """And one that returns has made one, whose callback is called once."""
    source = """
        import functools
        import _testcapi
        import uringloop
        from uringloop.liburing import lib

        n_made = n_refused = 0
        for number in range(40):
            if sys.argv[1] == "loop":
                owner = make_loop(MONITOR)
                turn = functools.partial(one_turn, owner)
            else:
                owner = uringloop.AioContext(MONITOR)
                turn = functools.partial(owner.poll, False)
            calls = []
            owner.add_sqe(lib.io_uring_prep_nop, callback=lambda cqe: None)  # leaves memory to use again
            turn()
            is_made = False
            _testcapi.set_nomemory(number, number + 1)
            try:
                owner.add_sqe(lib.io_uring_prep_nop, callback=calls.append)
                is_made = True
            except MemoryError:
                pass
            finally:
                _testcapi.remove_mem_hooks()
            for _ in range(5):
                turn()
            assert len(calls) == is_made, (number, is_made, calls)
            n_made += is_made
            n_refused += not is_made
            owner.close()
        assert n_made and n_refused, (n_made, n_refused)
    """
    run_script(source, monitor, arguments=(owner,))

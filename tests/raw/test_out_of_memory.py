"""One allocation after the other fails: see out_of_memory.py and unit/test_out_of_memory.py."""

import pytest
from helpers import run_script

pytest.importorskip("_testcapi")


@pytest.mark.slow
def test_the_fd_of_a_raw_request_is_never_lost(monitor):
    """Either it reaches who awaits the request, or it is closed."""
    source = """
        from out_of_memory import *
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
            is_felt = faults.run(functools.partial(gate.set_result, None))
            del task, gate
            nothing_stays_open(loop, before)
            return is_felt or bool(faults.errors)

        sweep(scenario, MONITOR)
    """
    assert int(run_script(source, monitor)) > 40

"""Thousands of loops made and closed: descriptors, memory and the user's locked memory are released."""

import pytest
from support.helpers import run_script

SCRIPT = """
    import resource

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()

    count, unprivileged = map(int, sys.argv[1:])
    make_loop(MONITOR).close()
    if unprivileged:
        become_unprivileged()
        soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        if hard == resource.RLIM_INFINITY or hard >= 8 << 20:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (8 << 20, 8 << 20))
    fds = memory = None
    for number in range(count):
        loop = make_loop(MONITOR)
        if number % 3:
            loop.call_soon(loop.stop)
            loop.run_forever()
        if number % 7 == 0:
            near, far = socket.socketpair()
            protocol = Recorder()
            run(loop, loop.create_connection(lambda: protocol, sock=near))
            far.send(b"hello")
            assert run(loop, protocol.received(5)) == b"hello"
            protocol.transport.abort()
            turn_until(loop, protocol.lost.is_set)
            far.close()
        loop.close()
        assert getattr(loop, "fdmon", MONITOR) == MONITOR
        if number == count // 4:
            gc.collect()
            fds, memory = len(os.listdir("/proc/self/fd")), resident()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= fds + 8, "descriptors leak"
    assert resident() < memory + (16 << 20), f"{(resident() - memory) >> 20} MiB more"
"""


@pytest.mark.parametrize("unprivileged", [False, True], ids=["privileged", "unprivileged"])
def test_hundreds_of_loops(monitor, unprivileged):
    run_script(SCRIPT, monitor, arguments=("400", str(int(unprivileged))))


@pytest.mark.slow
@pytest.mark.parametrize("unprivileged", [False, True], ids=["privileged", "unprivileged"])
def test_ten_thousand_loops(monitor, unprivileged):
    run_script(SCRIPT, monitor, seconds=280, arguments=("10000", str(int(unprivileged))))


def test_loops_in_short_lived_threads(monitor):
    run_script(
        """
        import threading

        def work():
            for _ in range(10):
                loop = make_loop(MONITOR)
                assert run(loop, asyncio.sleep(0, 5)) == 5
                loop.close()
            finished.append(True)

        finished = []
        for _ in range(5):
            threads = [threading.Thread(target=work) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert len(finished) == 20
        assert len(os.listdir("/proc/self/fd")) < 24
        """,
        monitor,
    )


def test_many_loops_open_at_once(monitor):
    run_script(
        """
        loops = [make_loop(MONITOR) for _ in range(100)]
        for loop in loops:
            assert run(loop, asyncio.sleep(0, 5)) == 5
        for loop in reversed(loops):
            loop.close()
        assert len(os.listdir("/proc/self/fd")) < 24
        """,
        monitor,
    )

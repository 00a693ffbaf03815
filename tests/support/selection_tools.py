"""Scripts that make loops while io_uring is refused or short of memory.
They run in separate processes: once a loop has got io_uring, later loops of the process do not fall back.
"""

import textwrap

from support.helpers import run_script

PRELUDE = """
import errno, logging, resource, threading
import uringloop

def works(loop):
    async def main():
        async def handle(reader, writer):
            writer.write(await reader.readline())
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"works\\n")
        assert await reader.read() == b"works\\n"
        writer.close()
        await writer.wait_closed()
        await asyncio.sleep(0.001)
        server.close()
        await server.wait_closed()
        return True
    assert run(loop, main()) is True
    loop.close()

def log(level):
    "The lines of the log from this level on: (level, text)."
    lines = []
    class Lines(logging.Handler):
        def emit(self, record):
            lines.append((record.levelname, record.getMessage()))
    logging.getLogger("uringloop").addHandler(Lines())
    logging.getLogger("uringloop").setLevel(level)
    return lines

def refused():
    "Make loops until one is refused (a few may get rings from the pool), and return the error."
    loops = []
    try:
        for _ in range(64):
            loops.append(uringloop.new_event_loop())
            assert loops[-1].fdmon == "io_uring", "a loop fell back although an earlier one got io_uring"
    except uringloop.MonitorUnavailable as error:
        return error
    finally:
        for loop in loops:
            loop.close()
    raise AssertionError("64 loops were made although io_uring is refused")
"""

# Limits the locked memory to this many KiB if the hard limit allows it.
LIMITED = """
        def limit(kib):
            become_unprivileged()
            hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
            if hard not in (-1, resource.RLIM_INFINITY) and hard < kib << 10:
                raise SystemExit
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (kib << 10, hard))
"""


def script(body, **kwargs):
    return run_script(PRELUDE + textwrap.dedent(body), "io_uring", **kwargs)

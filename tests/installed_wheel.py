#!/usr/bin/env python3
"""Whether an installed wheel works here: standard library only, no network but loopback, a second or two.

    python tests/installed_wheel.py [MONITOR]    # from outside of the checkout's root, which would hide the wheel

Also run where no test tool is: in containers, other distributions' root file systems, under emulators.  Prints one line
per check; the exit status is 0 if all passed.
"""

import asyncio
import os
import platform
import signal
import sys
import sysconfig
import tempfile
import time

import uringloop

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MONITOR = sys.argv[1] if len(sys.argv) > 1 else None


async def echo_streams():
    """A megabyte there and back, by TCP."""

    async def serve(reader, writer):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    sent = os.urandom(1 << 20)
    writer.write(sent)
    writer.write_eof()
    assert await reader.read(-1) == sent
    writer.close()
    server.close()


async def datagrams():
    """One to oneself, and back."""
    loop = asyncio.get_running_loop()
    received = loop.create_future()

    class Protocol(asyncio.DatagramProtocol):
        def datagram_received(self, data, address):
            received.set_result(data)

    transport, _ = await loop.create_datagram_endpoint(Protocol, local_addr=("127.0.0.1", 0))
    transport.sendto(b"packet", transport.get_extra_info("sockname"))
    assert await received == b"packet"
    transport.close()


async def files():
    """Written, read by lines, and looked at."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "file")
        async with uringloop.open(path, "w") as file:
            await file.write("one\ntwo\n")
        async with uringloop.open(path) as file:
            assert [line async for line in file] == ["one\n", "two\n"]
        assert (await uringloop.files.stat(path)).st_size == 8


async def raw_requests():
    """A file opened and closed by the ring."""
    loop = asyncio.get_running_loop()
    if not loop.supports_sqe:
        return f"left out on {loop.fdmon}"
    from uringloop.liburing import lib

    fd = await loop.add_sqe(lib.io_uring_prep_openat, lib.AT_FDCWD, b"/dev/null", os.O_RDONLY, 0)
    assert await loop.add_sqe(lib.io_uring_prep_close, fd) == 0


async def processes():
    """A child process, its output and its exit status."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "print('child'); raise SystemExit(3)", stdout=asyncio.subprocess.PIPE
    )
    output, _ = await child.communicate()
    assert (output, child.returncode) == (b"child\n", 3)


async def signals():
    loop = asyncio.get_running_loop()
    received = loop.create_future()
    loop.add_signal_handler(signal.SIGUSR1, received.set_result, None)
    os.kill(os.getpid(), signal.SIGUSR1)
    await asyncio.wait_for(received, 10)
    loop.remove_signal_handler(signal.SIGUSR1)


async def threads_and_timers():
    started = time.monotonic()
    assert await asyncio.to_thread(sum, range(10)) == 45
    await asyncio.sleep(0.01)
    assert time.monotonic() - started >= 0.01


async def check_all():
    loop = asyncio.get_running_loop()
    print(f"{uringloop.__version__} {sysconfig.get_platform()} Python {platform.python_version()}", end=" ")
    print(f"{' '.join(platform.libc_ver())} on {loop.fdmon}: {loop.fdmon_reason or 'chosen freely'}")
    for check in (echo_streams, datagrams, files, raw_requests, processes, signals, threads_and_timers):
        print(f"  {check.__name__}: {await check() or 'ok'}", flush=True)


if __name__ == "__main__":
    where = os.path.dirname(os.path.dirname(os.path.abspath(uringloop.__file__)))
    if os.path.samefile(where, ROOT):
        sys.exit(f"uringloop is imported from the checkout {ROOT}, not from a wheel")
    with asyncio.Runner(loop_factory=lambda: uringloop.new_event_loop(MONITOR)) as runner:
        runner.run(check_all())

"""anyio: its own streams, task groups, threads and processes on a loop factory."""

import sys

import anyio
from inside import blob, check_loop

import uringloop

OPTIONS = {"loop_factory": uringloop.new_event_loop}


async def echo(stream):
    async with stream:
        async for data in stream:
            await stream.send(data)


async def talk(port, size):
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send, stream, blob(size))
            received = b"".join([piece async for piece in stream])
        assert received == blob(size)


async def send(stream, data):
    await stream.send(data)
    await stream.send_eof()


async def main():
    check_loop()
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, echo)
            async with anyio.create_task_group() as clients:
                for size in (1, 1_000, 70_000, 900_000):
                    clients.start_soon(talk, port, size)
            tasks.cancel_scope.cancel()
    done = await anyio.run_process([sys.executable, "-c", "print(input()[::-1])"], input=b"abc\n")
    assert done.stdout == b"cba\n"
    assert await anyio.to_thread.run_sync(lambda: anyio.from_thread.run(anyio.sleep, 0)) is None
    with anyio.move_on_after(0.05) as scope:
        await anyio.sleep_forever()
    assert scope.cancelled_caught


anyio.run(main, backend="asyncio", backend_options=OPTIONS)

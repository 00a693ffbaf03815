"""A helper of several of these tests."""

import asyncio
import subprocess


async def echo_once(payload):
    """Use a server, a client, a child and a thread."""

    async def serve(reader, writer):
        writer.write(await reader.readexactly(len(payload)))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(payload)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    child = await asyncio.create_subprocess_exec("echo", "hello", stdout=subprocess.PIPE)
    output, _ = await child.communicate()
    assert output == b"hello\n"
    return await asyncio.to_thread(lambda: answer)

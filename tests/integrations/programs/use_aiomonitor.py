"""aiomonitor: its telnet console, in a thread of its own, lists the tasks of a running loop."""

import asyncio
import os

import aiomonitor
from inside import check_loop

import uringloop

# What a telnet client says of its window (80 by 24) and its terminal.
NEGOTIATION = b"\xff\xfa\x1f\x00\x50\x00\x18\xff\xf0" + b"\xff\xfa\x18\x00xterm\xff\xf0"


async def waiting():
    await asyncio.Event().wait()


async def read_until(reader, text):
    data = b""
    while text not in data:
        piece = await reader.read(4096)
        assert piece, data
        data += piece
    return data


async def main():
    check_loop()
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(waiting(), name="the waiting task")
    port = int(os.environ["PORT"])
    with aiomonitor.start_monitor(loop, host="127.0.0.1", port=port, webui_port=0, hook_task_factory=True):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(NEGOTIATION)
        await asyncio.wait_for(read_until(reader, b"monitor >>>"), 20)
        writer.write(b"ps\r\n")
        await asyncio.wait_for(read_until(reader, b"the waiting task"), 20)
        writer.close()
        await writer.wait_closed()
    task.cancel()


uringloop.run(main())

"""A program that knows only asyncio: an echo server with asyncio.run(), ended by SIGTERM."""

import asyncio
import signal
import sys

from inside import check_loop


async def echo(reader, writer):
    check_loop()
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with await asyncio.start_server(echo, "127.0.0.1", int(sys.argv[1])):
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(main())

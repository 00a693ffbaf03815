"""Send the lines of log files to another machine, and do not lose any while the connection is down.

    python examples/log_shipper.py --listen 9000                         # there: prints what arrives
    python examples/log_shipper.py --to HOST:9000 FILE ...               # here: follows the files

Lines travel as JSON, {"file": ..., "line": ...}; the receiver acknowledges each one after it was written out, and what
is not acknowledged is sent again after a reconnect: each line arrives at least once. Nothing is read ahead: while the
connection is down, the files themselves are the queue. Rotated and truncated files are followed (log_tailer.py).
"""

import argparse
import asyncio
import collections
import json
import sys

from log_tailer import follow

import uringloop

MOST_UNCONFIRMED = 200
RETRY_FIRST_S, RETRY_MOST_S = 0.1, 10.0


class Shipper:
    """Lines that are sent, oldest first, until they are acknowledged."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.unconfirmed: collections.deque[bytes] = collections.deque()
        self.has_room = asyncio.Semaphore(MOST_UNCONFIRMED)
        self.writer: asyncio.StreamWriter | None = None

    async def add_file(self, path: str, from_start: bool) -> None:
        async for line in follow(path, from_start):
            await self.has_room.acquire()
            self.unconfirmed.append(json.dumps({"file": path, "line": line.rstrip("\n")}).encode() + b"\n")
            if self.writer is not None:
                self.writer.write(self.unconfirmed[-1])

    async def connect_for_ever(self) -> None:
        retry_s = RETRY_FIRST_S
        while True:
            try:
                reader, self.writer = await asyncio.open_connection(self.host, self.port)
                self.writer.writelines(self.unconfirmed)
                while await reader.readexactly(1):
                    self.unconfirmed.popleft()
                    self.has_room.release()
                    retry_s = RETRY_FIRST_S
            except (OSError, asyncio.IncompleteReadError):
                print(f"no receiver at {self.host}:{self.port}; again in {retry_s:g} s", file=sys.stderr)
            finally:
                if self.writer is not None:
                    self.writer.close()
                    self.writer = None
            await asyncio.sleep(retry_s)
            retry_s = min(2 * retry_s, RETRY_MOST_S)


async def ship(host: str, port: int, paths: list[str], from_start: bool) -> None:
    shipper = Shipper(host, port)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(shipper.connect_for_ever())
        for path in paths:
            tasks.create_task(shipper.add_file(path, from_start))


async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Print each line that arrives, then acknowledge it."""
    try:
        while (data := await reader.readline()).endswith(b"\n"):
            print("{file}: {line}".format(**json.loads(data)), flush=True)
            writer.write(b".")
            await writer.drain()
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
    except asyncio.CancelledError:
        pass  # the program ends, and Python 3.11 logs a cancelled connection as an error
    finally:
        writer.close()


async def listen(port: int) -> None:
    server = await asyncio.start_server(receive, "127.0.0.1", port)
    print(f"listening on port {server.sockets[0].getsockname()[1]}", file=sys.stderr, flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="*", metavar="FILE")
    parser.add_argument("--to", metavar="HOST:PORT", help="where the lines go")
    parser.add_argument("--from-start", action="store_true", help="also send what is in the files already")
    parser.add_argument("--listen", type=int, metavar="PORT", help="be the receiver; 0: any free port")
    arguments = parser.parse_args()
    if arguments.listen is not None:
        uringloop.run(listen(arguments.listen))
        return
    host, _, port = (arguments.to or "").rpartition(":")
    if not arguments.files or not port.isdecimal():
        parser.error("--to HOST:PORT and a file are needed, or --listen PORT")
    uringloop.run(ship(host, int(port), arguments.files, arguments.from_start))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass

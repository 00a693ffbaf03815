"""Follow log files like `tail -F`: appended lines are printed, also after a file was rotated or truncated.

python examples/log_tailer.py FILE ...
python examples/log_tailer.py --check           # test with a temporary file
"""

import argparse
import asyncio
import os
from collections.abc import AsyncIterator

import uringloop
from uringloop import files

LOOK_S = 0.2


async def follow(path: str, from_start: bool = False) -> AsyncIterator[str]:
    """Yield complete lines as they are appended, for ever."""
    while True:
        try:
            file = await uringloop.open(path, "rb")
        except FileNotFoundError:
            from_start = True  # once it exists, all of it is new
            await asyncio.sleep(LOOK_S)
            continue
        async with file:
            if not from_start:
                await file.seek(0, os.SEEK_END)
            from_start = True
            unfinished = b""
            while True:
                while line := await file.readline():
                    unfinished += line
                    if unfinished.endswith(b"\n"):
                        yield unfinished.decode(errors="replace")
                        unfinished = b""
                await asyncio.sleep(LOOK_S)
                here = await files.stat(file.fileno())
                if here.st_size < await file.tell():
                    await file.seek(0)  # it was truncated
                    unfinished = b""
                elif here.st_size == await file.tell():
                    try:
                        named = await files.stat(path)
                    except FileNotFoundError:
                        continue
                    if not os.path.samestat(here, named):
                        break  # rotated, and read to its end


async def print_lines(path: str, is_alone: bool) -> None:
    async for line in follow(path):
        print(line if is_alone else f"{path}: {line}", end="", flush=True)


async def check() -> None:
    async with files.TemporaryDirectory() as folder:
        path = os.path.join(folder, "log")
        seen: list[str] = []

        async def collect() -> None:
            async for line in follow(path, from_start=True):
                seen.append(line)

        async def write(text: str, mode: str = "a") -> None:
            wanted = len(seen) + text.count("\n")
            async with uringloop.open(path, mode) as file:
                await file.write(text)
            async with asyncio.timeout(10):
                while len(seen) < wanted:
                    await asyncio.sleep(0.01)

        collecting = asyncio.create_task(collect())
        await write("one\ntwo\nhalf of")
        await write(" three\n")
        await files.rename(path, path + ".1")
        await write("after rotation\n")
        await write("cut\n", "w")
        collecting.cancel()
        await asyncio.gather(collecting, return_exceptions=True)
        assert seen == ["one\n", "two\n", "half of three\n", "after rotation\n", "cut\n"], seen
    print("followed 5 lines")


async def main(args: argparse.Namespace) -> None:
    if args.check:
        await check()
        return
    await asyncio.gather(*(print_lines(path, len(args.files) == 1) for path in args.files))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="*", metavar="FILE")
    parser.add_argument("--check", action="store_true", help="test with a temporary file")
    arguments = parser.parse_args()
    if not arguments.files and not arguments.check:
        parser.error("which file?")
    try:
        uringloop.run(main(arguments))
    except KeyboardInterrupt:
        pass

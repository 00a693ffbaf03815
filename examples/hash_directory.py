"""SHA-256 of every file below a folder, many at once, with a progress bar.

    python examples/hash_directory.py [FOLDER]      # the format of sha256sum
    python examples/hash_directory.py --check       # test with a temporary folder

The bar is tqdm's (`pip install tqdm`); without tqdm there is a plain one. Hashing is done in threads, since it uses the
CPU; reading is not.
"""

import argparse
import asyncio
import hashlib
import os
import sys
from collections.abc import AsyncIterator
from typing import Any

import uringloop
from uringloop import files

AT_ONCE = 16
PIECE_BYTES = 1 << 20

try:
    from tqdm import tqdm
except ImportError:

    class tqdm:  # type: ignore[no-redef]
        """The part of tqdm that is needed here."""

        def __init__(self, total: int, **_: Any) -> None:
            self.total, self.n = total, 0

        def update(self, n: int) -> None:
            self.n += n
            print(f"\r{100 * self.n // max(self.total, 1)} %", end="", file=sys.stderr)

        def close(self) -> None:
            print(file=sys.stderr)


async def walk(folder: str) -> AsyncIterator[tuple[str, int]]:
    """(path, size) of all regular files below a folder; links are not followed."""
    async with files.scandir(folder) as entries:
        async for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                async for found in walk(entry.path):
                    yield found
            elif entry.is_file(follow_symlinks=False):
                yield entry.path, (await files.lstat(entry.path)).st_size


async def hash_file(path: str, bar: Any) -> str:
    digest = hashlib.sha256()
    async with uringloop.open(path, "rb") as file:
        while data := await file.read(PIECE_BYTES):
            if len(data) < 64 * 1024:
                digest.update(data)
            else:
                await asyncio.to_thread(digest.update, data)
            bar.update(len(data))
    return digest.hexdigest()


async def hash_folder(folder: str) -> dict[str, str]:
    """path -> SHA-256; files that cannot be read are reported and left out."""
    found = sorted([entry async for entry in walk(folder)])
    bar = tqdm(total=sum(size for _, size in found), unit="B", unit_scale=True)
    hashes: dict[str, str] = {}
    paths = iter([path for path, _ in found])

    async def worker() -> None:
        for path in paths:
            try:
                hashes[path] = await hash_file(path, bar)
            except OSError as error:
                print(error, file=sys.stderr)

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    bar.close()
    return hashes


async def check() -> None:
    async with files.TemporaryDirectory() as folder:
        wanted = {}
        for number in range(50):
            data = os.urandom(number * 5000)
            path = os.path.join(folder, str(number % 5), str(number))
            await files.makedirs(os.path.dirname(path), exist_ok=True)
            async with uringloop.open(path, "wb") as file:
                await file.write(data)
            wanted[path] = hashlib.sha256(data).hexdigest()
        assert await hash_folder(folder) == wanted
    print("hashed 50 files")


async def main(args: argparse.Namespace) -> None:
    if args.check:
        await check()
        return
    hashes = await hash_folder(args.folder)
    for path in sorted(hashes):
        print(f"{hashes[path]}  {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", default=".", help="default: the current one")
    parser.add_argument("--check", action="store_true", help="test with a temporary folder")
    uringloop.run(main(parser.parse_args()))

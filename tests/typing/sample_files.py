"""Files as a type checker sees them: the mode decides the type of the file and of the data that it reads."""

import asyncio
from pathlib import Path
from typing import Any, assert_type

import uringloop
from uringloop import files


async def opened(path: Path) -> None:
    async with uringloop.open(path, "w", encoding="utf-8") as text:
        assert_type(text, files.TextFile)
        assert_type(await text.write("line\n"), int)
    async with uringloop.open(path, encoding="utf-8") as text:
        assert_type(await text.read(), str)
        assert_type([line async for line in text], list[str])
    async with uringloop.open(path, "rb") as buffered:
        assert_type(buffered, files.BufferedFile)
        assert_type(await buffered.readline(), bytes)
    async with uringloop.open(path, "rb", 0) as raw:
        assert_type(raw, files.RawFile)
    mode = "r" if path.exists() else "w"
    async with uringloop.open(path, str(mode)) as unknown:
        assert_type(unknown, Any)
    task = asyncio.create_task(uringloop.open(path, "rb"))
    assert_type(task, asyncio.Task[files.BufferedFile])
    await (await task).close()


async def temporary() -> None:
    async with files.TemporaryFile() as buffered:
        assert_type(buffered, files.BufferedFile)
    async with files.TemporaryFile("w+", encoding="utf-8") as text:
        assert_type(text, files.TextFile)
    async with files.TemporaryFile(buffering=0) as raw:
        assert_type(raw, files.RawFile)
    async with files.NamedTemporaryFile() as named:
        assert_type(named, files.BufferedFile)
    async with files.NamedTemporaryFile("w", encoding="utf-8") as named_text:
        assert_type(named_text, files.TextFile)
    async with files.NamedTemporaryFile("w+b", 0) as named_raw:
        assert_type(named_raw, files.RawFile)


async def main() -> None:
    async with files.TemporaryDirectory() as folder:
        assert_type(folder, str)
        path = Path(folder, "file")
        await opened(path)
        assert_type(await files.listdir(folder), list[str])
        assert_type(await files.listdir(folder.encode()), list[bytes])
        assert_type(await files.copyfile(path, Path(folder, "copy")), Path)
        await files.symlink(path, Path(folder, "link"))
        assert_type(await files.readlink(Path(folder, "link")), str)
    await temporary()


uringloop.run(main())

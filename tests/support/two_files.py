"""The same file twice, opened by the builtin `open` and by uringloop.open, with steps applied to both."""

from uringloop import files

CONTENT = b"".join(b"line %d\r\nand\rthen\n" % number for number in range(3000)) + b"no end"
UMLAUTS = "".join(f"zeile {number} äöü€𝄞\r\n{number}\rx\n" for number in range(2000)) + "ohne ende ß"


async def outcome(function, *args):
    """The result, or the exception without its traceback."""
    try:
        value = function(*args)
        if hasattr(value, "__await__"):
            value = await value
    except Exception as error:
        return type(error), str(error)
    return bytes(value) if isinstance(value, bytearray | memoryview) else value


class Pair:
    """The same file twice: one opened by the builtin open, one by uringloop.open; steps are applied to both."""

    def __init__(self, folder, content):
        self.paths = folder / "builtin", folder / "async"
        for path in self.paths:
            if content is not None:
                path.write_bytes(content)

    async def open(self, *args, **options):
        self.theirs = open(self.paths[0], *args, **options)  # noqa: SIM115
        self.ours = await files.open(self.paths[1], *args, **options)
        return self

    async def step(self, name, *args):
        if name == "readinto":
            buffers = bytearray(args[0]), bytearray(args[0])
            results = (
                await outcome(self.theirs.readinto, buffers[0]),
                await outcome(self.ours.readinto, buffers[1]),
            )
            assert buffers[0] == buffers[1]
        else:
            results = (
                await outcome(getattr(self.theirs, name), *args),
                await outcome(getattr(self.ours, name), *args),
            )
        is_io_wrong = name == "seek" and isinstance(results[0], int) and results[0] < 0  # CPython 3.11
        assert results[0] == results[1] or is_io_wrong, (name, args)
        return results[1]

    async def steps(self, *steps):
        for step in steps:
            await self.step(*(step if isinstance(step, tuple) else (step,)))

    async def close(self):
        self.theirs.close()
        await self.ours.close()
        contents = [path.read_bytes() for path in self.paths]
        assert contents[0] == contents[1]
        return contents[0]

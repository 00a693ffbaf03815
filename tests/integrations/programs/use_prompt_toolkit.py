"""prompt_toolkit's prompts with typed keys, and a task that runs meanwhile."""

import asyncio

from inside import check_loop
from prompt_toolkit import PromptSession
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from prompt_toolkit.patch_stdout import patch_stdout

import uringloop


async def main():
    check_loop()
    with create_pipe_input() as keys:
        session = PromptSession(input=keys, output=DummyOutput())
        ticks = asyncio.create_task(tick())
        with patch_stdout():
            for line in ("hello", "again", "x" * 5000):
                keys.send_text(line + "\n")
                assert await session.prompt_async("> ") == line
        assert await ticks == "ticked"


async def tick():
    await asyncio.sleep(0.01)
    return "ticked"


uringloop.run(main())

"""IPython and `python -m asyncio`, with await at the top level."""

import os
import subprocess

LINES = """\
import asyncio
from inside import check_loop
await asyncio.sleep(0)
await asyncio.to_thread(int)
async def seen(): return check_loop()["loop"]

print(await seen())
"""


def run(command, text=None):
    done = subprocess.run(
        command,
        input=text,
        env={**os.environ, "URINGLOOP_AS": "asyncio"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "uringloop.eventloop.loop.Loop" in done.stdout, done.stdout + done.stderr


run(["ipython", "--no-banner", "--simple-prompt", "-c", LINES])
run(["python", "-m", "asyncio"], LINES)

"""What a program that is checked uses: it reports the running loop, and knows the data of the traffic.

It is on PYTHONPATH in each framework's process, and imports nothing of the framework.
"""

import asyncio
import json
import os

# What GET /stream sends, piece by piece: about 400 KB.
CHUNKS = [f"{number:05} ".encode() * 700 for number in range(100)]


def check_loop(loop=None):
    """Report the loop to the runner, and raise unless it is uringloop's with the monitor that was requested."""
    import uringloop

    loop = loop or asyncio.get_running_loop()
    kind = type(loop)
    seen = {
        "loop": f"{kind.__module__}.{kind.__qualname__}",
        "fdmon": getattr(loop, "fdmon", None),
        "process": os.getpid(),
    }
    with open(os.environ["INTEGRATION_REPORT"], "a") as report:
        report.write(json.dumps(seen) + "\n")
    if not isinstance(loop, uringloop.Loop) or loop.fdmon != os.environ["URINGLOOP_FDMON"]:
        raise AssertionError(f"not the loop that was requested: {seen}")
    return seen


def blob(size):
    """Bytes that show a shift or a lost piece."""
    return (b"%07d " * (size // 8 + 1) % tuple(range(size // 8 + 1)))[:size]

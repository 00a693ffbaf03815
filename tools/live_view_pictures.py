#!/usr/bin/env python3
"""Draw the pictures of docs/observing.md: the live view of a healthy and of a blocked service.

    python tools/live_view_pictures.py docs

It starts the services, asks them twice, as `python -m uringloop top` does, and writes live-view-healthy.svg and
live-view-blocked.svg into the folder.
"""

import io
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

from rich.console import Console

from uringloop.command import asking, top_screen

ROOT = pathlib.Path(__file__).parents[1]
WIDTH, HEIGHT = 120, 30
RUNS_S = 1.0  # before each answer

SHOP = """
import asyncio, time
import uringloop

async def read_orders(reader):
    return await reader.readline()

async def handle(reader, writer):
    while order := await read_orders(reader):
        price(order)
        writer.write(order)
        await writer.drain()

def price(order):
    sum(range(2_000))

async def customer(address, pause_s):
    reader, writer = await asyncio.open_connection(*address)
    while True:
        writer.write(b"a pound of tea\\n")
        await reader.readline()
        await asyncio.sleep(pause_s)

async def import_prices(is_slow):
    await asyncio.sleep(1.5)
    if is_slow:
        download()
    await asyncio.Event().wait()

def download():
    while True:
        time.sleep(0.01)  # stands for a library that knows no asyncio

async def main():
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    async with asyncio.TaskGroup() as group:
        for number in range(40):
            group.create_task(customer(address, 0.02 + number / 1000))
        group.create_task(import_prices(IS_SLOW), name="price import")

uringloop.run(main())
"""


def draw(is_slow: bool, folder: pathlib.Path) -> str:
    """The picture as SVG."""
    shop = folder / "shop"
    shop.mkdir()
    (shop / "server.py").write_text(SHOP.replace("IS_SLOW", str(is_slow)))
    bin_folder = os.path.dirname(sys.executable)
    environment = {
        **os.environ,
        "PATH": f"{bin_folder}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": str(ROOT),
        "URINGLOOP_TOP": str(folder / "socket"),
    }
    process = subprocess.Popen(["python", "server.py"], cwd=shop, env=environment)
    try:
        path = folder / "socket"
        while not path.exists():
            time.sleep(0.01)
        time.sleep(3 * RUNS_S if is_slow else RUNS_S)
        screen = top_screen.Screen(path, asking.ask(path))
        time.sleep(RUNS_S)
        screen.ask()
    finally:
        process.kill()
        process.wait()
    facts = screen.now["process"]
    facts["kernel"] = ".".join(facts["kernel"].split(".")[:2])  # the rest names a machine's
    console = Console(
        width=WIDTH, height=HEIGHT, record=True, file=io.StringIO(), force_terminal=True, highlight=False
    )
    console.print(screen.drawn(WIDTH, HEIGHT))
    svg = console.export_svg(title="python -m uringloop top", unique_id="top")
    svg = re.sub(r"\s*@font-face \{.*?\n    \}", "", svg, flags=re.DOTALL)  # fonts of another site
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


def main() -> None:
    folder = pathlib.Path(sys.argv[1])
    for name, is_slow in (("healthy", False), ("blocked", True)):
        with tempfile.TemporaryDirectory() as made:
            (folder / f"live-view-{name}.svg").write_text(draw(is_slow, pathlib.Path(made)))


if __name__ == "__main__":
    main()

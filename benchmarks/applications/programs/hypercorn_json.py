"""hypercorn with Starlette's route, by its function for a loop that runs already."""

import asyncio

from hypercorn.asyncio import serve
from hypercorn.config import Config

from benchmarks.applications.programs.starlette_json import app


def run(sock, make_loop):
    config = Config()
    config.bind = [f"fd://{sock.fileno()}"]
    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(serve(app, config))

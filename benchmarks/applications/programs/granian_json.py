"""granian in the process of its loop, with the ASGI application `asgi`. It makes its own socket for the port."""

import asyncio

from granian.constants import Interfaces
from granian.server.embed import Server

from benchmarks.applications.programs.asgi import app


async def main(port):
    await Server(app, "127.0.0.1", port, interface=Interfaces.ASGI, backlog=2048, log_enabled=False).serve()


def run(sock, make_loop):
    port = sock.getsockname()[1]
    sock.close()
    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(main(port))

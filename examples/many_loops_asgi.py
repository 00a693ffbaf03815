"""The application of starlette_app.py on several event loops of one process, behind one listening socket.

    python examples/many_loops_asgi.py [--members N] [--port PORT] [--kind thread|interpreter]

From Python 3.13 on each loop is in a sub-interpreter with a GIL of its own, so that they run at the same time; before,
in a thread. uvicorn serves in each of them, unchanged. Needs `uvicorn` and `starlette`.
"""

import argparse
import asyncio
import pathlib
import signal
import sys
from typing import Any

import uringloop


class CloseWhenDraining:
    """ASGI middleware: once the member is going to end, each response is the last of its connection.

    At its end uvicorn closes connections between two requests, and may so cut off a request that is on its way.
    """

    def __init__(self, app: Any, member: uringloop.Member) -> None:
        self.app = app
        self.member = member

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_last(message: Any) -> None:
            if message["type"] == "http.response.start" and self.member.is_draining:
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            await send(message)

        await self.app(scope, receive, send_last if scope["type"] == "http" else send)


async def serve_app(member: uringloop.Member, name: str) -> None:
    """Runs in each member: uvicorn, on the group's sockets."""
    import uvicorn
    from uvicorn.importer import import_from_string

    app = CloseWhenDraining(import_from_string(name), member)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    member.on_drain(lambda: setattr(server, "should_exit", True))
    await server.serve(sockets=member.sockets)


async def main(arguments: argparse.Namespace) -> None:
    # Another interpreter finds it by this name; there __main__ is another module.
    from many_loops_asgi import serve_app

    async with uringloop.LoopGroup(arguments.members, kind=arguments.kind) as group:
        [sock] = await group.run(serve_app, "starlette_app:app", host="127.0.0.1", port=arguments.port)
        print(f"{len(group)} {group.kind}s serve http://127.0.0.1:{sock.getsockname()[1]}/", flush=True)
        asked_to_end = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, asked_to_end.set)
        await asked_to_end.wait()
        numbers = await group.statistics()
        print("connections:", *[member.connections_given for member in numbers.members], flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="starlette_app.py on several loops of one process")
    parser.add_argument("--members", type=int, help="how many loops (default: one for each CPU)")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--kind", choices=["thread", "interpreter"], help="default: what suits this Python")
    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    uringloop.run(main(parser.parse_args()))

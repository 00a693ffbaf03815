"""The servers of cores.py, in processes of their own: uvicorn on one loop, or on several of one process.

    python -m benchmarks.cores_server WAY MEMBERS PORT

Few imports: each interpreter of a group has its own copies.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
from typing import Any

APP = "benchmarks.applications.programs.asgi_busy:app"
BACKLOG = 2048


def _config(**options: Any) -> Any:
    import uvicorn

    # h11, because httptools cannot be imported in a sub-interpreter
    return uvicorn.Config(APP, http="h11", ws="none", log_level="warning", access_log=False, **options)


async def serve_member(member: Any) -> None:
    """Run uvicorn in a member of a group."""
    import uvicorn

    server = uvicorn.Server(_config())
    member.on_drain(lambda: setattr(server, "should_exit", True))
    await server.serve(sockets=member.sockets)


async def serve_group(kind: str, n_members: int, port: int) -> None:
    import uringloop
    from benchmarks.cores_server import serve_member  # another interpreter cannot find __main__

    async with uringloop.LoopGroup(n_members, kind=kind) as group:
        await group.run(serve_member, host="127.0.0.1", port=port, backlog=BACKLOG)
        is_over = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, is_over.set)
        await is_over.wait()


def serve_alone(port: int) -> None:
    """Run uvicorn on asyncio's own loop, with a listening socket that others may share."""
    import uvicorn

    # by its protocol asyncio knows that it is TCP, for TCP_NODELAY
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", port))
    sock.listen(BACKLOG)
    sock.setblocking(False)
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(uvicorn.Server(_config()).serve(sockets=[sock]))


def serve_asyncio(kind: str, n_members: int, port: int) -> None:
    """One loop per thread, or per interpreter; SIGTERM ends the process: uvicorn in a thread does not end itself."""
    if kind == "interpreters":
        from concurrent import interpreters  # type: ignore[attr-defined]  # Python 3.14

        for _ in range(n_members):
            interpreters.create().call_in_thread(serve_alone, port)
    else:
        for _ in range(n_members):
            threading.Thread(target=serve_alone, args=(port,), daemon=True).start()
    signal.sigwait([signal.SIGTERM])
    os._exit(0)


def serve(way: str, n_members: int, port: int) -> None:
    if way == "uvloop-processes":
        import uvicorn

        if n_members == 1:
            uvicorn.Server(_config(loop="uvloop", host="127.0.0.1", port=port)).run()
            return
        options = ["--http", "h11", "--ws", "none", "--log-level", "warning", "--no-access-log"]
        options += ["--loop", "uvloop", "--workers", str(n_members), "--port", str(port)]
        os.execv(sys.executable, [sys.executable, "-m", "uvicorn", APP, *options])
    if way.startswith("asyncio-"):
        serve_asyncio(way.removeprefix("asyncio-"), n_members, port)
    import uringloop

    uringloop.run(serve_group(way.removesuffix("s"), n_members, port))


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))

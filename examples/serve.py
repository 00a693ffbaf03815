"""Run an unmodified application on a chosen event loop, and report on that loop.

    python examples/serve.py --loop uringloop aiohttp_app:make_app
    python examples/serve.py --loop uvloop --via policy --port 8000 starlette_app:app

How it works:

1. The application is imported by name and not modified: an aiohttp factory runs under `web.run_app` (policy)
   or `AppRunner` in an `asyncio.Runner` (factory); anything else is treated as ASGI and runs under uvicorn.
2. The loop comes from the module named by `--loop` (its `EventLoopPolicy` or its `new_event_loop`), so the
   stock loop, uvloop and uringloop are all used in the same way.
3. With `--control`, a thread reads commands from stdin: each line `report` is answered on stdout by a line of
   JSON from inside the loop. End of file on stdin stops the server: it never outlives the process that started it.

The running loop is determined in the coroutine that makes the aiohttp application, and in uvicorn's
`Server.startup`. No request passes through the code of this file.
"""

import argparse
import asyncio
import importlib
import inspect
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SHUTDOWN_TIMEOUT_S = 5.0


def loop_factory(module_name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """The `new_event_loop` of a loop module; also works with asyncio, as long as no policy was set."""
    return importlib.import_module(module_name).new_event_loop


def install_policy(module_name: str) -> None:
    """Install the module's policy, as the first line of an application would do."""
    if module_name != "asyncio":
        asyncio.set_event_loop_policy(importlib.import_module(module_name).EventLoopPolicy())


def loop_is_from(loop: asyncio.AbstractEventLoop, module_name: str) -> bool:
    """Whether this is the wanted loop; all derive from asyncio's classes, so asyncio's own is found by module."""
    if module_name == "asyncio":
        return type(loop).__module__.startswith("asyncio.")
    return isinstance(loop, importlib.import_module(module_name).Loop)


def starved_s() -> float:
    """How long this thread was runnable but not running, since other processes used its CPU."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0  # a kernel without schedstats


def describe(loop: asyncio.AbstractEventLoop, wanted: str) -> dict[str, Any]:
    """The contents of the report line; called in the loop's thread, while it serves."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    statistics = getattr(loop, "statistics", None)
    return {
        "loop": f"{type(loop).__module__}.{type(loop).__qualname__}",
        "is_wanted": loop_is_from(loop, wanted) and asyncio.get_running_loop() is loop,
        "fdmon": getattr(loop, "fdmon", None),
        "fdmon_reason": getattr(loop, "fdmon_reason", None),
        "statistics": dict(statistics()) if statistics else None,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "starved_s": starved_s(),
        "wall_s": time.monotonic(),
    }


class Control:
    """Answers `report` lines from stdin, and stops the server at end of file."""

    def __init__(self, wanted: str, enabled: bool) -> None:
        self.wanted = wanted
        self.enabled = enabled
        self.loop: asyncio.AbstractEventLoop | None = None

    def loop_runs(self, port: int) -> None:
        """Called once in the running loop, before the first connection is accepted."""
        self.loop = asyncio.get_running_loop()
        if self.enabled:
            self._say({"port": port, "pid": os.getpid(), **describe(self.loop, self.wanted)})
            threading.Thread(target=self._read_commands, daemon=True, name="control").start()
        else:
            print(f"{type(self.loop).__module__} on http://127.0.0.1:{port}", flush=True)

    def _read_commands(self) -> None:
        for line in sys.stdin:
            if line.strip() == "report" and self.loop is not None:
                self.loop.call_soon_threadsafe(self._report)
        os.kill(os.getpid(), signal.SIGTERM)

    def _report(self) -> None:
        assert self.loop is not None
        self._say(describe(self.loop, self.wanted))

    def _say(self, answer: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def serve_aiohttp(make_app: Callable[[], Any], listener: socket.socket, args: argparse.Namespace) -> None:
    """aiohttp's own two ways: `web.run_app` gets its loop from the policy, an `AppRunner` uses the running loop."""
    from aiohttp import web

    control = Control(args.loop, args.control)
    port = listener.getsockname()[1]

    async def app_in_loop() -> web.Application:
        control.loop_runs(port)
        made = make_app()
        return await made if inspect.isawaitable(made) else made

    if args.via == "policy":
        install_policy(args.loop)
        web.run_app(
            app_in_loop(), sock=listener, access_log=None, print=None, shutdown_timeout=SHUTDOWN_TIMEOUT_S
        )
        return

    async def main() -> None:
        stopping = asyncio.Event()
        for signum in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(signum, stopping.set)
        runner = web.AppRunner(await app_in_loop(), access_log=None, shutdown_timeout=SHUTDOWN_TIMEOUT_S)
        await runner.setup()
        await web.SockSite(runner, listener).start()
        await stopping.wait()
        await runner.cleanup()

    with asyncio.Runner(loop_factory=loop_factory(args.loop)) as runner:
        runner.run(main())


def serve_uvicorn(app: Any, listener: socket.socket, args: argparse.Namespace) -> None:
    """uvicorn: `loop="none"` leaves the choice to the policy, `loop="module:callable"` names a factory."""
    import uvicorn

    control = Control(args.loop, args.control)

    class ReportingServer(uvicorn.Server):
        """uvicorn's server; it only reports which loop it was started in."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            control.loop_runs(listener.getsockname()[1])
            await super().startup(sockets)

    if args.via == "policy":
        install_policy(args.loop)
    config = uvicorn.Config(
        app,
        loop="none" if args.via == "policy" else f"{args.loop}:new_event_loop",
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=int(SHUTDOWN_TIMEOUT_S),
    )
    ReportingServer(config).run(sockets=[listener])


def listen(port: int) -> socket.socket:
    """A listener like those of event loops, with an explicit protocol.

    With `socket.create_server` it would be 0, accepted sockets inherit that, and asyncio sets TCP_NODELAY only if it
    is IPPROTO_TCP. Responses written in two pieces would then wait 40 ms for an acknowledgement, on asyncio only:
    measured in this way, uvloop seemed 33 times as fast.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(512)
    return listener


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("app", help="module:attribute, e.g. aiohttp_app:make_app or starlette_app:app")
    parser.add_argument(
        "--loop", default="uringloop", help="module with new_event_loop() and EventLoopPolicy"
    )
    parser.add_argument("--via", choices=("factory", "policy"), default="factory")
    parser.add_argument("--port", type=int, default=0, help="0: any free one")
    parser.add_argument("--cpu", type=int, default=-1, help="pin the process to this CPU; -1: do not")
    parser.add_argument("--control", action="store_true", help="commands on stdin, JSON lines on stdout")
    args = parser.parse_args()
    if args.cpu >= 0:
        os.sched_setaffinity(0, {args.cpu})
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    module_name, _, attribute = args.app.partition(":")
    app = getattr(importlib.import_module(module_name), attribute)
    listener = listen(args.port)
    is_aiohttp = inspect.isroutine(app) and not list(inspect.signature(app).parameters)
    try:
        (serve_aiohttp if is_aiohttp else serve_uvicorn)(app, listener, args)
    except KeyboardInterrupt:
        # uvicorn raises SIGINT again after its orderly end; there is nothing left to interrupt.
        pass


if __name__ == "__main__":
    main()

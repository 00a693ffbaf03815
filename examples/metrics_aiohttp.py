"""An aiohttp application that has the metrics of its own event loop at /metrics, and logs a summary each minute.

    python examples/metrics_aiohttp.py [--port PORT] [--interval SECONDS]
    curl http://127.0.0.1:8000/metrics

The loop itself serves the metrics, which takes it a few milliseconds. While it is blocked, Prometheus gets no answer
and counts the target as down: use a port of their own as metrics_uvicorn.py does if that matters. The other pages are
those of aiohttp_app.py. Needs `aiohttp` and `prometheus_client`.
"""

import argparse
import logging
import socket

import aiohttp_app
import prometheus_client
from aiohttp import web

import uringloop
from uringloop.prometheus import UringloopCollector


async def metrics(request: web.Request) -> web.Response:
    headers = {"Content-Type": prometheus_client.CONTENT_TYPE_LATEST}
    return web.Response(body=prometheus_client.generate_latest(), headers=headers)


async def make_app(interval_s: float) -> web.Application:
    uringloop.log_summaries(interval_s)
    app = await aiohttp_app.make_app()
    app.router.add_get("/metrics", metrics)
    return app


def main(arguments: argparse.Namespace) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    UringloopCollector()  # before the loop is made: it is recorded from its start
    with socket.create_server(("127.0.0.1", arguments.port)) as listener:
        print(f"metrics on http://127.0.0.1:{listener.getsockname()[1]}/metrics", flush=True)
        app = make_app(arguments.interval)
        web.run_app(app, sock=listener, loop=uringloop.new_event_loop(), print=None, access_log=None)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="aiohttp_app.py, with metrics for Prometheus and in the log")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--interval", type=float, default=60.0, help="seconds from one summary to the next")
    main(parser.parse_args())

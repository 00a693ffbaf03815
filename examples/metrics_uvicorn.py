"""An application under uvicorn, with metrics of its event loop for Prometheus on a port of their own.

    python examples/metrics_uvicorn.py [--port PORT] [--metrics-port PORT]
    curl http://127.0.0.1:9464/metrics

A thread serves the metrics: Prometheus gets them while the loop is blocked, too. The application is starlette_app.py,
unchanged. Needs `uvicorn`, `starlette` and `prometheus_client`.
"""

import argparse
import pathlib
import socket
import sys

import uvicorn

from uringloop.prometheus import MetricsServer, UringloopCollector


def main(arguments: argparse.Namespace) -> None:
    UringloopCollector()  # before the loop is made: it is recorded from its start
    with MetricsServer([arguments.metrics_port]) as metrics:
        with socket.create_server(("127.0.0.1", arguments.port)) as listener:
            config = uvicorn.Config("starlette_app:app", loop="uringloop:new_event_loop", log_level="warning")
            port = listener.getsockname()[1]
            print(
                f"http://127.0.0.1:{port}/ has metrics on http://127.0.0.1:{metrics.port}/metrics", flush=True
            )
            uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="starlette_app.py under uvicorn, with metrics for Prometheus"
    )
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--metrics-port", type=int, default=9464)
    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    try:
        main(parser.parse_args())
    except KeyboardInterrupt:
        pass  # uvicorn has ended already

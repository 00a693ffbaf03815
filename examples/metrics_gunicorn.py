"""A configuration of gunicorn: several workers, each with the metrics of its event loop on a port of its own.

    gunicorn -c examples/metrics_gunicorn.py starlette_app:app
    curl http://127.0.0.1:9464/metrics

Each worker process has loops of its own, and Prometheus scrapes each worker as a target of its own. A worker takes the
first of METRICS_PORTS that is free, so that a new one gets the port of the one that it replaces; on a reload it waits
until an old worker has ended. Needs `gunicorn`, `uvicorn-worker`, `starlette` and `prometheus_client`.
"""

import os
import pathlib
from typing import Any

bind = os.environ.get("BIND", "127.0.0.1:8000")
pythonpath = str(pathlib.Path(__file__).parent)
worker_class = "uringloop.gunicorn.UvicornWorker"

METRICS_PORTS = [int(port) for port in os.environ.get("METRICS_PORTS", "9464,9465").split(",")]
workers = len(METRICS_PORTS)


def post_worker_init(worker: Any) -> None:
    """gunicorn calls it in each worker process, before that makes its loop."""
    from uringloop.prometheus import MetricsServer, UringloopCollector

    UringloopCollector()
    worker.metrics = MetricsServer(METRICS_PORTS)

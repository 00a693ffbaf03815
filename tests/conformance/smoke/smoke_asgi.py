"""ASGI servers in processes of their own: the loop that they run on, large bodies, load, orderly ends."""

import os
import signal
import urllib.request

import conformance_loop
import pytest
from conftest import BIN, free_port, load, running

UVICORN = (
    BIN / "uvicorn",
    "application:app",
    "--port",
    "PORT",
    "--log-level",
    "warning",
    "--loop",
    "asyncio",
)
GUNICORN = (BIN / "gunicorn", "application:app", "-k", "uvicorn_worker.UvicornWorker", "-b", "127.0.0.1:PORT")
HYPERCORN = (BIN / "hypercorn", "application:app", "-b", "127.0.0.1:PORT", "-k", "asyncio")
SERVERS = {
    "uvicorn-h11": (*UVICORN, "--http", "h11"),
    "uvicorn-httptools": (*UVICORN, "--http", "httptools"),
    "uvicorn-two-workers": (*UVICORN, "--workers", "2"),
    "gunicorn-two-workers": (*GUNICORN, "-w", "2", "--log-level", "warning"),
    "hypercorn": HYPERCORN,
}
#: A process that handles the signal and then raises it again has the negative number as its status.
STATUSES = {signal.SIGTERM: (0, -15), signal.SIGINT: (0, -2, 130)}


def ask(port, path, data=None):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data=data)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.read()


@pytest.mark.parametrize("ends_by", STATUSES, ids=lambda number: number.name)
@pytest.mark.parametrize("command", SERVERS.values(), ids=SERVERS)
def test_a_server_serves_and_ends(command, ends_by):
    kind, port = conformance_loop.target()[1], free_port()
    with running(command, port, ends_by=ends_by, statuses=STATUSES[ends_by]):
        assert ask(port, "/loop").decode() == f"{kind.__module__}.{kind.__qualname__}"
        assert len(ask(port, "/big")) == 4 << 20
        body = os.urandom(3 << 20)
        assert ask(port, "/echo", body) == body
        load(port)

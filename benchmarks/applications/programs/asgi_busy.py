"""An ASGI application without a framework, with a fixed amount of Python for each request; see benchmarks/cores.py."""

import os

N_STEPS = int(os.environ.get("BENCHMARK_STEPS", "2000"))
HEADERS = [(b"content-type", b"text/plain"), (b"content-length", b"2")]


def work(n_steps: int) -> int:
    total = 0
    for number in range(n_steps):
        total += number
    return total


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    work(N_STEPS)
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": b"ok"})

"""One application on one loop, in its own process; started by the runner, not by hand.

It prints a line of JSON when its socket listens. uvicorn gets its loop by `loop="module:attribute"`, which is how its
users choose uringloop, and httptools, without an access log.
"""

from __future__ import annotations

import argparse
import importlib
import json
import socket
from functools import partial

from benchmarks.loops import new_event_loop
from benchmarks.machine import set_congestion_control, settle_in

BACKLOG = 2048  # uvicorn's own


def make_loop():
    """Replaced in main() with a factory of the loop under test."""
    raise NotImplementedError


def listen() -> socket.socket:
    sock = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    set_congestion_control(sock.fileno())
    return sock


def main() -> None:
    global make_loop
    parser = argparse.ArgumentParser()
    parser.add_argument("--loop", required=True)
    parser.add_argument("--program", required=True)
    parser.add_argument("--cpu", type=int, required=True)
    parser.add_argument("--lifetime-s", type=int, required=True)
    options = parser.parse_args()

    settle_in(options.cpu, options.lifetime_s)
    make_loop = partial(new_event_loop, options.loop)
    program = importlib.import_module(f"benchmarks.applications.programs.{options.program}")
    sock = listen()
    print(json.dumps({"port": sock.getsockname()[1]}), flush=True)
    if hasattr(program, "run"):
        program.run(sock, make_loop)
        return
    uvicorn = importlib.import_module("uvicorn")
    config = uvicorn.Config(
        program.app, loop="__main__:make_loop", http="httptools", access_log=False, log_level="warning"
    )
    uvicorn.Server(config).run(sockets=[sock])


if __name__ == "__main__":
    main()

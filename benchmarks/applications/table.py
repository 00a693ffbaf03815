"""The table of applications: what is served, what load it gets, what it needs, and what its answer must be."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.applications import postgresql, upstream, wrk

GREETING = {"message": "Hello, World!"}


def _is_greeting(body: bytes) -> bool:
    return json.loads(body) == GREETING


def _is_row(body: bytes) -> bool:
    return json.loads(body).keys() == {"id", "randomNumber"}


def _are_rows(body: bytes) -> bool:
    found = json.loads(body)
    return len(found) == 20 and all(row.keys() == {"id", "randomNumber"} for row in found)


def _are_fortunes(body: bytes) -> bool:
    text = body.decode()
    escaped = "&lt;script&gt;" in text and "<script>" not in text
    return text.count("<tr>") == 14 and escaped and postgresql.TEXTS[-1] in text


@dataclass(frozen=True)
class Application:
    """One application with one kind of request.

    program: the module in programs/.
    packages: the distributions that it needs; their versions are part of the result.
    path: what is requested; "" for WebSockets, whose client is loadgen, and for SMTP.
    is_right: whether an answer's body is what it must be, judged once before the load.
    depth: requests in one write of a connection.
    upstream: the server that it is a client of, see upstream.py.
    """

    program: str
    packages: tuple[str, ...]
    path: str = ""
    is_right: Callable[[bytes], bool] = _is_greeting
    n_connections: int = 64
    depth: int = 1
    needs_database: bool = False
    upstream: str = ""
    is_smtp: bool = False


UVICORN = ("uvicorn", "httptools")
MODULES = {"grpcio": "grpc"}  # where the name of the module is not that of the distribution
DATABASE = (*UVICORN, "asyncpg", "jinja2")

APPLICATIONS = {
    "starlette": Application("starlette_json", (*UVICORN, "starlette"), "/json"),
    "json": Application("asgi", UVICORN, "/json"),
    "plaintext": Application(
        "asgi", UVICORN, "/plaintext", lambda body: body == b"Hello, World!", n_connections=256, depth=16
    ),
    "fastapi": Application("fastapi_json", (*UVICORN, "fastapi", "pydantic"), "/json"),
    "litestar": Application("litestar_json", (*UVICORN, "litestar"), "/json"),
    "hypercorn": Application("hypercorn_json", ("hypercorn", "starlette"), "/json"),
    "granian": Application("granian_json", ("granian",), "/json"),
    "sanic": Application("sanic_json", ("sanic",), "/json"),
    "aiohttp": Application("aiohttp_json", ("aiohttp",), "/json"),
    "websockets": Application("websockets_echo", ("websockets",)),
    # With more connections than the 20 that httpx keeps alive, it would mostly connect.
    "httpx": Application("asgi_client", (*UVICORN, "httpx"), "/httpx", n_connections=16, upstream="asgi"),
    "redis": Application("asgi_client", (*UVICORN, "redis"), "/redis", upstream=upstream.REDIS),
    "grpc": Application("asgi_client", (*UVICORN, "grpcio"), "/grpc", upstream="grpc_greet"),
    "smtp": Application("smtp_sink", ("aiosmtpd",), n_connections=16, is_smtp=True),
    "db": Application("asgi_database", DATABASE, "/db", _is_row, needs_database=True),
    "queries": Application("asgi_database", DATABASE, "/queries/20", _are_rows, needs_database=True),
    "fortunes": Application("asgi_database", DATABASE, "/fortunes", _are_fortunes, needs_database=True),
    "updates": Application("asgi_database", DATABASE, "/updates/20", _are_rows, needs_database=True),
}


def missing(application: Application) -> str | None:
    """Why it cannot be measured here, if so."""
    absent = [
        name for name in application.packages if importlib.util.find_spec(MODULES.get(name, name)) is None
    ]
    if absent:
        return f"not installed: {', '.join(absent)} (the extra bench-applications has them)"
    if application.path and (reason := wrk.missing()):
        return reason
    if application.upstream and (reason := upstream.missing(application.upstream)):
        return reason
    return postgresql.missing() if application.needs_database else None


def versions(application: Application) -> dict[str, str]:
    """Of its packages."""
    return {name: importlib.metadata.version(name) for name in application.packages}

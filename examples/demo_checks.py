"""Real HTTP and websocket requests; the responses are compared with the expected ones.

The client is aiohttp's on the stock event loop, in the demo's own process; the servers run in other processes.
"""

import asyncio
import collections
import dataclasses
import importlib.util
import random
from collections.abc import Awaitable, Callable

import aiohttp

CONNECTIONS = 16
ROUNDS = 8
REQUEST_TIMEOUT_S = 10.0
HELLO = b"Hello, World!"
JSON = {"message": "Hello, World!", "numbers": list(range(10))}
STREAM = b"".join(b"chunk %d\n" % number for number in range(16))
# Empty, tiny, ordinary, and larger than the initial window of any socket buffer.
ECHO_BODY_BYTES = (0, 1, 1024, 300_000)


@dataclasses.dataclass
class Outcome:
    """The numbers of correct responses by kind of request, and the failures."""

    correct: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    failures: list[str] = dataclasses.field(default_factory=list)
    not_checked: list[str] = dataclasses.field(default_factory=list)

    @property
    def n_correct(self) -> int:
        return self.correct.total()


def require(condition: bool, text: str) -> None:
    """Like `assert`, but also in optimised runs; recorded in Outcome.failures."""
    if not condition:
        raise AssertionError(text)


async def check_text(session: aiohttp.ClientSession, url: str, random_bytes: Callable[[int], bytes]) -> None:
    async with session.get(f"{url}/") as response:
        require(response.status == 200, f"status {response.status}")
        require(response.content_type == "text/plain", f"content type {response.content_type}")
        require(await response.read() == HELLO, "wrong text")


async def check_json(session: aiohttp.ClientSession, url: str, random_bytes: Callable[[int], bytes]) -> None:
    async with session.get(f"{url}/json") as response:
        require(response.status == 200, f"status {response.status}")
        require(await response.json() == JSON, "wrong JSON")


async def check_echo(session: aiohttp.ClientSession, url: str, random_bytes: Callable[[int], bytes]) -> None:
    for body_bytes in ECHO_BODY_BYTES:
        body = random_bytes(body_bytes)
        async with session.post(f"{url}/echo", data=body) as response:
            require(response.status == 200, f"status {response.status}")
            require(await response.read() == body, f"the body differs from the {body_bytes} bytes sent")


async def check_stream(
    session: aiohttp.ClientSession, url: str, random_bytes: Callable[[int], bytes]
) -> None:
    async with session.get(f"{url}/stream") as response:
        require(response.headers.get("Transfer-Encoding") == "chunked", "the answer is not chunked")
        require(await response.read() == STREAM, "wrong chunks")


async def check_websocket(
    session: aiohttp.ClientSession, url: str, random_bytes: Callable[[int], bytes]
) -> None:
    async with session.ws_connect(f"{url}/ws") as websocket:
        for size in (1, 100, 70_000):
            text = random_bytes(size).hex()
            await websocket.send_str(text)
            require(await websocket.receive_str() == text, "the message differs from the one sent")


Check = Callable[[aiohttp.ClientSession, str, Callable[[int], bytes]], Awaitable[None]]
CHECKS: dict[str, Check] = {
    "text": check_text,
    "json": check_json,
    "echo": check_echo,
    "stream": check_stream,
    "websocket": check_websocket,
}


def server_speaks_websocket(server: str) -> bool:
    """uvicorn needs one of two packages for websockets, which may not be installed."""
    return server != "uvicorn" or any(importlib.util.find_spec(name) for name in ("websockets", "wsproto"))


async def run_checks(port: int, server: str, seed: int = 1) -> Outcome:
    """Each of CONNECTIONS concurrent clients makes each kind of request ROUNDS times, in its own order."""
    outcome = Outcome()
    kinds = list(CHECKS)
    if not server_speaks_websocket(server):
        kinds.remove("websocket")
        outcome.not_checked.append("websocket (neither websockets nor wsproto is installed)")
    url = f"http://127.0.0.1:{port}"

    async def client(number: int) -> None:
        chance = random.Random(seed * 1000 + number)
        for _ in range(ROUNDS):
            chance.shuffle(kinds_here := list(kinds))
            for kind in kinds_here:
                try:
                    await asyncio.wait_for(CHECKS[kind](session, url, chance.randbytes), REQUEST_TIMEOUT_S)
                except (AssertionError, OSError, TimeoutError, aiohttp.ClientError, TypeError) as error:
                    outcome.failures.append(f"{kind}: {type(error).__name__}: {error}")
                else:
                    outcome.correct[kind] += 1

    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector) as session:
        await asyncio.gather(*(client(number) for number in range(CONNECTIONS)))
    return outcome


async def expected_body(port: int, method: str, path: str, body: bytes) -> bytes:
    """Fetch one response, with which the load client compares all others."""
    timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.request(method, f"http://127.0.0.1:{port}{path}", data=body or None) as response,
    ):
        response.raise_for_status()
        return await response.read()

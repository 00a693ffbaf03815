"""The table of cases: their names and what they measure."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import limits
from benchmarks.applications.table import APPLICATIONS
from benchmarks.files import FILES
from benchmarks.imports import IMPORTS
from benchmarks.memory import MEMORY
from benchmarks.micro import LIFECYCLES, OPERATIONS, OWN, SENDFILE
from benchmarks.polling import POLLING
from benchmarks.wakeups import WAKEUPS

CONNECTIONS = (1, 10, 100, 1000)
SIZES_BYTES = {"1KiB": 1024, "16KiB": 16 * 1024, "128KiB": 128 * 1024}


@dataclass(frozen=True)
class Case:
    """One case to measure.

    kind: "traffic" (a server and the C client), "app" (an application and its load) or "micro" (one process).
    style: a style of server.py, or "websocket".
    mode: "echo", "churn", "datagram", "open" or "fanout", see loadgen.c.
    window: messages that each connection keeps in flight.
    n_idle, n_slow: connections beside the measured ones, see loadgen_crowd.h.
    is_unix: UNIX socket instead of TCP.
    offered_share: of the baseline's maximum, in the open mode.
    rate_per_s: what the open mode offers; the runner derives it from the baseline's maximum.
    only: the one loop that has it.
    """

    name: str
    kind: str
    style: str = "protocol"
    mode: str = "echo"
    is_unix: bool = False
    n_connections: int = 1
    size_bytes: int = 1024
    window: int = 1
    n_idle: int = 0
    n_slow: int = 0
    offered_share: float = 0.7
    rate_per_s: float | None = None
    only: str | None = None

    @property
    def group(self) -> str:
        """The table of the report that this case belongs to."""
        return self.name.rsplit("/", 2)[0] if self.kind == "traffic" else self.name.split("/")[0]


def is_for(case: Case, loop: str) -> bool:
    """Whether this loop, or server in C, can be measured in this case."""
    return limits.suits(case) if limits.is_limit(loop) else case.only in (None, loop)


def _traffic(prefix: str, **options: object) -> list[Case]:
    return [
        Case(f"{prefix}/{size}/{n}", "traffic", n_connections=n, size_bytes=size_bytes, **options)  # type: ignore[arg-type]
        for size, size_bytes in SIZES_BYTES.items()
        for n in CONNECTIONS
    ]


CASES: tuple[Case, ...] = (
    *(Case(f"echo/protocol/64B/{n}", "traffic", n_connections=n, size_bytes=64) for n in CONNECTIONS),
    *_traffic("echo/protocol"),
    *_traffic("echo/streams", style="streams"),
    *_traffic("echo/unix", is_unix=True),
    *_traffic("echo/tls", style="tls"),
    *(
        Case(
            f"datagram/{size}/{name}",
            "traffic",
            style="datagram",
            mode="datagram",
            size_bytes=size_bytes,
            window=window,
            n_connections=n,
        )
        for size, size_bytes in (("64B", 64), ("1200B", 1200))
        for name, window, n in (("window1", 1, 1), ("window64", 64, 1), ("100peers", 2, 100))
    ),
    *(Case(f"pipelined/protocol/1KiB/{n}", "traffic", n_connections=n, window=16) for n in (1, 10, 100)),
    *(Case(f"sock/1KiB/{n}", "traffic", style="sock", n_connections=n) for n in (1, 10, 100)),
    *(
        Case(f"churn/{where}/1KiB/{n}", "traffic", mode="churn", is_unix=where == "unix", n_connections=n)
        for where, connections in (("tcp", CONNECTIONS), ("unix", (1, 10, 100)))
        for n in connections
    ),
    *(
        Case(f"handshakes/tls/{n}", "traffic", style="tls", mode="churn", n_connections=n)
        for n in (1, 10, 100)
    ),
    Case("fanout/1KiB/1000", "traffic", style="fanout", mode="fanout", n_connections=1000),
    *(
        Case(f"slow/{name}/1KiB/10", "traffic", style=style, n_connections=10, n_slow=100)
        for name, style in (("protocol", "patient"), ("streams", "streams"))
    ),
    *(Case(f"idle/10000/1KiB/{n}", "traffic", n_connections=n, n_idle=10_000 - n) for n in (1, 100)),
    *(
        Case(f"tail/{name}/1KiB/{n}", "traffic", style=style, mode="open", is_unix=is_unix, n_connections=n)
        for name, style, is_unix, connections in (
            ("protocol", "protocol", False, (10, 100, 1000)),
            ("streams", "streams", False, (100,)),
            ("unix", "protocol", True, (100,)),
            ("tls", "tls", False, (100,)),
        )
        for n in connections
    ),
    Case("gc/heap/1KiB/100", "traffic", style="heap", mode="open", n_connections=100, offered_share=0.5),
    *(Case(f"micro/{name}", "micro") for name in OPERATIONS),
    *(Case(f"lifecycle/{name}", "micro") for name in LIFECYCLES),
    *(Case(f"imports/{name}", "micro") for name in IMPORTS),
    *(Case(f"{group}/{name}", "micro", only="uringloop") for name, group in OWN.items()),
    Case(f"sendfile/{SENDFILE}", "micro"),
    *(Case(f"files/{name}", "micro") for name in FILES),
    *(Case(f"polling/{name}", "micro") for name in POLLING),
    *(Case(f"threads/{name}", "micro") for name in WAKEUPS),
    *(Case(f"memory/{name}", "micro") for name in MEMORY),
    *(
        Case(
            f"app/{name}",
            "app",
            "" if application.path or application.is_smtp else "websocket",
            n_connections=application.n_connections,
        )
        for name, application in APPLICATIONS.items()
    ),
)

BY_NAME = {case.name: case for case in CASES}


def select(patterns: Sequence[str], barred: Sequence[str]) -> list[Case]:
    """The cases whose names match a glob, in the table's order; "bars": those that ``check`` judges."""
    if not patterns:
        return list(CASES)
    chosen = set()
    for pattern in patterns:
        names = barred if pattern == "bars" else fnmatch.filter(BY_NAME, pattern)
        if not names:
            raise ValueError(f"no case matches {pattern!r}; see: python -m benchmarks list")
        chosen.update(names)
    return [case for case in CASES if case.name in chosen]

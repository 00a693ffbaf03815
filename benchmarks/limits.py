"""The servers in C that show the limit: what a loop could reach if Python cost nothing; see limit/common.h.

`limit-epoll` and `limit-io_uring` stand beside the loops of a run. Which of a server's choices is best differs by case;
BEST has what was measured. `limit-epoll:late+staged` names other choices, for measuring them again.
"""

from __future__ import annotations

import fnmatch
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.build import build, liburing_flags
from benchmarks.machine import PACKAGE, congestion_control

if TYPE_CHECKING:
    from benchmarks.cases import Case

FOLDER = PACKAGE / "limit"
SOURCES = {"limit-epoll": "epoll.c", "limit-io_uring": "io_uring.c"}

# By server: the words for the cases whose names match; the first match counts.
BEST: dict[str, tuple[tuple[str, str], ...]] = {
    "limit-epoll": (
        ("*/1KiB/10", "late+staged"),
        ("echo/protocol/1KiB/100", "late+staged"),
        ("*/1KiB/*", "now+staged"),
        ("*/16KiB/10", "late+direct"),
    ),
    "limit-io_uring": (
        ("*/16KiB/1000", "poll+now"),
        ("*/128KiB/*", "poll+now"),
        ("*", "inc+skip"),
    ),
}


def is_limit(loop: str) -> bool:
    """Whether this is the name of a server in C."""
    return loop.partition(":")[0] in SOURCES


def suits(case: Case) -> bool:
    """Whether the servers can serve this case: messages on stream sockets, as a protocol gets them."""
    return case.kind == "traffic" and case.style == "protocol" and case.mode in ("echo", "churn", "open")


def words_for(loop: str, case_name: str) -> list[str]:
    """The choices of this server in this case."""
    server, _, chosen = loop.partition(":")
    if not chosen:
        chosen = next((words for glob, words in BEST[server] if fnmatch.fnmatch(case_name, glob)), "")
    return [word for word in chosen.split("+") if word]


def program(loop: str) -> Path:
    """The server of this name, which is compiled at first use."""
    name = loop.partition(":")[0]
    flags = liburing_flags() if name == "limit-io_uring" else []
    return build(name, FOLDER / SOURCES[name], [FOLDER / "common.h"], flags)


def command(loop: str, case: Case, path: str | None) -> list[str]:
    """The command line that serves *case*, on the UNIX socket *path* or on TCP."""
    where = ["-x", path] if path else ["-C", congestion_control()]
    return [str(program(loop)), *where, *words_for(loop, case.name)]


def probe(loop: str) -> dict[str, str]:
    """{"version": ...} or {"error": ...}, as of loops."""
    words = words_for(loop, "")
    try:
        done = subprocess.run(
            [str(program(loop)), "-V", *words], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.SubprocessError, SystemExit) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]}
    return {"version": done.stdout.strip()}

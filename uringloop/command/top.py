"""`python -m uringloop top [PID]`: what the loops of another process do now; docs/observing.md.

Without a PID it lists the processes that offer a view.  Exit status: 0; 1 if there is no view; 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..observing import places
from . import asking

NO_RICH = "the screen needs rich: pip install 'rich>=13'; --json works without"
SHORTEST_S = 0.1


def _interval(text: str) -> float:
    seconds = float(text)
    if not SHORTEST_S <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"must be {SHORTEST_S:g} to 3600 seconds")
    return seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "pid", metavar="PID", type=int, nargs="?", help="the process; without it: which there are"
    )
    which.add_argument(
        "--url", "--socket", metavar="URL", help="the view's socket instead: unix:///path, or a path"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="for machines: everything, once")
    how.add_argument("--once", action="store_true", help="print the screen once, after one interval")
    parser.add_argument(
        "--interval", metavar="S", type=_interval, default=1.0, help="seconds between updates"
    )


def main(arguments: argparse.Namespace) -> int:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it quietly
    try:
        path = _chosen(arguments)
        if path is None:
            return _list(arguments.json)
        if arguments.json:
            print(json.dumps(_everything(path), indent=2))
            return 0
        return _screen()(path, arguments.interval, arguments.once)
    except asking.NoView as error:
        print(f"python -m uringloop top: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


def _chosen(arguments: argparse.Namespace) -> Path | None:
    if arguments.url is not None:
        return asking.path_of(arguments.url)
    if arguments.pid is not None:
        return asking.path_for(arguments.pid)
    return None


def _list(is_json: bool) -> int:
    found = asking.offers()
    if is_json:
        print(
            json.dumps([{"pid": one.pid, "socket": str(one.path), "command": one.command} for one in found])
        )
        return 0
    if not found:
        raise asking.NoView(
            "no process of this user offers a view: start one with URINGLOOP_TOP=1, or call uringloop.serve_view()"
        )
    for one in found:
        print(f"{one.pid:>8}  {''.join(c if c.isprintable() else '?' for c in one.command)}")
    return 0


def _everything(path: Path) -> dict[str, Any]:
    kernel = asking.ask(path, places.KERNEL, 10.0)
    return {**asking.ask(path), "features": kernel.get("features")}


def _screen() -> Callable[[Path, float, bool], int]:
    try:
        import rich  # noqa: F401
    except ImportError:
        raise asking.NoView(NO_RICH) from None
    from . import top_screen

    return top_screen.show

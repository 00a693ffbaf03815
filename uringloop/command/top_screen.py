"""The screen of `top`: it asks, computes and draws, and obeys keys.

What the other process sends is shown without control characters, which would be commands to the terminal, and never
as markup.
"""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ..observing import places
from . import asking
from .top_numbers import Callback, Rates, TaskGroup, groups, rates

SORTS = ("now", "total", "longest", "count", "name")
PAGES = ("callbacks", "tasks", "kernel")
KEYS = "q quit  n next loop  s sort  t tasks  k kernel  f freeze"
LEAST_HEIGHT = 10
STATE_STYLES = {"blocked": "bold red", "running": "yellow", "waiting": "green", "stopped": "dim"}


def show(path: Path, interval_s: float, is_once: bool) -> int:
    """Show the process that listens there; returns the exit status."""
    console = Console(highlight=False)
    try:
        screen = Screen(path, asking.ask(path))
        if is_once:
            time.sleep(interval_s)
            screen.ask()
            console.print(screen.drawn(console.width, 40, is_whole=False))
            return 0
        if not (console.is_terminal and sys.stdin.isatty()):
            raise asking.NoView("the screen needs a terminal; --once and --json do not")
        _go_on(screen, console, interval_s)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise asking.NoView(f"its answer is not as expected: {error!r}") from error
    return 0


def _go_on(screen: Screen, console: Console, interval_s: float) -> None:
    with Keyboard() as keyboard, Live(console=console, screen=True, auto_refresh=False) as live:
        next_at = time.monotonic() + interval_s / 4  # the first rates come soon
        while True:
            live.update(screen.drawn(console.width, console.height), refresh=True)
            key = keyboard.wait(next_at - time.monotonic())
            if key is not None:
                if not screen.press(key):
                    return
                continue
            screen.ask()
            next_at = time.monotonic() + interval_s


class Keyboard:
    """Single keys of the terminal that is standard input."""

    def __enter__(self) -> Self:
        self._fd = sys.stdin.fileno()
        self._before = termios.tcgetattr(self._fd)
        tty.setcbreak(self._fd)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)

    def wait(self, seconds: float) -> str | None:
        """The next key; None after that time.  A terminal that has gone is a "q"."""
        if not select.select([self._fd], [], [], max(seconds, 0))[0]:
            return None
        typed = os.read(self._fd, 1)
        return typed.decode(errors="replace") if typed else "q"


def clean(text: object) -> str:
    """Without control characters."""
    return "".join(one if one.isprintable() else "?" for one in str(text))


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    for limit, factor, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms"), (600.0, 1.0, "s")):
        if seconds < limit:
            value = seconds * factor
            return f"{value:.0f} {unit}" if value >= 100 or value == 0 else f"{value:.2g} {unit}"
    return f"{seconds / 60:.0f} min"


def number(value: float | None) -> str:
    if value is None:
        return "-"
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):.1f}{unit}"
    return f"{value:.0f}"


def place(file: str, line: object) -> str:
    """The last folder, the file and the line."""
    return clean("/".join(str(file).split("/")[-2:])) + f":{line}"


def where(text: str) -> str:
    file, _, line = text.rpartition(":")
    return place(file, line) if file else ""


class Screen:
    """What is shown, of which answers, and how the user wants it."""

    def __init__(self, path: Path, answer: dict[str, Any]) -> None:
        self.path = path
        self.before: dict[str, Any] | None = None
        self.now = answer
        self.features: list[dict[str, Any]] | None = None
        self.answered_at = time.monotonic()
        self.trouble: asking.NoView | None = None
        self.sort = SORTS[0]
        self.page = PAGES[0]
        self.chosen: int | None = None  # number of a loop; None: a blocked one, or the first
        self.is_frozen = False

    def ask(self) -> None:
        """Another answer, unless the screen is frozen."""
        if self.is_frozen:
            return
        try:
            answer = asking.ask(self.path, timeout_s=1.0)
            if self.page == "kernel" and self.features is None:
                self.features = asking.ask(self.path, places.KERNEL, 10.0)["features"]
        except asking.NoView as error:
            self.trouble = error
            return
        self.trouble = None
        self.before, self.now, self.answered_at = self.now, answer, time.monotonic()

    def press(self, key: str) -> bool:
        """Obey a key; returns False for the one that ends it."""
        if key in "q\x03\x04":
            return False
        if key == "s":
            self.sort = SORTS[(SORTS.index(self.sort) + 1) % len(SORTS)]
        elif key == "f":
            self.is_frozen = not self.is_frozen
        elif key in "n\t" and self.now["loops"]:
            numbers = [one["number"] for one in self.now["loops"]]
            shown = self.shown()
            at = numbers.index(shown["number"]) if shown is not None else -1
            self.chosen = numbers[(at + 1) % len(numbers)]
        elif key in "tk":
            page = {"t": "tasks", "k": "kernel"}[key]
            self.page = PAGES[0] if self.page == page else page
        return True

    def shown(self) -> dict[str, Any] | None:
        """The loop whose details are shown."""
        loops: list[dict[str, Any]] = self.now["loops"]
        for one in loops:
            if one["number"] == self.chosen:
                return one
        blocked = [one for one in loops if one["state"] == "blocked"]
        return next(iter([*blocked, *loops]), None)

    def rates_of(self, loop: dict[str, Any]) -> Rates:
        before = self.before
        if before is None or before["process"]["pid"] != self.now["process"]["pid"]:
            return rates(None, loop, 0)
        seconds = self.now["process"]["now"] - before["process"]["now"]
        earlier = next((one for one in before["loops"] if one["number"] == loop["number"]), None)
        return rates(earlier, loop, seconds)

    # -- drawing -----------------------------------------------------------------------------------------------

    def drawn(self, width: int, height: int, *, is_whole: bool = True) -> RenderableType:
        """The screen in so many columns and lines; is_whole: with the keys in the last line."""
        height = max(height, LEAST_HEIGHT)
        shown = self.shown()
        parts: list[RenderableType] = [self._header(width)]
        left = height - 3 - (1 if self.trouble is not None else 0)
        if self.trouble is not None:
            parts.append(self._trouble(width))
        most_loops = max(1, min(len(self.now["loops"]), left // 3))
        parts.append(self._loops(most_loops))
        left -= most_loops + 1
        if shown is not None:
            for part, lines in self._details(shown, width, left):
                parts.append(part)
                left -= lines
        if not is_whole:
            return Group(*parts)
        parts += [""] * max(left, 0)
        parts.append(Text(KEYS, style="reverse", no_wrap=True, overflow="crop"))
        return Group(*parts)

    def _line(self, text: str, width: int, style: str = "") -> Text:
        line = Text(text, style=style, no_wrap=True, overflow="ellipsis")
        line.truncate(width, overflow="ellipsis")
        return line

    def _header(self, width: int) -> RenderableType:
        process = self.now["process"]
        fds = process["fds"]
        kinds = ", ".join(f"{count} {clean(kind)}" for kind, count in sorted(fds["kinds"].items()))
        cpu = self._cpu()
        used = "-" if cpu is None else f"{cpu:.0%}"
        frozen = "FROZEN  " if self.is_frozen else ""
        first = self._line(
            f"{frozen}pid {process['pid']}  {clean(process['command'])}  uringloop {clean(process['uringloop'])}"
            f"  Python {clean(process['python'])}{'' if process['has_gil'] else 't'}  Linux {clean(process['kernel'])}",
            width,
            "bold",
        )
        second = self._line(
            f"threads {process['threads']}  CPU {used}  RSS {process['max_rss_bytes'] >> 20} MiB"
            f" at most  fds {fds['open']} of {fds['limit'] or 'any'}: {kinds}",
            width,
        )
        return Group(first, second)

    def _cpu(self) -> float | None:
        if self.before is None:
            return None
        before, now = self.before["process"], self.now["process"]
        seconds = now["now"] - before["now"]
        return (now["cpu_s"] - before["cpu_s"]) / seconds if seconds > 0 else None

    def _trouble(self, width: int) -> RenderableType:
        since = duration(time.monotonic() - self.answered_at)
        if isinstance(self.trouble, asking.NoAnswer):
            pid = self.now["process"]["pid"]
            text = f"NO ANSWER for {since}: stopped, or native code keeps the GIL; try py-spy dump --native --pid {pid}"
        else:
            text = f"{clean(self.trouble)} (shown: {since} ago)"
        return self._line(text, width, "bold red")

    def _loops(self, most: int) -> RenderableType:
        table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
        for name in ("", "loop", "state", "monitor"):
            table.add_column(name, no_wrap=True)
        for name in ("turns/s", "use", "lag p50", "p99", "max", "conns", "tasks"):
            table.add_column(name, justify="right", no_wrap=True)
        shown = self.shown()
        for loop in self.now["loops"][:most]:
            of = self.rates_of(loop)
            lag = of.lag if of.lag is not None and of.lag.count else None
            state = clean(loop["state"])
            since = f" {duration(loop['since_s'])}" if loop["state"] == "blocked" else ""
            statistics = loop["statistics"] or {}
            table.add_row(
                ">" if loop is shown else "",
                Text(f"{loop['number']} {clean(loop['thread'] or loop['name'])}"),
                Text(state + since, style=STATE_STYLES.get(state, "")),
                clean(loop["fdmon"]),
                number(of.turns),
                "-" if of.utilization is None else f"{of.utilization:.0%}",
                *(duration(None if lag is None else lag.percentile(percent)) for percent in (50, 99)),
                duration(None if lag is None else lag.longest_s),
                number(statistics.get("connections")),
                number(loop["tasks"]["total"]),
            )
        return table

    def _details(self, loop: dict[str, Any], width: int, left: int) -> Iterator[tuple[RenderableType, int]]:
        """Parts and how many lines each has, in that many lines."""
        if loop["state"] == "blocked" and left >= 5:
            lines = max(1, min(len(loop["stack"]), left // 2 - 3, 12))
            yield self._blocked(loop, width, lines), lines + 3
            left -= lines + 3
        elif left >= 3:
            yield self._ring(loop, width), 1
            left -= 1
        if self.page == "kernel":
            yield from self._kernel(loop, width, left)
            return
        n_tasks = left if self.page == "tasks" else min(max(left // 3, 1), 9)  # lines
        n_callbacks = left - n_tasks - 1
        if n_callbacks >= 0:
            callbacks = self._sorted(self.rates_of(loop).callbacks)[:n_callbacks]
            yield self._callbacks(loop, callbacks, width), len(callbacks) + 1
        if n_tasks > 0 and left > 0:
            yield self._tasks(loop, width, n_tasks - 1), self._n_task_lines(loop, n_tasks - 1)

    def _blocked(self, loop: dict[str, Any], width: int, n_lines: int) -> RenderableType:
        does = loop["does"]
        what = f" in the {clean(does['kind'])} {clean(does['name'])}" if does is not None else ""
        lines = [f"for {duration(loop['since_s'])}{what}; the innermost call first:"]
        lines += [
            f"  {place(one['file'], one['line'])}  {clean(one['function'])}"
            for one in loop["stack"][:n_lines]
        ]
        if not loop["stack"]:
            lines.append("  no Python code runs there")
        body = Group(*(self._line(line, width - 4) for line in lines))
        return Panel(body, title=f"loop {loop['number']} is BLOCKED", border_style="red", title_align="left")

    def _ring(self, loop: dict[str, Any], width: int) -> RenderableType:
        of, ring, recorded = self.rates_of(loop), loop["ring"], loop["recorded"]
        parts = [
            f"syscalls {number(of.syscalls)}/s",
            f"in {number(of.received)}B/s",
            f"out {number(of.written)}B/s",
        ]
        if ring:
            parts.append(f"ring SQ {ring['sq_entries']} CQ {ring['cq_entries']}")
            in_flight = recorded["in_flight"] if recorded is not None else {}
            kinds = ", ".join(f"{count} {clean(kind)}" for kind, count in sorted(in_flight.items()))
            parts.append(f"in flight {kinds or (loop['statistics'] or {}).get('in_flight', 0)}")
        elif loop["fdmon_reason"]:
            parts.append(f"{clean(loop['fdmon'])} because {clean(loop['fdmon_reason'])}")
        return self._line("  ".join(parts), width)

    def _sorted(self, callbacks: list[Callback]) -> list[Callback]:
        if self.sort == "name":
            return sorted(callbacks, key=lambda one: one.name)
        key = {"now": "now_s", "total": "total_s", "longest": "longest_s", "count": "count"}[self.sort]
        return sorted(callbacks, key=lambda one: (getattr(one, key), one.total_s), reverse=True)

    def _callbacks(self, loop: dict[str, Any], callbacks: list[Callback], width: int) -> RenderableType:
        if not callbacks:
            why = "nothing ran yet" if loop["is_recorded"] else "not recorded yet: the loop did not get to it"
            return self._line(f"callbacks: {why}", width, "dim")
        table = Table(box=None, padding=(0, 1, 0, 0), width=width, header_style="bold")
        table.add_column(f"callbacks, by {self.sort}", no_wrap=True, ratio=3, overflow="ellipsis")
        for name in ("now", "calls/s", "calls", "total", "longest"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("where", no_wrap=True, ratio=2, overflow="ellipsis")
        for one in callbacks:
            table.add_row(
                Text(f"{clean(one.kind)} {clean(one.name)}"),
                f"{one.now_s:.1%}",
                number(one.rate),
                number(one.count),
                duration(one.total_s),
                Text(duration(one.longest_s), style="red" if one.longest_s >= 0.1 else ""),
                Text(where(one.where)),
            )
        return table

    def _n_task_lines(self, loop: dict[str, Any], most: int) -> int:
        return 1 + min(max(most, 0), len(groups(loop["tasks"]["listed"])))

    def _tasks(self, loop: dict[str, Any], width: int, most: int) -> RenderableType:
        tasks = loop["tasks"]
        states = ", ".join(f"{count} {clean(state)}" for state, count in sorted(tasks["states"].items()))
        lines = [self._line(f"tasks: {number(tasks['total'])}  {states}", width, "bold")]
        for one in groups(tasks["listed"])[: max(most, 0)]:
            lines.append(self._line(self._group(one), width))
        return Group(*lines)

    def _group(self, group: TaskGroup) -> str:
        count = f"{group.count}x" if group.count > 1 else clean(group.names[0])
        chain = " > ".join(
            f"{clean(one['function'])} {place(one['file'], one['line'])}" for one in group.awaits
        )
        ends = f" > {clean(group.waits_for)}" if group.waits_for else ""
        return f"{count} {clean(group.state)}: {chain or clean(group.coroutine)}{ends}"

    def _kernel(self, loop: dict[str, Any], width: int, left: int) -> Iterator[tuple[RenderableType, int]]:
        ring = loop["ring"]
        lines = []
        if ring:
            lines.append("ring made with " + " ".join(clean(one) for one in ring["setup_flags"]))
            lines.append("kernel's ring features " + " ".join(clean(one) for one in ring["features"]))
        if self.features is None:
            lines.append("features: only known in a process with a loop on io_uring")
        for one in self.features or ():
            mark = {True: "yes", False: "no ", None: "?  "}[one["is_available"]]
            reason = f" ({clean(one['reason'])})" if one["reason"] else ""
            lines.append(f"{mark} {clean(one['name'])}, since {clean(one['since'])}{reason}")
        for line in lines[: max(left, 0)]:
            yield self._line(line, width), 1

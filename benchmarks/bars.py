"""A table of uringloop's promises, and the check of a result document against it."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

from benchmarks.summary import Row, rows

# Figures that a sample contains as such.
OWN_METRICS = ("gain", "cpu_gain", "idle_gain", "kept", "of_allowed", "turn_syscalls", "p99_us")
_COMPARE = {">=": operator.ge, "<=": operator.le, "<": operator.lt}


@dataclass(frozen=True)
class Bar:
    """metric: "cpu_ratio", "rate_ratio", "p50_ratio" (to the baseline), "syscalls" (per message), "cpu_us" (CPU),
    "share" (of the limit: needs limit-epoll and limit-io_uring in the run), "kept" (of the gain of polling),
    "gain", "cpu_gain" or "idle_gain" (over the case's own comparison), "of_allowed" (of what raw_requests.py allows),
    "turn_syscalls" (for 64 requests) or "p99_us"."""

    case: str
    metric: str
    comparison: str
    bound: float
    loop: str = "uringloop"


def _cpu(case: str, bound: float, loop: str = "uringloop") -> Bar:
    return Bar(case, "cpu_ratio", ">=", bound, loop)


BARS: tuple[Bar, ...] = (
    _cpu("echo/protocol/1KiB/1", 1.0),
    _cpu("echo/protocol/1KiB/10", 1.25),
    _cpu("echo/protocol/1KiB/100", 1.25),
    _cpu("echo/protocol/1KiB/1000", 1.35),
    Bar("echo/protocol/1KiB/10", "share", ">=", 0.93),
    Bar("echo/protocol/1KiB/100", "share", ">=", 0.95),
    Bar("echo/protocol/1KiB/1000", "share", ">=", 0.97),
    _cpu("echo/protocol/16KiB/10", 1.15),
    _cpu("echo/protocol/16KiB/100", 1.15),
    _cpu("echo/protocol/128KiB/10", 1.1),
    _cpu("echo/streams/1KiB/100", 1.2),
    _cpu("echo/tls/1KiB/10", 1.2),
    _cpu("echo/tls/1KiB/100", 1.3),
    Bar("echo/protocol/1KiB/1", "syscalls", "<=", 1.0),
    Bar("echo/protocol/1KiB/10", "syscalls", "<=", 0.5),
    Bar("echo/protocol/1KiB/100", "syscalls", "<=", 0.1),
    _cpu("datagram/64B/window64", 1.3),
    Bar("datagram/64B/window64", "rate_ratio", ">=", 1.3),
    _cpu("micro/call_soon_chain", 3.0),
    _cpu("micro/call_soon_batch", 1.6),
    _cpu("micro/sleep_zero", 1.2),
    _cpu("micro/future_wakeup", 2.0),
    _cpu("micro/call_later_cancel", 3.0),
    _cpu("micro/timers_cancel_all", 2.0),
    _cpu("micro/spawn_sequential", 1.0),
    _cpu("micro/spawn_together", 1.0),
    _cpu("micro/spawn_communicate", 1.0),
    _cpu("micro/pipe_through_cat", 1.0),
    # Importing takes at most twice the CPU.
    _cpu("imports/import", 0.5),
    Bar("raw/nop", "of_allowed", "<=", 1.0),
    Bar("raw/nop", "turn_syscalls", "<=", 1),
    Bar("aiocontext/idle_handlers", "idle_gain", ">=", 5),
    Bar("lifecycle/create_close", "cpu_us", "<", 250),
    # The baseline's files are aiofiles.
    Bar("files/read4k_1", "rate_ratio", ">=", 5.0),
    Bar("files/read4k_64", "rate_ratio", ">=", 10.0),
    Bar("files/read_files", "rate_ratio", ">=", 3.0),
    Bar("files/write_files", "rate_ratio", ">=", 1.5),
    Bar("sendfile/100MiB", "cpu_gain", ">=", 2.0),
    Bar("files/sequential", "gain", ">=", 0.9),
    Bar("files/ticker_hot", "p99_us", "<=", 2000),
    Bar("files/ticker_cold", "p99_us", "<=", 2000),
    # An fsync of 8 MiB takes longer than 2 ms; with threads, on any loop, the figure is the same.
    Bar("files/ticker_fsync", "p99_us", "<=", 5000),
    Bar("echo/protocol/1KiB/1", "rate_ratio", ">=", 2.0, "uringloop-polling"),
    Bar("echo/protocol/1KiB/1", "p50_ratio", ">=", 1 / 0.45, "uringloop-polling"),
    _cpu("echo/protocol/1KiB/1", 1 / 1.1, "uringloop-polling"),
    Bar("polling/mixed", "kept", ">=", 0.9, "uringloop-polling"),
    Bar("polling/beside", "kept", ">=", 0.9, "uringloop-polling"),
    _cpu("echo/protocol/1KiB/10", 0.95, "uringloop-epoll"),
    _cpu("echo/protocol/1KiB/100", 0.95, "uringloop-epoll"),
    _cpu("echo/protocol/16KiB/10", 0.95, "uringloop-epoll"),
    _cpu("echo/protocol/16KiB/100", 0.95, "uringloop-epoll"),
    _cpu("echo/streams/1KiB/100", 0.95, "uringloop-epoll"),
)

BARRED_CASES = tuple(dict.fromkeys(bar.case for bar in BARS))


def _measured(bar: Bar, row: Row | None) -> tuple[float | None, str]:
    """The value that *bar* judges, and its text."""
    if row is None:
        return None, "not measured"
    if bar.metric == "cpu_ratio" and row.cpu_ratio:
        return row.cpu_ratio.median, f"{row.cpu_ratio}"
    if bar.metric == "rate_ratio" and row.rate_ratio:
        return row.rate_ratio.median, f"{row.rate_ratio}"
    if bar.metric == "p50_ratio" and row.p50_ratio:
        return row.p50_ratio.median, f"{row.p50_ratio}"
    if bar.metric == "share" and row.share:
        return row.share.median, f"{row.share}"
    if bar.metric == "syscalls" and row.syscalls is not None:
        return row.syscalls, f"{row.syscalls:.3f}"
    if bar.metric == "cpu_us" and row.n_samples:
        return row.values["cpu_ns"] / 1000, f"{row.values['cpu_ns'] / 1000:.1f}"
    if bar.metric in OWN_METRICS and row.n_samples:
        return row.values[bar.metric], f"{row.values[bar.metric]:.2f}"
    return None, row.errors[-1] if row.errors else "not measured"


def check(document: dict[str, Any]) -> tuple[list[str], bool]:
    """One line per bar, and whether all of them passed; a bar that was not measured has not passed."""
    what = {
        "cpu_ratio": f"CPU per message, ratio to {document['baseline']}",
        "rate_ratio": f"messages per second, ratio to {document['baseline']}",
        "p50_ratio": f"median latency, ratio of {document['baseline']}'s to it",
        "share": "share of the limit (CPU per message)",
        "kept": "share of the gain of polling kept",
        "syscalls": "system calls per message",
        "cpu_us": "CPU, us",
        "gain": "rate, ratio to blocking Python",
        "cpu_gain": "CPU, ratio to reading and writing",
        "idle_gain": "rate, gain from removing idle handlers",
        "of_allowed": "CPU of a NOP, of what is allowed",
        "turn_syscalls": "system calls of 64 requests in a turn",
        "p99_us": "lateness of a 1 ms ticker, p99, us",
    }
    measured = {(row.case, row.loop): row for row in rows(document)}
    lines, is_good = [], True
    for bar in BARS:
        value, text = _measured(bar, measured.get((bar.case, bar.loop)))
        verdict = "MISS"
        if value is not None:
            verdict = "PASS" if _COMPARE[bar.comparison](value, bar.bound) else "FAIL"
        is_good = is_good and verdict == "PASS"
        subject = f"{bar.loop:<17} {bar.case:<27} {what[bar.metric]:<40}"
        lines.append(f"{verdict}  {subject} {bar.comparison} {bar.bound:g}: {text}")
    return lines, is_good

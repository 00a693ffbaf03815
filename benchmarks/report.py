"""A result document as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from benchmarks import limits
from benchmarks.cases import BY_NAME
from benchmarks.memory import COLUMNS
from benchmarks.summary import LATENCIES, Row, foreign_load, rows

_TITLES = {
    "echo/protocol": "Echo over TCP, `asyncio.Protocol`",
    "echo/streams": "Echo over TCP, asyncio streams",
    "echo/unix": "Echo over a UNIX socket, `asyncio.Protocol`",
    "echo/tls": "Echo over TLS, `asyncio.Protocol`",
    "datagram": "Echo of datagrams over UDP, `asyncio.DatagramProtocol`",
    "pipelined/protocol": "Echo over TCP with 16 messages in flight on each connection, `asyncio.Protocol`",
    "sock": "Echo over TCP by `loop.sock_recv_into` and `loop.sock_sendall`",
    "churn/tcp": "Connect, echo, close over TCP",
    "churn/unix": "Connect, echo, close over a UNIX socket",
    "handshakes": "Connect, handshake, echo, close over TLS",
    "fanout": "One message to 1,000 connections; per delivery",
    "slow/protocol": "Echo beside 100 slow readers, `asyncio.Protocol` with flow control",
    "slow/streams": "Echo beside 100 slow readers, asyncio streams",
    "idle/10000": "Echo with 10,000 connections, of which the others are idle, `asyncio.Protocol`",
    **{
        f"tail/{name}": f"Latency at 70 % of the baseline's maximum, {what}"
        for name, what in (
            ("protocol", "`asyncio.Protocol`"),
            ("streams", "asyncio streams"),
            ("unix", "UNIX socket"),
            ("tls", "TLS"),
        )
    },
    "gc/heap": "Latency at 50 % of the baseline's maximum, with a heap of 1,000,000 objects",
    "micro": "Callbacks, tasks and timers",
    "lifecycle": "Making and closing a loop",
    "imports": "Importing, without the interpreter's own start; with asyncio",
    "raw": "A NOP by loop.add_sqe() from 64 tasks",
    "aiocontext": "AioContext: an item of a busy poll handler among 3,200 idle ones",
    "sendfile": "loop.sendfile of 100 MiB; per MiB",
    "files": "Files; per read, file, or MiB",
    "memory": "Memory of 10,000 connections; times per connection that is accepted and answered on",
    "app": "Whole applications; per request or message",
    "polling": "Adaptive polling; per round trip, message, or tick",
}


def table(head: list[str], lines: Iterable[list[str]]) -> list[str]:
    """A Markdown table whose source is readable, too: padded columns, figures aligned to the right."""
    cells = [head, *lines]
    widths = [max(len(line[i]) for line in cells) for i in range(len(head))]
    n_text = 2
    padded = [
        [
            cell.ljust(w) if i < n_text else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ]
        for line in cells
    ]
    rule = ["-" * w if i < n_text else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return ["| " + " | ".join(line) + " |" for line in (padded[0], rule, *padded[1:])]


def _failed(row: Row, n_columns: int) -> list[str]:
    return [row.case, row.loop, "failed", *["-"] * (n_columns - 3)]


def _traffic_table(group: list[Row], baseline: str) -> list[str]:
    head = ["case", "loop", f"CPU vs {baseline}", f"rate vs {baseline}", "CPU us", "per second"]
    has_limit = any(row.share for row in group)
    has_memory = any("rss_mib" in row.values for row in group)
    head += ["share of the limit"] * has_limit + ["p50 us", "p99 us"] + ["peak RSS MiB"] * has_memory
    head += ["system calls", "busy %"]
    lines = []
    for row in group:
        if not row.n_samples:
            lines.append(_failed(row, len(head)))
            continue
        value = row.values
        lines.append(
            [
                row.case,
                row.loop,
                str(row.cpu_ratio or "-"),
                str(row.rate_ratio or "-"),
                f"{value['cpu_ns'] / 1000:.2f}",
                f"{value['rate']:,.0f}",
                *[str(row.share or "-")] * has_limit,
                *(f"{value[key]:,.0f}" if key in value else "-" for key in ("p50_us", "p99_us")),
                *[f"{value.get('rss_mib', 0):,.0f}"] * has_memory,
                "-" if row.syscalls is None else f"{row.syscalls:.2f}",
                f"{100 * value['server_busy']:.0f}/{100 * value['client_busy']:.0f}",
            ]
        )
    return table(head, lines)


def _tail_table(group: list[Row], baseline: str) -> list[str]:
    """Latencies from scheduled times, with their ranges; `client late` is what the client itself may have added."""
    head = ["case", "loop", "offered", "per second", f"CPU vs {baseline}", "CPU us"]
    head += [f"{name} us" for name in LATENCIES.values()] + ["client late p99 us", "busy %"]
    lines = []
    for row in group:
        if not row.n_samples:
            lines.append(_failed(row, len(head)))
            continue
        value = row.values
        line = [row.case, row.loop, f"{value['offered_per_s']:,.0f}", f"{value['rate']:,.0f}"]
        line += [str(row.cpu_ratio or "-"), f"{value['cpu_ns'] / 1000:.2f}"]
        for key in LATENCIES:
            span = row.latencies_us[key]
            line.append(f"{span.median:,.0f} ({span.lowest:,.0f}-{span.highest:,.0f})")
        line.append(f"{value['late_p99_us']:,.0f}")
        lines.append([*line, f"{100 * value['server_busy']:.0f}/{100 * value['client_busy']:.0f}"])
    return table(head, lines)


def _table_of(group: list[Row]) -> Callable[[list[Row], str], list[str]]:
    case = BY_NAME[group[0].case]
    if case.mode == "open":
        return _tail_table
    return _micro_table if case.kind == "micro" else _traffic_table


def _micro_table(group: list[Row], baseline: str) -> list[str]:
    more = {"gain": "vs blocking", "cpu_gain": "CPU vs read and write", "p99_us": "ticker p99 us"}
    more |= {
        "p50_us": "p50 us",
        "kept": "gain kept",
        "future_ns": "bare future ns",
        "of_allowed": "of allowed",
    }
    more |= {"turn_syscalls": "system calls of 64", "idle_gain": "gain of removing idle ones"}
    more |= COLUMNS
    more = {key: title for key, title in more.items() if any(key in row.values for row in group)}
    head = ["case", "loop", f"CPU vs {baseline}", f"rate vs {baseline}", "CPU ns", "wall ns", *more.values()]
    lines = []
    for row in group:
        if not row.n_samples:
            lines.append(_failed(row, len(head)))
            continue
        times = [f"{row.values[key]:,.0f}" for key in ("cpu_ns", "wall_ns")]
        times += [f"{row.values[key]:,.2f}" if key in row.values else "-" for key in more]
        lines.append([row.case, row.loop, str(row.cpu_ratio or "-"), str(row.rate_ratio or "-"), *times])
    return table(head, lines)


def _disturbances(document: dict[str, Any]) -> list[str]:
    """What was repeated because of other processes, and which cases are disturbed all the same."""
    most = document["settings"].get("most_foreign")
    if most is None or most >= 1:
        return []
    n_repeated = sum(case.get("repeated", 0) for case in document["cases"])
    lines = [f"* rounds repeated because other processes took more than {most:.0%} of the CPUs: {n_repeated}"]
    left = [f"{case['name']} ({case['disturbed']})" for case in document["cases"] if case.get("disturbed")]
    if left:
        lines.append(
            f"* **disturbed rounds kept, since twice the rounds did not suffice**: {', '.join(left)}"
        )
    return lines


def _head(document: dict[str, Any]) -> list[str]:
    machine, settings = document["machine"], document["settings"]
    kind = "virtual machine" if machine["is_virtual"] else "machine"
    lines = [
        "# Benchmarks",
        "",
        f"* command: `{document['command']}`",
        f"* {machine['date']}",
        f"* {kind} with {machine['n_cpus']} x {machine['cpu']}, {machine['memory_mib']} MiB",
        f"* Linux {machine['kernel']}, {machine['libc']}, {machine['python']}",
        "* loops: " + ", ".join(f"{name} {version}" for name, version in document["loops"].items()),
        f"* rounds: {settings['rounds']}; {settings['seconds']} s each, warm-up {settings['warmup_s']} s",
        f"* server on CPU {settings['cpus'][0]}, client on CPU {settings['cpus'][1]}",
    ]
    if "congestion_control" in machine:
        lines.append(f"* TCP congestion control of both sides: {machine['congestion_control']}")
    if machine["environment"]:
        lines.append("* environment: " + ", ".join(f"`{k}={v}`" for k, v in machine["environment"].items()))
    load = foreign_load(document)
    if load:
        lines.append(
            "* CPUs used by other processes in the traffic runs: "
            f"median {load.median:.2f}, most {load.highest:.2f}"
        )
    lines += _disturbances(document)
    for name, reason in document["skipped"].items():
        lines.append(f"* skipped: {name}: {reason}")
    lines += [
        "",
        "Figures are medians over the rounds. A ratio is the median of the rounds' ratios (lowest-highest in",
        f"parentheses); more than 1 is better than {document['baseline']}. CPU is that of all threads.",
    ]
    if any(limits.is_limit(loop) for loop in document["loops"]):
        lines += [
            "The share of the limit is the CPU per message of the better server in C, divided by the loop's; 1 is",
            "all that a loop can reach.",
        ]
    return lines


def _not_for(document: dict[str, Any], group: str) -> list[str]:
    loops = {
        loop: None
        for case in document["cases"]
        if BY_NAME[case["name"]].group == group
        for loop in case.get("not_for", ())
    }
    return ["", f"Not for this case: {', '.join(loops)}."] if loops else []


def _applications(document: dict[str, Any]) -> list[str]:
    """The versions of what was measured, and what was left out."""
    found: dict[str, str] = {}
    for case in document["cases"]:
        found |= case.get("versions", {})
    lines = (
        ["", f"Versions: {', '.join(f'{name} {found[name]}' for name in sorted(found))}."] if found else []
    )
    left = [f"{case['name']} ({case['left_out']})" for case in document["cases"] if case.get("left_out")]
    return [*lines, *(["", f"Left out: {'; '.join(left)}."] if left else [])]


def markdown(document: dict[str, Any]) -> str:
    """The whole report."""
    groups: dict[str, list[Row]] = {BY_NAME[case["name"]].group: [] for case in document["cases"]}
    for row in rows(document):
        groups[BY_NAME[row.case].group].append(row)
    lines = _head(document)
    for name, group in groups.items():
        lines += ["", f"## {_TITLES.get(name, name)}"]
        if group:
            lines += ["", *_table_of(group)(group, document["baseline"])]
        lines += _not_for(document, name)
        if name == "app":
            lines += _applications(document)
    failures = [(row, error) for group in groups.values() for row in group for error in row.errors]
    if failures:
        lines += ["", "## Failures", ""]
        lines += [f"* {row.loop}, {row.case}: {error}" for row, error in failures]
    return "\n".join(lines) + "\n"

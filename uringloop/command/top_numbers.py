"""What `top` computes from two answers of a process: rates, and what was slow between them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..observing.recording import Histogram


@dataclass(frozen=True, kw_only=True)
class Callback:
    """A kind of callback.  `now_s` and `rate` are per second between the answers, the rest since the start."""

    kind: str
    name: str
    where: str
    count: int
    total_s: float
    longest_s: float
    now_s: float
    rate: float


@dataclass(frozen=True, kw_only=True)
class Rates:
    """A loop between two answers; None where that is not known."""

    turns: float | None = None
    utilization: float | None = None
    lag: Histogram | None = None
    received: float | None = None
    written: float | None = None
    syscalls: float | None = None
    callbacks: list[Callback] = field(default_factory=list)


def rates(before: dict[str, Any] | None, after: dict[str, Any], seconds: float) -> Rates:
    """Of a loop's facts in two answers, so many seconds apart; before: None for the first one."""
    statistics, recorded = after["statistics"], after["recorded"]
    if statistics is None:
        return Rates()
    is_known = before is not None and before["statistics"] is not None and seconds > 0
    earlier = before["recorded"] if before is not None else None
    found: dict[str, Any] = {}
    if is_known and before is not None:
        for name, counter in (
            ("turns", "turns"),
            ("received", "bytes_received"),
            ("written", "bytes_written"),
            ("syscalls", "syscalls"),
        ):
            found[name] = (statistics[counter] - before["statistics"][counter]) / seconds
    if recorded is not None:
        found["utilization"] = _utilization(earlier, recorded)
        found["lag"] = difference(earlier and earlier["queue_delay"], recorded["queue_delay"])
        found["callbacks"] = _callbacks(earlier, recorded, seconds)
    return Rates(**found)


def _utilization(before: dict[str, Any] | None, after: dict[str, Any]) -> float | None:
    if before is None:
        return float(after["utilization"])
    run_s = after["seconds"] - before["seconds"]
    idle_s = 0.0
    for name in ("waiting", "polling"):
        idle_s += after["time"][name] - before["time"][name]
    run_s -= after["time"]["outside"] - before["time"]["outside"]
    return min(max(1 - idle_s / run_s, 0.0), 1.0) if run_s > 0 else None


def difference(before: dict[str, Any] | None, after: dict[str, Any]) -> Histogram:
    """The values that came between two histograms; the longest is then known to 6.25 %."""
    earlier = dict(map(tuple, before["buckets"])) if before is not None else {}
    buckets = tuple(
        (least_s, count - earlier.get(least_s, 0))
        for least_s, count in after["buckets"]
        if count > earlier.get(least_s, 0)
    )
    longest_s = after["longest_s"]
    if before is not None and before["longest_s"] == longest_s:
        longest_s = min(longest_s, buckets[-1][0] * 17 / 16) if buckets else 0.0
    return Histogram(
        count=sum(count for _, count in buckets),
        total_s=after["total_s"] - (before["total_s"] if before is not None else 0.0),
        longest_s=longest_s,
        buckets=buckets,
    )


def _callbacks(before: dict[str, Any] | None, after: dict[str, Any], seconds: float) -> list[Callback]:
    earlier = {_key(one): one for one in before["callbacks"]} if before is not None else {}
    found = []
    for one in after["callbacks"]:
        # one that was not among the most expensive ones is taken to be new: it shows for one interval
        last = earlier.get(_key(one), {"total_s": 0.0, "count": 0}) if before is not None else one
        found.append(
            Callback(
                kind=one["kind"],
                name=one["name"],
                where=one["where"],
                count=one["count"],
                total_s=one["total_s"],
                longest_s=one["longest_s"],
                now_s=(one["total_s"] - last["total_s"]) / seconds if seconds > 0 else 0.0,
                rate=(one["count"] - last["count"]) / seconds if seconds > 0 else 0.0,
            )
        )
    return found


def _key(callback: dict[str, Any]) -> tuple[str, str, str]:
    return callback["kind"], callback["name"], callback["where"]


@dataclass(frozen=True, kw_only=True)
class TaskGroup:
    """Tasks that are at the same place."""

    state: str
    coroutine: str
    names: list[str]
    count: int
    awaits: list[dict[str, Any]]
    waits_for: str | None


def groups(tasks: list[dict[str, Any]]) -> list[TaskGroup]:
    """The largest groups first; the running task before them."""
    found: dict[Any, list[dict[str, Any]]] = {}
    for task in tasks:
        places = tuple((one["file"], one["line"]) for one in task["awaits"])
        found.setdefault((task["state"], task["coroutine"], places), []).append(task)
    made = [
        TaskGroup(
            state=state,
            coroutine=coroutine,
            names=[task["name"] for task in members],
            count=len(members),
            awaits=members[0]["awaits"],
            waits_for=members[0]["waits_for"],
        )
        for (state, coroutine, _), members in found.items()
    ]
    return sorted(made, key=lambda one: (one.state != "running", -one.count, one.coroutine, one.names))

"""Reads the files of callgrind; pure functions.

The format is described in valgrind's manual ("Callgrind Format Specification"). A part of it is enough here: self
costs, by object file.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

SYSCALLS = "sysCount"
INSTRUCTIONS = "Ir"
_OBJECT = re.compile(r"ob=\((\d+)\)(?: (.*))?$")
_LABEL = "desc: Trigger: Client Request: "


@dataclass(frozen=True)
class Dump:
    """The counts of one file: of everything, of the object files that are ours, and system calls."""

    label: str
    instructions: int
    ours: int
    syscalls: int


class NotUnderstood(ValueError):
    """A file is not what valgrind's manual says."""


def parse(text: str, is_ours: Callable[[str], bool]) -> Dump | None:
    """The counts in *text*; None if no labelled client request made the file."""
    label, events, totals = None, [], None
    own = {INSTRUCTIONS: 0}
    total = 0
    names: dict[str, str] = {}
    is_own = False
    is_inclusive = False  # the next line of costs is that of a call, which the callee has, too
    for line in text.splitlines():
        if not line:
            continue
        first = line[0]
        if first.isdigit() or first in "+-*":
            if is_inclusive:
                is_inclusive = False
                continue
            cost = int(line.split()[1 + events.index(INSTRUCTIONS)])
            total += cost
            if is_own:
                own[INSTRUCTIONS] += cost
        elif line.startswith("calls="):
            is_inclusive = True
        elif line.startswith("ob="):
            is_own = is_ours(_name(line, names))
        elif line.startswith("cob="):
            _name(line[1:], names)
        elif line.startswith(_LABEL):
            label = line.removeprefix(_LABEL)
        elif line.startswith("events:"):
            events = line.split()[1:]
        elif line.startswith("totals:"):
            totals = [int(field) for field in line.split()[1:]]
    if not label:
        return None
    if totals is None or events[:1] != [INSTRUCTIONS] or SYSCALLS not in events:
        raise NotUnderstood(
            f"{label}: no totals, or other events than {INSTRUCTIONS} and {SYSCALLS}: {events}"
        )
    counts = dict(zip(events, totals + [0] * len(events), strict=False))
    if total != counts[INSTRUCTIONS]:
        raise NotUnderstood(f"{label}: the lines add up to {total}, the totals are {counts[INSTRUCTIONS]}")
    return Dump(label, total, own[INSTRUCTIONS], counts[SYSCALLS])


def _name(line: str, names: dict[str, str]) -> str:
    """The name in an ob= line: "(1) /lib/libc.so.6" where it comes first, then "(1)"."""
    found = _OBJECT.match(line)
    if found is None:
        raise NotUnderstood(f"no object file in {line!r}")
    number, name = found.groups()
    if name is not None:
        names[number] = name
    if number not in names:
        raise NotUnderstood(f"object file {number} has no name")
    return names[number]

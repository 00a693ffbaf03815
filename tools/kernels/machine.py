"""A kernel in QEMU: boots it with the initramfs, follows what the guest reports, ends it at the time limit."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

from architectures import Architecture

MEMORY_MIB = 1536
LOOK_S = 1.0
SHOW_S = 15
KERNEL_ARGUMENTS = "quiet panic=-1 rdinit=/init"


class Outcome(NamedTuple):
    lines: list[dict[str, Any]]  # what the guest reported
    seconds: float
    is_whole: bool  # it ran to its end


def command(
    architecture: Architecture, kernel: Path, image: Path, console: Path, report: Path
) -> list[str | Path]:
    # What the kernel does not know becomes a variable of the environment of init.
    arguments = f"console={architecture.console} KERNELS_PORT=/dev/{architecture.report} {KERNEL_ARGUMENTS}"
    return [
        *architecture.qemu,
        *("-accel", "tcg", "-smp", "1", "-m", str(MEMORY_MIB)),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-kernel", kernel, "-initrd", image, "-append", arguments),
        *("-chardev", f"file,id=console,path={console}", "-serial", "chardev:console"),
        *("-chardev", f"file,id=report,path={report}", *architecture.report_port),
    ]


def lines_of(report: Path) -> list[dict[str, Any]]:
    """The whole lines; the last one may be under way, and a panic may leave anything."""
    found = []
    for line in report.read_text(errors="replace").split("\n")[:-1]:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def progress(lines: list[dict[str, Any]]) -> str:
    if not lines:
        return "boots"
    last = lines[-1]
    if last["kind"] == "progress":
        return f"{last['suite']}: {last['done']} tests"
    return f"{last.get('suite', '')} {last['kind']}"


def run(
    name: str, architecture: Architecture, kernel: Path, image: Path, folder: Path, limit_s: float
) -> Outcome:
    """Boot, wait for the power-off; the console's output stays in the folder."""
    console, report = folder / f"{name}.console", folder / f"{name}.report"
    report.write_text("")
    begin = shown = time.monotonic()
    started = command(architecture, kernel, image, console, report)
    with subprocess.Popen(started, stdin=subprocess.DEVNULL) as child:
        try:
            while child.poll() is None and time.monotonic() - begin < limit_s:
                time.sleep(LOOK_S)
                if time.monotonic() - shown >= SHOW_S:
                    shown = time.monotonic()
                    print(f"  {name}: {shown - begin:.0f} s, {progress(lines_of(report))}", flush=True)
            if child.poll():
                print(f"  {name}: QEMU ended with status {child.returncode}", flush=True)
        finally:
            child.kill()
    lines = lines_of(report)
    return Outcome(lines, time.monotonic() - begin, any(one["kind"] == "end" for one in lines))

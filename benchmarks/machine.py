"""The conditions of the figures: machine, kernel, Python, CPU placement, and the load by other processes."""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import re
import resource
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent
REPOSITORY = PACKAGE.parent

_PR_SET_PDEATHSIG = 1


def say(text: str) -> None:
    """Progress goes to stderr: stdout belongs to reports."""
    print(text, file=sys.stderr, flush=True)


def child_environment() -> dict[str, str]:
    """The environment of measured processes, without debug switches, which would change the figures."""
    environment = dict(os.environ)
    for name in ("PYTHONASYNCIODEBUG", "PYTHONDEVMODE", "PYTHONTRACEMALLOC", "PYTHONMALLOC"):
        environment.pop(name, None)
    return environment


def choose_cpus() -> tuple[int, int]:
    """A CPU for the server and one for the client; the same one if there is only one."""
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[1] if len(usable) > 1 else usable[0]


def congestion_control() -> str:
    """The TCP congestion control of both sides: Linux's default, cubic, unless TCP_CONGESTION names another.

    Machines set to bbr pace their sends, also over loopback, with a timer per segment; the benchmark would then mostly
    measure that timer.  Setting one that the machine does not allow to all users needs root; otherwise the machine's
    own is used, and the report names it.
    """
    wanted = os.environ.get("TCP_CONGESTION", "cubic")
    with socket.socket() as probe:
        try:
            probe.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, wanted.encode())
        except OSError:
            pass  # not available, or not permitted
        name = probe.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    return name.rstrip(b"\0").decode()


def set_congestion_control(fd: int) -> None:
    """Set it for a TCP socket; sockets accepted by a listening one inherit it."""
    with socket.socket(fileno=os.dup(fd)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion_control().encode())


def settle_in(cpu: int, lifetime_s: int) -> None:
    """Prepare a measured process: pinned, with a higher priority than other work, and certain to end.

    The process ends by the default action of SIGALRM, or of SIGTERM when its parent dies: it never has to wake up
    to check a deadline.
    """
    os.sched_setaffinity(0, {cpu})
    try:
        os.nice(-15)
        # With scheduler autogroups this only has an effect within the session, which has its own nice value.
        os.setsid()
        Path("/proc/self/autogroup").write_text("-15")
    except OSError:
        pass  # Not root, or no autogroups: the figures are only noisier.
    signal.alarm(lifetime_s)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def busy_cpu_ns(cpus: Iterable[int]) -> int:
    """CPU time used so far by all processes on these CPUs, including stolen time (10 ms resolution)."""
    wanted = {f"cpu{cpu}" for cpu in cpus}
    ticks = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name in wanted:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
            ticks += user + nice + system + irq + softirq + steal
    return ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def children_cpu_ns() -> int:
    """CPU time of this process and of all its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time_ns() + int((children.ru_utime + children.ru_stime) * 1e9)


def process_cpu_ns(pid: int) -> int:
    """CPU time of all threads of *pid*, read from outside."""
    # clock_getcpuclockid(3), which Python only has for threads: ~pid << 3 | CPUCLOCK_SCHED.
    return time.clock_gettime_ns((~pid << 3) | 2)


def peak_rss_mib(pid: int) -> float:
    """The most memory that *pid* has had resident so far."""
    found = re.search(r"^VmHWM:\s*(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found.group(1)) / 1024 if found else 0.0


def mount_tracefs() -> None:
    """Mount tracefs, as perf does: counting system calls needs the id of a tracepoint, and mounting needs root."""
    if os.geteuid() == 0 and not os.path.exists("/sys/kernel/tracing/events"):
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(b"nodev", b"/sys/kernel/tracing", b"tracefs", 0, None) == 0:
            say("mounted tracefs on /sys/kernel/tracing, to count system calls")


def describe() -> dict[str, Any]:
    """The machine for the head of a report."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return {
        "cpu": model.group(1) if model else platform.machine(),
        "n_cpus": os.cpu_count(),
        "is_virtual": "hypervisor" in cpuinfo,
        "memory_mib": int(memory.group(1)) // 1024 if memory else None,
        "kernel": platform.release(),
        "libc": " ".join(platform.libc_ver()),
        "python": f"{sys.implementation.name} {platform.python_version()}, {platform.python_compiler()}",
        "environment": {k: v for k, v in os.environ.items() if k.startswith(("URINGLOOP_", "MALLOC_"))},
        "congestion_control": congestion_control(),
        "load_average": os.getloadavg(),
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


@contextmanager
def one_at_a_time(max_wait_s: float = 600) -> Iterator[None]:
    """Keep two benchmark runs of one user from disturbing each other; after the wait, continue with a note."""
    path = Path(tempfile.gettempdir()) / f"uringloop-benchmarks-{os.getuid()}.lock"
    with open(path, "w") as file:
        give_up_s = time.monotonic() + max_wait_s
        is_reported = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up_s:
                    say("note: another benchmark run still holds the lock; continuing at the same time")
                    break
                if not is_reported:
                    say(f"waiting for another benchmark run to end (at most {max_wait_s:.0f} s)")
                    is_reported = True
                time.sleep(0.5)
        yield

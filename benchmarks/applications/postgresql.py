"""A PostgreSQL with the tables of TechEmpower's tests, on a UNIX socket in a temporary folder.

It is started at the first use and ended with this process. Nothing is written to be kept: no fsync.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.client import SampleFailed
from benchmarks.machine import process_cpu_ns, say

START_TIMEOUT_S = 60
USER = "benchmark"
OVERFLOW_UID = 65534  # each system has this user, who owns nothing
_PR_SET_PDEATHSIG = 1

# 10,000 rows of numbers, and twelve of text, among them one that HTML must escape and one that is not ASCII.
TEXTS = (
    "A computer scientist is someone who fixes things that are not broken.",
    "The last decimal place is the one that differs.",
    "A list is only as strong as its weakest link.",
    "Any program that runs right is obsolete.",
    "Computers make very fast, very accurate mistakes.",
    "Every instruction counts, except those that are not executed.",
    "A feature is a bug with seniority.",
    "The fastest request is the one that is not made.",
    "A queue hides what a counter shows.",
    "There are two hard things: names, caches, and off-by-one errors.",
    '<script>alert("This should not be displayed in an alert box.");</script>',
    "フレームワークのベンチマーク",
)
SCHEMA = (
    "CREATE TABLE world (id integer PRIMARY KEY, randomnumber integer NOT NULL) WITH (fillfactor = 50);",
    "INSERT INTO world SELECT n, 1 + floor(random() * 9999) FROM generate_series(1, 10000) n;",
    "CREATE TABLE fortune (id integer PRIMARY KEY, message varchar(2048) NOT NULL);",
    *(f"INSERT INTO fortune VALUES ({number}, '{text}');" for number, text in enumerate(TEXTS, 1)),
    "ANALYZE;",
)
OPTIONS = {
    "listen_addresses": "",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "max_connections": "50",
}


def program(name: str) -> str | None:
    """Where it is: Debian does not put it on PATH."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *map(str, folders)]))


def missing() -> str | None:
    """Why it cannot be used, if so."""
    absent = [name for name in ("initdb", "postgres") if program(name) is None]
    return f"{' and '.join(absent)} not installed (Debian: postgresql)" if absent else None


def _unprivileged() -> dict[str, Any]:
    """Options for subprocess: it refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    try:
        user = pwd.getpwnam("postgres")
    except KeyError:
        user = pwd.getpwuid(OVERFLOW_UID)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _settle(cpu: int) -> Callable[[], None]:
    def settle() -> None:
        os.setsid()
        os.sched_setaffinity(0, {cpu})
        # A fast shutdown, should the benchmark die.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0)

    return settle


def _raise_priority(pid: int) -> None:
    """That of the other measured processes, from outside: its user may not."""
    try:
        os.setpriority(os.PRIO_PROCESS, pid, -15)
        Path(f"/proc/{pid}/autogroup").write_text("-15")
    except OSError:
        pass  # as in settle_in()


class Database:
    """A running server; `environment` is what clients need to find it."""

    def __init__(self, cpu: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="benchmark-"))
        self.environment = {"PGHOST": str(self.folder), "PGUSER": USER, "PGDATABASE": "postgres"}
        self.process: subprocess.Popen | None = None
        atexit.register(self.close)
        user = _unprivileged()
        if user:
            os.chown(self.folder, user["user"], user["group"])
        self._make(user)
        self._start(cpu, user)

    def _make(self, user: dict[str, Any]) -> None:
        say("making a database")
        data = str(self.folder / "data")
        initdb = [
            program("initdb"),
            "-D",
            data,
            "-U",
            USER,
            "-A",
            "trust",
            "-N",
            "-E",
            "UTF8",
            "--locale",
            "C",
        ]
        single = [program("postgres"), "--single", "-D", data, "-c", "fsync=off", "postgres"]
        for command, text in ((initdb, ""), (single, "\n".join(SCHEMA) + "\n")):
            try:
                done = subprocess.run(
                    command,
                    input=text,
                    capture_output=True,
                    text=True,
                    timeout=START_TIMEOUT_S,
                    cwd=self.folder,
                    **user,
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise SampleFailed(f"no database: {error}") from None
            if done.returncode or "ERROR" in done.stderr:
                raise SampleFailed(f"{command[0]}: {done.stderr.strip()[-300:]}")

    def _start(self, cpu: int, user: dict[str, Any]) -> None:
        command = [program("postgres"), "-D", str(self.folder / "data"), "-k", str(self.folder)]
        for name, value in OPTIONS.items():
            command += ["-c", f"{name}={value}"]
        with open(self.folder / "log", "wb") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                preexec_fn=_settle(cpu),
                **user,
            )
        _raise_priority(self.process.pid)
        status = self.folder / "data" / "postmaster.pid"
        give_up_s = time.monotonic() + START_TIMEOUT_S
        while not (status.exists() and status.read_text().rstrip().endswith("ready")):
            if self.process.poll() is not None or time.monotonic() > give_up_s:
                raise SampleFailed(f"PostgreSQL does not start: {(self.folder / 'log').read_text()[-300:]}")
            time.sleep(0.05)

    def cpu_ns(self) -> int:
        """CPU time of the server and of its present children; those of a client end with it."""
        assert self.process is not None
        total = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(stat.read_text().rpartition(")")[2].split()[1])
                pid = int(stat.parent.name)
                if self.process.pid in (pid, parent):
                    total += process_cpu_ns(pid)
            except (OSError, ValueError):
                pass  # it has ended
        return total

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


@functools.cache
def database(cpu: int) -> Database:
    """The one of this process; raises SampleFailed if it does not start."""
    return Database(cpu)

"""Runs a row on one monitor: starts its command, drives traffic, ends it, and looks for complaints."""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from typing import Any

from . import traffic
from .environments import Environment
from .rows import PROGRAMS, Row

# Lines of stderr that fail a row.
COMPLAINTS = re.compile(
    r"Traceback|\w(Error|Exception|Warning)\b|^(ERROR|WARNING)|never awaited|unclosed|leaked"
)
# Policies end with Python 3.16; until then they are the way into programs that know no other.
EXPECTED = [r"uringloop\.install\(\) is deprecated"]
END_TIMEOUT_S = 20


class RowError(Exception):
    """A row that does not do what it should."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Run:
    """One process of a row, in a temporary folder."""

    PATIENCE_S = 20  # after its end, for helpers

    def __init__(self, row: Row, environment: Environment, monitor: str, services: dict[str, str]) -> None:
        self.row, self.monitor = row, monitor
        self.port = free_port()
        self.folder = tempfile.TemporaryDirectory(prefix="integration-")
        self.path = pathlib.Path(self.folder.name)
        self.report = self.path / "report"
        self.stderr = self.path / "stderr"
        self.stdout = self.path / "stdout"
        if row.program and row.command:
            shutil.copy(PROGRAMS / row.program, self.path)  # for commands that look around it, as pytest does
        for name, text in row.files.items():
            (self.path / name).write_text(text)
        self.settings = {
            "PATH": f"{environment.bin}:/usr/bin:/bin",
            "HOME": str(self.path),
            "LANG": "C.UTF-8",
            "TERM": "xterm",
            "PYTHONPATH": f"{PROGRAMS}:{self.path}",
            "PYTHONUNBUFFERED": "1",
            "URINGLOOP_FDMON": monitor,
            "INTEGRATION_REPORT": str(self.report),
            "PORT": str(self.port),
            **services,
            **row.environment,
        }

    def start(self) -> None:
        with self.stdout.open("wb") as stdout, self.stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                self.row.full_command(self.port),
                cwd=self.path,
                env=self.settings,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )

    def drive(self) -> None:
        """Traffic, and then the signal that ends the server; or only wait for the program's own end."""
        if not self.row.is_server:
            self.wait(self.row.timeout_s)
            if self.process.returncode != 0:
                raise RowError(f"exit status {self.process.returncode}")
            return
        traffic.wait_for_port(self.port, self.row.timeout_s, lambda: self.process.poll() is None)
        self.wait_for_processes()
        for kind in self.row.traffic:
            traffic.KINDS[kind](self.port)
        if self.process.poll() is not None:
            raise RowError(f"the server ended by itself, with status {self.process.returncode}")
        self.process.send_signal(getattr(signal, self.row.end))
        self.wait(END_TIMEOUT_S)
        if self.process.returncode not in self.row.exits:
            raise RowError(f"after {self.row.end}: exit status {self.process.returncode}")

    def reports(self) -> list[dict[str, Any]]:
        return (
            [json.loads(line) for line in self.report.read_text().splitlines()]
            if self.report.exists()
            else []
        )

    def n_processes(self) -> int:
        return len({seen["process"] for seen in self.reports()})

    def wait_for_processes(self) -> None:
        """Workers share the port: connections succeed when the first of them listens."""
        deadline = time.monotonic() + END_TIMEOUT_S
        while self.row.n_processes > 1 and self.n_processes() < self.row.n_processes:
            if time.monotonic() > deadline:
                raise RowError(f"{self.n_processes()} workers instead of {self.row.n_processes}")
            time.sleep(0.05)

    def wait(self, timeout_s: int) -> None:
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise RowError(f"still running after {timeout_s} s") from None

    def check(self) -> None:
        wrong = [
            seen
            for seen in self.reports()
            if not seen["loop"].startswith("uringloop.") or seen["fdmon"] != self.monitor
        ]
        if wrong:
            raise RowError(f"another loop: {wrong}")
        if self.n_processes() < self.row.n_processes:
            raise RowError(
                f"{self.n_processes()} processes reported their loop instead of {self.row.n_processes}"
            )
        expected = [re.compile(pattern) for pattern in EXPECTED + self.row.allows]
        for line in self.stderr.read_text(errors="replace").splitlines():
            if COMPLAINTS.search(line) and not any(pattern.search(line) for pattern in expected):
                raise RowError(f"on stderr: {line}")

    def has_processes(self) -> bool:
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def is_gone_within(self, timeout_s: float) -> bool:
        """Helpers of multiprocessing end a little later than the main process."""
        deadline = time.monotonic() + timeout_s
        while self.has_processes():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def close(self) -> None:
        """End what is left of the process group; the folder goes."""
        left = self.has_processes()
        if left:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.folder.cleanup()

    def outputs(self) -> str:
        texts = [path.read_text(errors="replace").strip()[-12000:] for path in (self.stdout, self.stderr)]
        return "\n".join(text for text in texts if text)


def run_row(row: Row, environment: Environment, monitor: str, services: dict[str, str]) -> str:
    """ "" if all is well, or what is wrong, with the end of the outputs."""
    run = Run(row, environment, monitor, services)
    try:
        run.start()
        try:
            run.drive()
            run.check()
        except (RowError, traffic.TrafficError, OSError, ValueError) as error:
            if run.has_processes():
                os.killpg(run.process.pid, signal.SIGABRT if row.end == "SIGABRT" else signal.SIGTERM)
                try:
                    run.process.wait(2)
                except subprocess.TimeoutExpired:
                    pass  # close() kills it
            return f"{type(error).__name__}: {error}\n{run.outputs()}"
        return "" if run.is_gone_within(run.PATIENCE_S) else "processes of it are left"
    finally:
        run.close()

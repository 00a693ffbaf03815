"""The demo's processes: servers under `serve.py`, and the load client compiled from `http_load.c`.

Every wait here has a limit, and a server stops by itself when the demo's end of its stdin is closed.
"""

import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent / "build" / "demo"
START_TIMEOUT_S = 30.0
REPORT_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 15.0
# uvicorn ends by raising again the signal that stopped it.
ORDERLY_EXITS = (0, -15)


class DemoError(Exception):
    """An error that the demo has found; the text is shown to the user."""


def say(text: str = "") -> None:
    """Print progress; flushed, so that it is seen at once in a pipe, too."""
    print(text, flush=True)


def physical_neighbours(cpu: int) -> set[int]:
    """The hardware threads of a core, which server and client should not share."""
    path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    try:
        parts = path.read_text().strip().split(",")
    except OSError:
        return {cpu}
    ends = [part.split("-") for part in parts]
    return {number for end in ends for number in range(int(end[0]), int(end[-1]) + 1)}


def choose_cpus() -> tuple[int, int]:
    """A CPU for the server and one for the client, on different cores if possible; (-1, -1) with a single CPU."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        return -1, -1
    server = usable[0]
    apart = [cpu for cpu in usable[1:] if cpu not in physical_neighbours(server)]
    return server, (apart or usable[1:])[0]


class Server:
    """One application in one process on one loop."""

    def __init__(self, app: str, loop: str, via: str, cpu: int) -> None:
        self.name = f"{app.partition(':')[0]} on {loop} ({via})"
        self._unread = b""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        command = [sys.executable, str(HERE / "serve.py"), "--control", "--loop", loop, "--via", via]
        self.process = subprocess.Popen(
            [*command, "--cpu", str(cpu), app],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        try:
            self.first_report = self._answer(START_TIMEOUT_S)
        except DemoError:
            self.process.kill()
            self.process.wait(STOP_TIMEOUT_S)
            raise
        self.port: int = self.first_report["port"]

    def report(self) -> dict[str, Any]:
        """Get a report from the running loop."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(b"report\n")
            self.process.stdin.flush()
        except OSError as error:
            raise DemoError(f"{self.name}: the server is gone: {self.errors()}") from error
        return self._answer(REPORT_TIMEOUT_S)

    def stop(self) -> None:
        """End the server in the orderly way; raises DemoError if that fails."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            status = self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(STOP_TIMEOUT_S)
            raise DemoError(
                f"{self.name}: did not stop within {STOP_TIMEOUT_S:.0f} s: {self.errors()}"
            ) from None
        if status not in ORDERLY_EXITS or "Traceback" in self.errors():
            raise DemoError(f"{self.name}: ended with status {status}: {self.errors()}")

    def kill(self) -> None:
        """For cleaning up after an error; harmless after stop()."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(STOP_TIMEOUT_S)

    def errors(self) -> str:
        """The server's stderr; only its end if it is long."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")[-3000:] or "(nothing on stderr)"

    def _answer(self, timeout_s: float) -> dict[str, Any]:
        """The next JSON line from the server."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise DemoError(f"{self.name}: no answer within {timeout_s:.0f} s: {self.errors()}")
                piece = os.read(self.process.stdout.fileno(), 65536)
                if not piece:
                    raise DemoError(f"{self.name}: the server ended: {self.errors()}")
                self._unread += piece
        line, _, self._unread = self._unread.partition(b"\n")
        return json.loads(line)


def require_wanted(server: Server, report: dict[str, Any]) -> None:
    """Fail if the server does not run on the chosen loop."""
    if not report["is_wanted"]:
        raise DemoError(f"{server.name}: the wrong loop serves: {report['loop']}")


def build_load_client() -> Path:
    """Compile the load client unless it is up to date."""
    source, program = HERE / "http_load.c", BUILD / "http_load"
    if program.exists() and program.stat().st_mtime >= source.stat().st_mtime:
        return program
    BUILD.mkdir(parents=True, exist_ok=True)
    compiler = os.environ.get("CC", "cc").split()
    command = [*compiler, "-O2", "-o", str(program), str(source)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except OSError as error:
        raise DemoError(f"cannot run the C compiler {compiler[0]}: {error}") from error
    if done.returncode != 0:
        raise DemoError(f"{' '.join(command)} failed:\n{done.stderr}")
    return program


def write_plan(path: Path, exchanges: list[tuple[bytes, bytes]]) -> None:
    """Write the file with the load client's requests and the expected bodies."""
    with path.open("wb") as file:
        for request, body in exchanges:
            file.write(b"%d %d\n" % (len(request), len(body)) + request + body)


def run_load(
    program: Path, port: int, plan: Path, connections: int, seconds: float, cpu: int
) -> dict[str, Any]:
    """One run of the load client; its counts include the warm-up."""
    warmup_s = min(0.2, seconds / 4)
    numbers = (port, plan, connections, round(warmup_s * 1000), round(seconds * 1000), cpu)
    command = [str(program), *map(str, numbers)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 30, check=False)
    except subprocess.TimeoutExpired:
        raise DemoError(f"the load client did not finish: {' '.join(command)}") from None
    if done.returncode != 0:
        raise DemoError(f"the load client failed: {done.stderr.strip()} {done.stdout.strip()}")
    return json.loads(done.stdout)

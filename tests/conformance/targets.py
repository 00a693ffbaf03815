"""The loops that a suite can run on, and the environment variables that install one in a worker."""

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

INJECT = Path(__file__).resolve().parent / "inject"
LOOPS = ("uringloop", "asyncio", "uvloop")
MONITORS = ("io_uring", "epoll", "poll")


class Unavailable(Exception):
    """A suite, a loop or a monitor is not available on this machine or interpreter; the text gives the reason."""


@dataclass(frozen=True)
class Target:
    """The loop that a worker runs on and, where it has several, its monitor."""

    loop: str
    monitor: str | None = None
    folder: str | None = None  # the folder from which the loop is imported

    @property
    def label(self) -> str:
        return f"{self.loop}/{self.monitor}" if self.monitor else self.loop

    def environment(self, path: Iterable[str] = ()) -> dict[str, str]:
        """The environment of workers, with `path` first in PYTHONPATH.

        Variables that would influence the tests are removed.
        """
        env = {
            **os.environ,
            "CONFORMANCE_LOOP": self.loop,
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONHASHSEED": "0",
        }
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (*path, str(INJECT), self.folder)))
        for name in (
            "PYTEST_ADDOPTS",
            "PYTHONASYNCIODEBUG",
            "PYTHONDEVMODE",
            "PYTHONWARNINGS",
            "URINGLOOP_FDMON",
        ):
            env.pop(name, None)
        if self.monitor:
            env["URINGLOOP_FDMON"] = self.monitor
        return env


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "uringloop" / "conformance"


def _folder_of_nothing_but(package: Path) -> Path:
    """A folder from which `package` can be imported, but nothing else in its parent folder."""
    name = hashlib.sha256(str(package).encode()).hexdigest()[:16]
    link = cache_folder() / "loops" / name / package.name
    link.parent.mkdir(parents=True, exist_ok=True)
    try:
        link.symlink_to(package)
    except FileExistsError:
        pass  # from an earlier run: its name contains the target
    return link.parent


def find(loop: str, monitor: str | None = None) -> Target:
    """The target for a loop that this process could import, without importing it.  Raises Unavailable."""
    if loop == "asyncio":
        return Target(loop)
    spec = importlib.util.find_spec(loop)
    if spec is None or spec.origin is None:
        raise Unavailable(f"{loop} cannot be imported by {sys.executable}")
    return Target(loop, monitor, str(_folder_of_nothing_but(Path(spec.origin).resolve().parent)))


def describe(target: Target) -> dict:
    """Make a loop in a worker.  Raises Unavailable, for instance if the kernel refuses io_uring."""
    done = subprocess.run(
        [sys.executable, "-m", "conformance_worker"],
        env=target.environment(),
        cwd=tempfile.gettempdir(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise Unavailable(f"{target.label}: {lines[-1] if lines else f'status {done.returncode}'}")
    facts = json.loads(done.stdout)
    if target.monitor and facts["monitor"] not in (None, target.monitor):
        raise Unavailable(f"{target.label}: the loop chose the monitor {facts['monitor']}")
    return facts

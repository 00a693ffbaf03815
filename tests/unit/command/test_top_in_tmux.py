"""The screen of `top`, in a real terminal: tmux drives it, and its text is compared."""

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import time

import pytest
from support.view_tools import BLOCKED, HEALTHY, environment, service

pytest.importorskip("rich", reason="the screen needs rich")

TMUX = shutil.which("tmux")
POLL_S = 0.05

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(TMUX is None, reason="tmux is not installed"),
]


class Terminal:
    """A tmux server of its own, with one window."""

    def __init__(self, folder, size):
        self.socket = str(folder / "tmux")
        self.size = size
        self.environment = environment(folder, TERM="xterm-256color", LC_ALL="C.UTF-8")
        self.environment.pop("TMUX", None)

    def tmux(self, *words):
        done = subprocess.run(
            [TMUX, "-f", "/dev/null", "-S", self.socket, *words],
            env=self.environment, capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, *arguments):
        command = shlex.join([sys.executable, "-m", "uringloop", "top", *map(str, arguments)])
        width, height = self.size
        # its status stays on the screen once it has ended
        self.tmux(
            "new-session", "-d", "-x", str(width), "-y", str(height), f"{command}; echo status $?; exec cat"
        )

    def press(self, key):
        self.tmux("send-keys", key)

    def wait_for(self, *texts, seconds=30):
        """The screen, once it shows all of these."""
        deadline = time.monotonic() + seconds
        while True:
            shown = self.tmux("capture-pane", "-p")
            if all(text in shown for text in texts):
                return shown
            assert time.monotonic() < deadline, f"{texts} are not on the screen:\n{shown}"
            time.sleep(POLL_S)

    def wait_for_no(self, text, seconds=30):
        deadline = time.monotonic() + seconds
        while text in (shown := self.tmux("capture-pane", "-p")):
            assert time.monotonic() < deadline, f"{text} stays on the screen:\n{shown}"
            time.sleep(POLL_S)
        return shown


@pytest.fixture
def terminal(tmp_path, request):
    made = Terminal(tmp_path, getattr(request, "param", (120, 40)))
    yield made
    with contextlib.suppress(AssertionError):
        made.tmux("kill-server")


@pytest.mark.parametrize("terminal", [(120, 40), (80, 24)], indirect=True)
def test_a_healthy_service(terminal, tmp_path):
    with service(HEALTHY, tmp_path) as process:
        terminal.start(process.pid, "--interval", "0.2")
        shown = terminal.wait_for(f"pid {process.pid}", "waiting", "task answer", "cache waiting", "q quit")
        row = next(line for line in shown.splitlines() if line.startswith(">"))
        assert row.split()[-2:] == ["6", "8"]  # connections, tasks
        assert "BLOCKED" not in shown
        terminal.press("s")
        terminal.wait_for("callbacks, by total")
        terminal.press("t")
        terminal.wait_for_no("callbacks, by")
        terminal.wait_for("3x waiting: answer")
        terminal.press("t")
        terminal.press("k")
        terminal.wait_for_no("callbacks, by")
        terminal.press("k")
        terminal.press("f")
        terminal.wait_for("FROZEN", "callbacks, by total")
        terminal.press("f")
        terminal.wait_for_no("FROZEN")
        terminal.press("q")
        assert "q quit" not in terminal.wait_for("status 0")


def test_a_blocked_service(terminal, tmp_path):
    with service(BLOCKED, tmp_path) as process:
        terminal.start(process.pid, "--interval", "0.2")
        terminal.wait_for(
            "1 MainThread", "blocked", "loop 1 is BLOCKED", "in the task request 7",
            "<string>:8  read_a_slow_disk", "<string>:11  handle_request",
            "audit waiting: audit_log",
        )  # fmt: skip
        terminal.press("q")
        terminal.wait_for("status 0")


def test_a_service_that_is_stopped_and_one_that_ends(terminal, tmp_path):
    with service(HEALTHY, tmp_path) as process:
        terminal.start(process.pid, "--interval", "0.2")
        terminal.wait_for("task answer")
        os.kill(process.pid, 19)  # SIGSTOP: as a process that keeps the GIL
        terminal.wait_for("NO ANSWER for", "py-spy dump")
        os.kill(process.pid, 18)
        terminal.wait_for_no("NO ANSWER")
        process.kill()
        terminal.wait_for("has ended")
        terminal.press("C-c")
        terminal.wait_for("status 0")

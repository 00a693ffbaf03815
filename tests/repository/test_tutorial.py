"""The tutorial, as a reader follows it: its files are written, its commands run, and they print what it shows."""

import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys

import pytest

import uringloop

from .documents import ROOT

BLOCK = re.compile(r"(?:^`([\w.]+\.py)`[^\n]*\n\n)?^```(python|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
BIN = pathlib.Path(sys.executable).parent
PATIENCE_S = 60

pytestmark = pytest.mark.slow


def blocks():
    """(file name, language, text) of each block, in their order."""
    return [match.groups() for match in BLOCK.finditer((ROOT / "docs" / "tutorial.md").read_text())]


def commands(text):
    """[(command, expected lines)] of a console block."""
    pieces = re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]
    return [(piece.split("\n")[0], piece.split("\n")[1:-1]) for piece in pieces]


def alike(lines):
    """Numbers, times and widths do not count."""
    return [re.sub(r"[\d.]+", "N", " ".join(line.split())) for line in lines if line.strip()]


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return str(listener.getsockname()[1])


class Reader:
    """Follows the tutorial in a folder."""

    def __init__(self, folder):
        self.folder, self.port, self.server = folder, free_port(), None
        self.env = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}

    def start_server(self, command, expected):
        self.server = subprocess.Popen(
            [*command.split(), "--port", self.port], cwd=self.folder, env=self.env, stderr=subprocess.PIPE
        )
        lines = [self.server.stderr.readline().decode() for _ in expected]
        assert alike(lines) == alike(expected)

    def run(self, command, expected):
        command = command.replace(".venv/bin/", f"{BIN}/").replace(":8000", f":{self.port}")
        if "uvicorn" in command:
            self.start_server(command, expected)
            return
        done = subprocess.run(
            command.replace("curl ", "curl --no-progress-meter "), shell=True, cwd=self.folder, env=self.env,
            capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert alike(done.stdout.split("\n")) == alike(expected), command

    def end(self):
        if self.server:
            self.server.send_signal(signal.SIGINT)
            self.server.communicate(timeout=PATIENCE_S)


def why_not():
    loop = uringloop.new_event_loop()
    loop.close()
    if loop.fdmon != "io_uring":
        return "the tutorial shows the output of io_uring"
    return None if shutil.which("curl") else "curl is not installed"


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_the_tutorial_works_as_it_is_written(tmp_path):
    pytest.importorskip("fastapi")
    reader = Reader(tmp_path)
    n_commands = 0
    try:
        for name, language, text in blocks():
            if language == "python":
                (tmp_path / name).write_text(text)
                continue
            for command, expected in commands(text):
                reader.run(command, expected)
                n_commands += 1
    finally:
        reader.end()
    assert n_commands >= 8


def test_the_files_of_the_tutorial_are_found():
    names = [name for name, language, _ in blocks() if language == "python"]
    assert names == ["hello.py", "service.py", "when.py", "conftest.py", "test_service.py"]

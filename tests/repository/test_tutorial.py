"""The README and the tutorial, as a reader follows them: the files are written, the commands print what is shown."""

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


def blocks(path):
    """(file name, language, text) of each block, in their order."""
    return [match.groups() for match in BLOCK.finditer(path.read_text())]


def commands(text):
    """[(command, expected lines)] of a console block."""
    pieces = re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]
    return [(piece.split("\n")[0], piece.split("\n")[1:-1]) for piece in pieces]


def alike(lines):
    """Numbers, times and widths do not count."""
    return [re.sub(r"[\d.]+", "N", " ".join(line.split())) for line in lines if line.strip()]


def assert_shown(lines, expected, command):
    lines = [line.rstrip() for line in lines if line.strip()]
    if re.search("pytest|when.py", command):  # it prints a time
        lines, expected = alike(lines), alike(expected)
    assert lines == expected, command


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return str(listener.getsockname()[1])


class Reader:
    """Follows the tutorial in a folder."""

    def __init__(self, folder):
        self.folder, self.port, self.server = folder, free_port(), None
        self.env = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}

    def start_server(self, command, expected):
        """Start it, and wait for the last of the lines; a document may leave out some before it."""
        self.server = subprocess.Popen(
            [*command.split(), "--port", self.port], cwd=self.folder, env=self.env, stderr=subprocess.PIPE
        )
        lines = []
        while not lines or alike(lines[-1:]) != alike(expected[-1:]):
            lines.append(self.server.stderr.readline().decode())
            assert lines[-1], f"the server has ended: {lines}"
        assert [line for line in alike(lines) if line in alike(expected)] == alike(expected)

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
        assert_shown(done.stdout.split("\n"), expected, command)

    def end(self):
        if self.server:
            self.server.send_signal(signal.SIGINT)
            self.server.communicate(timeout=PATIENCE_S)


def why_not():
    loop = uringloop.new_event_loop()
    loop.close()
    if loop.fdmon != "io_uring":
        return "the documents show the output of io_uring"
    return None if shutil.which("curl") else "curl is not installed"


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
@pytest.mark.parametrize(("name", "n_commands"), [("README.md", 2), ("docs/tutorial.md", 8)])
def test_a_document_works_as_it_is_written(name, n_commands, tmp_path):
    pytest.importorskip("fastapi")
    reader, n_run = Reader(tmp_path), 0
    try:
        for file, language, text in blocks(ROOT / name):
            if language == "python" and file:
                (tmp_path / file).write_text(text)
            elif language == "console":
                for command, expected in commands(text):
                    reader.run(command, expected)
                    n_run += 1
    finally:
        reader.end()
    assert n_run == n_commands


def test_the_files_of_the_tutorial_are_found():
    names = [file for file, language, _ in blocks(ROOT / "docs" / "tutorial.md") if language == "python"]
    assert names == ["hello.py", "service.py", "when.py", "conftest.py", "test_service.py"]

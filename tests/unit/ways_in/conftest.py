"""Interpreters that start as if the wheel was installed: site reads uringloop.pth."""

import os
import pathlib
import subprocess
import sys
import textwrap

import pytest

ROOT = pathlib.Path(__file__).parents[3]


class Interpreter:
    """Runs Python in processes of its own, in an empty folder."""

    def __init__(self, folder):
        self.folder = folder / "run"
        self.folder.mkdir()
        site = folder / "site"
        site.mkdir()
        # The tests run in a tree that is built in place, where no .pth is installed: site.py reads it here instead.
        (site / "sitecustomize.py").write_text(f"import site\nsite.addsitedir({str(ROOT)!r})\n")
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("URINGLOOP_", "PYTHON"))
        }
        packages = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        self.environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(site), *packages]))
        self.environment["PYTHONWARNINGS"] = "error"
        self.environment["PYTHONFAULTHANDLER"] = "1"
        self.environment["PATH"] = os.pathsep.join([str(folder / "bin"), os.path.dirname(sys.executable)])

    @staticmethod
    def packages():
        """The path on which a Python without its site-packages finds uringloop and what that needs."""
        return [str(ROOT), *(path for path in sys.path if path.endswith("-packages"))]

    def run(self, *arguments, seconds=40, **variables):
        return subprocess.run(
            [sys.executable, *arguments],
            env={**self.environment, **variables},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def out(self, *arguments, **variables):
        """What a process printed that ended well and wrote nothing to stderr."""
        done = self.run(*arguments, **variables)
        assert (done.returncode, done.stderr) == (0, ""), f"stdout: {done.stdout}"
        return done.stdout

    def script(self, source, **variables):
        return self.out("-c", textwrap.dedent(source), **variables)

    def write(self, name, source):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source))
        return path


@pytest.fixture
def python(tmp_path):
    return Interpreter(tmp_path)

"""A GLib that is missing, too old, or not PyGObject's: separate processes with a fake PyGObject."""

import os
import shutil
import subprocess
import sys
import textwrap

import pytest

FAKE_PYGOBJECT = """
import sys, types

class MainContext:
    __slots__ = ("pointer",)  # where PyGObject keeps the GMainContext *

    @classmethod
    def default(cls):
        made = cls()
        made.pointer = made
        return made

gi, repository = types.ModuleType("gi"), types.ModuleType("gi.repository")
repository.GLib = types.SimpleNamespace(MainContext=MainContext)
sys.modules["gi"], sys.modules["gi.repository"] = gi, repository
import uringloop.glib
for make in (uringloop.glib.new_event_loop, lambda: uringloop.glib.attach(uringloop.AioContext("poll"))):
    for _ in range(2):
        try:
            make()
        except ImportError as error:
            print(error)
"""


def messages(library_folder, script=FAKE_PYGOBJECT):
    """Make four attempts in a process; return their error messages."""
    environment = dict(os.environ, LD_LIBRARY_PATH=str(library_folder))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)],
        timeout=20,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_missing_glib_is_reported(tmp_path):
    (tmp_path / "libglib-2.0.so.0").write_bytes(b"")
    message = "uringloop.glib needs GLib 2.36 or newer: libglib-2.0.so.0 was not found"
    assert messages(tmp_path) == [message] * 4


@pytest.mark.skipif(shutil.which("gcc") is None, reason="makes a library with gcc")
def test_a_glib_without_the_needed_functions_is_reported(tmp_path):
    library = tmp_path / "libglib-2.0.so.0"
    source = "void *g_main_context_default(void) { return 0; }"
    command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)]
    subprocess.run(command, input=source, text=True, check=True, timeout=60)
    message = "uringloop.glib needs GLib 2.36 or newer: g_main_context_ref was not found"
    assert messages(tmp_path) == [message] * 4


def test_a_pygobject_with_another_glib_is_reported(tmp_path):
    pytest.importorskip("gi", reason="PyGObject is not installed for this Python, and perhaps no GLib")
    message = "uringloop.glib: PyGObject uses another GLib than libglib-2.0.so.0"
    assert messages(tmp_path) == [message] * 4


def test_a_missing_pygobject_is_reported(tmp_path):
    script = (
        "import sys\nsys.modules['gi'] = None\n" + FAKE_PYGOBJECT[FAKE_PYGOBJECT.index("import uringloop") :]
    )
    message = "uringloop.glib needs PyGObject: pip install PyGObject, or the package python3-gi"
    assert messages(tmp_path, script) == [message] * 4
